"""A published image as chunks in files: the source's own files if it is precomputed, or its voxels encoded anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import orjson

from app.backends.volumes import Volume
from app.core.errors import Invalid, StoreUnavailable
from app.core.geometry import Box
from app.core.pyramid import Level, Pyramid
from app.core.work import Workers
from app.datatypes.imageblk.kinds import Array, image_of
from app.formats import compression, precomputed
from app.versioning.datastore import Data

_OUT_OF_RANGE = "OUT_OF_RANGE"
#: A long file is read and sent in pieces of so many bytes.
_PIECE_BYTES = 8 << 20

#: The `info` files of open precomputed volumes, which never change.
_infos: WeakKeyDictionary[Volume, Mapping[str, Any]] = WeakKeyDictionary()


class PublishedChunks:
    """The source's scales, from the one that the instance shows. Chunks have the shape that the source gives them."""

    encoding = "raw"
    channels = 1

    def __init__(self, data: Data, workers: Workers) -> None:
        self._source = image_of(data).source
        self._first: int = data.instance.settings["scale_level"]
        self._volumes = data.datastore.volumes
        self._workers = workers

    async def volume(self, scale: int = 0) -> Volume:
        """The source at a scale; `Invalid` if it has no such scale."""
        return await self._volumes.open(self._source, self._first + scale)

    async def pyramid(self) -> Pyramid | None:
        """All scales of the source."""
        first = await self.volume()
        found: list[Level] = []
        while (level := await self.level(len(found))) is not None:
            found.append(level)
        return Pyramid(first.dtype.name, tuple(found))

    async def level(self, scale: int) -> Level | None:
        """One scale; None if the source has no such scale."""
        first = await self.volume()
        if scale == 0:
            return _level(first)
        try:
            found = await self.volume(scale)
        except Invalid:
            return None
        return None if found.key == first.key else _level(found)  # a source without scales is the same at all of them

    async def precomputed(self, scale: int, box: Box, in_gzip: bool) -> bytes | memoryview | None:
        """The raw voxels of a box."""
        volume = await self.volume(scale)
        dense = await volume.read(box)
        return await self._workers.run(_encoded, dense) if in_gzip else precomputed.raw_chunk(dense)

    async def zarr(self, scale: int, box: Box) -> bytes | memoryview | None:
        """The gzip of a whole chunk's voxels, 0 beyond the bounds."""
        volume = await self.volume(scale)
        return await self._workers.run(_encoded, await volume.read(box))

    async def info(self) -> Mapping[str, Any] | None:
        """The source's `info`, from the scale that the instance shows; None if the source is not precomputed."""
        volume = await self.volume()
        if volume.driver != "neuroglancer_precomputed":
            return None
        known = _infos.get(volume)
        if known is None:
            file: dict[str, Any] = orjson.loads(await volume.read_file("info") or b"{}")
            known = _infos[volume] = {**file, "scales": file.get("scales", [])[self._first :]}
        return known

    async def exists(self, file: str) -> bool:
        """Whether the source has a file (with something in it)."""
        volume = await self.volume()
        try:
            return await volume.read_file(file, 0, 1) is not None
        except StoreUnavailable as error:
            if _is_out_of_range(error):
                return True
            raise

    async def read(self, file: str) -> bytes | None:
        """A file of the source; None if it is not there."""
        volume = await self.volume()
        return await volume.read_file(file)

    async def read_part(self, file: str, start: int, stop: int) -> bytes | None:
        """The bytes of a file from `start` up to `stop` or its end; nothing beyond it; None if it is not there."""
        volume = await self.volume()
        for end in (stop, None):  # beyond the end a store refuses; up to the end there is less than was asked for
            try:
                return await volume.read_file(file, start, end)
            except StoreUnavailable as error:
                if not _is_out_of_range(error):
                    raise
        return b""

    async def pieces(self, file: str) -> AsyncIterator[bytes]:
        """A long file, from its beginning to its end."""
        start = 0
        while piece := await self.read_part(file, start, start + _PIECE_BYTES):
            yield piece
            start += len(piece)
            if len(piece) < _PIECE_BYTES:
                return


def _is_out_of_range(error: StoreUnavailable) -> bool:
    return str(error).startswith(_OUT_OF_RANGE)


def _level(volume: Volume) -> Level:
    return Level(volume.bounds, volume.chunk, volume.voxel_size)


def _encoded(dense: Array) -> bytes:
    return compression.gzip(precomputed.raw_chunk(dense))
