"""The channels at a version as chunks in files, each with all channels of one block."""

from __future__ import annotations

import numpy as np

from app.core.geometry import Box
from app.core.pyramid import Level, Pyramid, levels
from app.core.work import Workers
from app.datatypes.chunks import voxel_size
from app.datatypes.imageblk import blocks
from app.datatypes.imageblk.kinds import Image
from app.datatypes.multichan16 import kept
from app.datatypes.multichan16.kept import Channels
from app.formats import compression
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot


class ChannelChunks:
    """Chunks that are blocks. Those of precomputed and of zarr hold the same: x fastest, channels slowest."""

    encoding = "raw"

    def __init__(self, data: Data, snapshot: Snapshot, workers: Workers, found: Channels | None) -> None:
        self._data = data
        self._snapshot = snapshot
        self._workers = workers
        self._found = found
        self.channels = len(found.ranges) if found else 1

    async def pyramid(self) -> Pyramid | None:
        """The one scale; None if nothing was loaded yet."""
        found = self._found
        if found is None:
            return None
        last = found.shape[0] - 1, found.shape[1] - 1, found.shape[2] - 1
        image = kept.image_of(self._data, found.dtype)
        scales = levels((0, 0, 0), last, image.block, voxel_size(self._data.instance.settings), 1)
        return Pyramid(found.dtype, scales, self.channels)

    async def level(self, scale: int) -> Level | None:
        """One scale; None if there is no such scale, or nothing was loaded yet."""
        pyramid = await self.pyramid()
        return pyramid.levels[scale] if pyramid is not None and scale < len(pyramid.levels) else None

    async def precomputed(self, scale: int, box: Box, in_gzip: bool) -> bytes | memoryview | None:
        """The chunk of one block; None if its voxels are 0 in all channels."""
        return await self._chunk(box, in_gzip)

    async def zarr(self, scale: int, box: Box) -> bytes | memoryview | None:
        """The gzip of the chunk of one block; None if its voxels are 0 in all channels."""
        return await self._chunk(box, True)

    async def _chunk(self, box: Box, in_gzip: bool) -> bytes | None:
        assert self._found is not None
        image = kept.image_of(self._data, self._found.dtype)
        place = box.blocks(image.block).start
        stored = await self._snapshot.get_many([kept.key(number, place) for number in self._found.numbers])
        if not any(stored):
            return None
        return await self._workers.run(_joined, stored, image, in_gzip)


def _joined(stored: list[bytes | None], image: Image, in_gzip: bool) -> bytes:
    """The voxels of a block, channel after channel."""
    dense = np.zeros((len(stored), *image.block), image.kind.dtype)
    for channel, value in zip(dense, stored, strict=True):
        if value is not None:
            blocks.unpack(value, image, channel)
    return compression.gzip(blocks.flat(dense)) if in_gzip else dense.tobytes()
