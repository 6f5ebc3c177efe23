"""The bodies or supervoxels of a labelmap at a version, as chunks in files."""

from __future__ import annotations

from app.core.geometry import Box
from app.core.pyramid import Level, Pyramid, levels
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.chunks import voxel_size
from app.datatypes.labelmap import blocks, read
from app.datatypes.labelmap.mapping import Mapping
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot


class LabelChunks:
    """Chunks that are blocks: each is encoded straight from its stored block, and remembered."""

    encoding = "compressed_segmentation"
    channels = 1

    def __init__(self, data: Data, snapshot: Snapshot, mapping: Mapping, workers: Workers, limit_bytes: int) -> None:
        self._data = data
        self._snapshot = snapshot
        self._mapping = mapping
        self._workers = workers
        self._limit_bytes = limit_bytes
        self._block = voxels.block_shape(data)

    async def pyramid(self) -> Pyramid | None:
        """Scales 0 to `MaxDownresLevel` of the version's extents; None if nothing has been written yet."""
        low, high = await voxels.extents(self._data, self._snapshot)
        if low is None or high is None:
            return None
        settings = self._data.instance.settings
        first, last = (low[2], low[1], low[0]), (high[2], high[1], high[0])
        scales = levels(first, last, self._block, voxel_size(settings), settings["max_scale"] + 1)
        return Pyramid("uint64", scales, is_labels=True)

    async def level(self, scale: int) -> Level | None:
        """One scale; None if there is no such scale, or nothing has been written yet."""
        pyramid = await self.pyramid()
        return pyramid.levels[scale] if pyramid is not None and scale < len(pyramid.levels) else None

    async def precomputed(self, scale: int, box: Box, in_gzip: bool) -> bytes | memoryview | None:
        """Compressed segmentation of a box; None if none of its blocks exists.

        A clipped chunk has whole sub-blocks all the same: readers leave out the voxels beyond its bounds.
        """
        z, y, x = (start + -(-side // 8) * 8 for start, side in zip(box.start, box.shape, strict=True))
        return await self._encoded(scale, Box(box.start, (z, y, x)), "googlegzip" if in_gzip else "google")

    async def zarr(self, scale: int, box: Box) -> bytes | memoryview | None:
        """The gzip of a box's labels, uint64 z, y, x; None if none of its blocks exists."""
        return await self._encoded(scale, box, "gzip")

    async def _encoded(self, scale: int, box: Box, compression: str) -> bytes | memoryview | None:
        places = list(box.blocks(self._block).points())
        if not any(await blocks.fetch(self._snapshot, scale, places)):
            return None
        return await read.encoded(
            self._data, self._snapshot, scale, box, self._mapping, compression, self._workers, self._limit_bytes
        )
