"""The voxels of a working image at a version, as chunks in files."""

from __future__ import annotations

import numpy as np

from app.core.geometry import Box
from app.core.pyramid import Level, Pyramid, levels
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.chunks import voxel_size
from app.datatypes.imageblk import blocks
from app.datatypes.imageblk.kinds import Image, image_of
from app.formats import compression, precomputed
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

_CHANNELS = 4
#: Work on so many bytes is done at once; handing less to a thread would take as long.
_FEW_BYTES = 1 << 18


class ImageChunks:
    """Chunks that are blocks; stored blocks pass through where they already are what is wanted.

    Precomputed chunks and those of zarr hold the same bytes: little-endian voxels, x fastest, channels slowest.
    """

    def __init__(self, data: Data, snapshot: Snapshot, workers: Workers) -> None:
        self._data = data
        self._snapshot = snapshot
        self._workers = workers
        self._image = image_of(data)
        self.encoding = "jpeg" if self._image.compression.startswith("jpeg") else "raw"
        self.channels = _CHANNELS if self._image.kind.is_color else 1

    async def pyramid(self) -> Pyramid | None:
        """The one scale of the version's extents; None if nothing has been written yet."""
        low, high = await voxels.extents(self._data, self._snapshot)
        if low is None or high is None:
            return None
        kind = self._image.kind
        first, last = (low[2], low[1], low[0]), (high[2], high[1], high[0])
        scales = levels(first, last, self._image.block, voxel_size(self._data.instance.settings), 1)
        return Pyramid("uint8" if kind.is_color else kind.dtype.name, scales, self.channels)

    async def level(self, scale: int) -> Level | None:
        """One scale; None if there is no such scale, or nothing has been written yet."""
        pyramid = await self.pyramid()
        return pyramid.levels[scale] if pyramid is not None and scale < len(pyramid.levels) else None

    async def precomputed(self, scale: int, box: Box, in_gzip: bool) -> bytes | memoryview | None:
        """The chunk that is one block; None if it was never written."""
        return await self._chunk(box, "jpeg" if self.encoding == "jpeg" else "gzip" if in_gzip else "none")

    async def zarr(self, scale: int, box: Box) -> bytes | memoryview | None:
        """The gzip of a block; None if it was never written."""
        return await self._chunk(box, "gzip")

    async def _chunk(self, box: Box, packed: str) -> bytes | None:
        key = blocks.key(box.blocks(self._image.block).start)
        known: bytes | None = self._snapshot.recall(key, ("chunk", packed))
        if known is not None:
            return known
        stored = await self._snapshot.get(key)
        if stored is None:
            return None
        if self._image.compression.partition(":")[0] == packed and not self._image.kind.is_color:
            return stored
        if self._image.block_bytes <= _FEW_BYTES:
            made = _repacked(stored, self._image, packed)
        else:
            made = await self._workers.run(_repacked, stored, self._image, packed)
        self._snapshot.remember(key, ("chunk", packed), made, len(made))
        return made


def _repacked(stored: bytes, image: Image, packed: str) -> bytes:
    """A stored block as the voxels of a chunk, in gzip if wanted."""
    dense = np.empty(image.block, image.kind.dtype)
    blocks.unpack(stored, image, dense)
    if image.kind.is_color:
        dense = dense.view(np.uint8).reshape(*image.block, _CHANNELS)
    plain = precomputed.raw_chunk(dense)
    return compression.gzip(plain) if packed == "gzip" else plain
