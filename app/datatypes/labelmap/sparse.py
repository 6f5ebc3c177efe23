"""Sparse volumes of bodies and supervoxels, put together from the index and the blocks it names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.errors import TooLarge
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.labelmap import blocks, keys
from app.datatypes.labelmap.blocks import U8
from app.datatypes.labelmap.keys import U64, Counts
from app.formats import compression, sparse_volumes
from app.formats.nanovdb import IndexGrid
from app.kernels import leaves, masks, runs
from app.kernels.arrays import Shape
from app.kernels.places import unique
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

I64 = npt.NDArray[np.int64]

#: Blocks fetched and unpacked at once: bounds the memory of a large body.
BATCH = 512
#: Blocks so few are worked on by one thread: handing them to several would take as long.
FEW_BLOCKS = 8
#: An answer that grows beyond so many bytes is streamed.
HELD_BYTES = 64 << 20

Kernel = Callable[..., Any]
Answer = bytes | AsyncIterator[bytes]


@dataclass(frozen=True)
class Bounds:
    """Voxel coordinates x, y, z of a scale, both ends included; None where there is no bound."""

    low: tuple[int | None, int | None, int | None] = (None, None, None)
    high: tuple[int | None, int | None, int | None] = (None, None, None)

    @property
    def is_open(self) -> bool:
        """Whether nothing is bounded."""
        return self.low == self.high == (None, None, None)

    @property
    def zyx(self) -> tuple[Shape, Shape]:
        """The first and the last voxel as z, y, x, with the far ends of `runs.OPEN` where there is no bound."""
        low, high = (
            tuple(far if given is None else given for given, far in zip(reversed(ends), all_of, strict=True))
            for ends, all_of in zip((self.low, self.high), runs.OPEN, strict=True)
        )
        return low, high  # type: ignore[return-value]

    def select(self, blocks_zyx: I64, shape: Shape) -> npt.NDArray[np.bool_]:
        """Which blocks (n, 3 as z, y, x) of a shape meet the bounds."""
        chosen = np.ones(len(blocks_zyx), bool)
        for axis in range(3):
            column, side = blocks_zyx[:, 2 - axis], shape[2 - axis]
            low, high = self.low[axis], self.high[axis]
            if low is not None:
                chosen &= column >= low // side
            if high is not None:
                chosen &= column <= high // side
        return chosen

    def within(self, blocks_zyx: I64, shape: Shape) -> I64:
        """The blocks that meet the bounds."""
        return blocks_zyx if self.is_open else blocks_zyx[self.select(blocks_zyx, shape)]


def blocks_at(entries: Counts, scale: int) -> I64:
    """The blocks of a scale in which supervoxels may have voxels: int64 (n, 3) as z, y, x, sorted."""
    return unique(entries.blocks >> scale if scale else entries.blocks)


def supervoxels_of(entries: Counts) -> U64:
    """The supervoxels that index entries are of, ascending."""
    labels = entries.supervoxels
    if labels[0] == labels[-1] and (labels == labels[0]).all():
        return labels[:1]
    return np.unique(labels)


@dataclass(frozen=True)
class Voxels:
    """The voxels of some supervoxels (ascending) in some blocks (n, 3 as z, y, x, sorted) of a scale."""

    data: Data
    snapshot: Snapshot
    scale: int
    supervoxels: U64
    places: I64

    async def each(self, kernel: Kernel, workers: Workers, start: int = 0) -> AsyncIterator[tuple[int, list[Any]]]:
        """What a kernel makes of the blocks, batch by batch in their order, and the number of blocks done so far.

        `kernel(blocks, places, shape, supervoxels)` gets rows of neighbouring blocks whole. Blocks that are not
        stored are left out: at coarser scales a body may have none left.
        """
        shape, wanted = voxels.block_shape(self.data), self.supervoxels
        while start < len(self.places):
            end = self._end(start, start + BATCH)
            part = self.places[start:end]
            names = [keys.block(self.scale, zyx) for zyx in map(tuple, part.tolist())]
            stored = await self.snapshot.get_many(names)
            known: list[U8 | None] = [self.snapshot.recall(name, "block") for name in names]

            def work(first: int, last: int) -> tuple[Any, list[U8 | None]]:
                found = [_unpacked(*both) for both in zip(stored[first:last], known[first:last], strict=True)]  # noqa: B023
                there = [k for k, block in enumerate(found) if block is not None]
                chosen = [block for block in found if block is not None]
                return kernel(chosen, part[first:last][there], shape, wanted), found  # noqa: B023

            done = await self._spread(work, start, end, workers)
            for name, before, block in zip(names, known, [b for _, found in done for b in found], strict=True):
                if before is None and block is not None:
                    self.snapshot.remember(name, "block", block, block.nbytes)
            start = end
            yield end, [answer for answer, _ in done]

    async def _spread(self, work: Kernel, start: int, end: int, workers: Workers) -> list[tuple[Any, list[U8 | None]]]:
        """Do a batch in as many parts as there are threads."""
        count = end - start
        if count <= FEW_BLOCKS:
            return [await workers.run(work, 0, count)]
        cuts = [0]
        while cuts[-1] < count:
            cuts.append(self._end(start + cuts[-1], start + cuts[-1] + -(-count // workers.threads)) - start)
            cuts[-1] = min(cuts[-1], count)
        return await workers.map(work, list(pairwise(cuts)))

    def _end(self, start: int, end: int) -> int:
        """The first place from `end` on where a row of blocks ends."""
        places = self.places
        if end >= len(places):
            return len(places)
        row = places[end - 1, :2]
        rest = (places[end:, :2] != row).any(axis=1)
        return end + int(rest.argmax()) if rest.any() else len(places)


def _unpacked(stored: bytes | None, known: U8 | None) -> U8 | None:
    if known is not None or stored is None:
        return known
    return blocks.unpack(stored)


async def bare_runs(found: Voxels, bounds: Bounds, workers: Workers) -> Answer:
    """The form `srles`: runs only. `bounds` are exact; all bytes at once, or pieces of what is too long for that."""
    return await _gathered(_encoded(found, _runs_kernel(bounds), workers))


async def legacy_runs(found: Voxels, bounds: Bounds, compressed: str, workers: Workers, limit_bytes: int) -> Answer:
    """The form `rles`: header and runs; `compressed` is one of none, lz4, gzip."""
    kernel = _runs_kernel(bounds)
    held: list[bytes] = []
    size, done = 0, 0
    async for blocks_done, parts in found.each(kernel, workers):
        done = blocks_done
        held += [sparse_volumes.encode_bare_runs(part) for part in parts]
        size = sum(map(len, held))
        if size > (limit_bytes if compressed == "lz4" else HELD_BYTES):
            break
    if done == len(found.places):
        body = b"".join([sparse_volumes.header(size // sparse_volumes.RUN_BYTES), *held])
        if compressed in ("lz4", "gzip"):
            return await workers.run(compression.lz4 if compressed == "lz4" else compression.gzip, body)
        return body
    if compressed == "lz4":
        raise TooLarge("so large a sparse volume cannot be compressed with LZ4; ask for gzip, or for less of it")
    # The header says how many runs there are: count the rest first, and make it when it is sent.
    count = size // sparse_volumes.RUN_BYTES
    async for _, numbers in found.each(_count_kernel(bounds), workers, done):
        count += sum(numbers)

    async def pieces() -> AsyncIterator[bytes]:
        yield sparse_volumes.header(count)
        while held:
            yield held.pop(0)
        async for piece in _encoded(found, kernel, workers, done):
            yield piece

    return _gzipped(pieces(), workers) if compressed == "gzip" else pieces()


async def binary_blocks(found: Voxels, label: int, workers: Workers) -> Answer:
    """The form `blocks`: a header, then for each block its first voxel and a mask; nothing if no block has voxels."""
    gz, gy, gx = (side // 8 for side in voxels.block_shape(found.data))
    header = np.array([gx, gy, gz], "<u4").tobytes() + np.array([label], "<u8").tobytes()

    async def pieces() -> AsyncIterator[bytes]:
        is_first = True
        async for _, parts in found.each(masks.binary_blocks, workers):
            for part in parts:
                if part.size:
                    if is_first:
                        yield header
                    is_first = False
                    yield part.tobytes()

    return await _gathered(pieces())


async def index_grid(found: Voxels, name: str, voxel_size: Sequence[float], workers: Workers, most: int) -> IndexGrid:
    """The voxels as a grid of NanoVDB of at most so many bytes; `voxel_size` is x, y, z of scale 0."""
    corners: list[npt.NDArray[np.int32]] = []
    bits: list[U64] = []
    async for _, parts in found.each(leaves.leaves_of_blocks, workers):
        corners += [part[0] for part in parts]
        bits += [part[1] for part in parts]
        if sum(part.nbytes for part in bits) > most:
            raise TooLarge(f"the grid would have more than {most} bytes; ask for a coarser scale")
    size = [side * (1 << found.scale) for side in voxel_size]
    return await workers.run(IndexGrid, name, np.concatenate(corners), np.concatenate(bits), size, most)


def _runs_kernel(bounds: Bounds) -> Kernel:
    ends = bounds.zyx
    return lambda chosen, places, shape, wanted: runs.runs_of_blocks(chosen, places, shape, wanted, ends)


def _count_kernel(bounds: Bounds) -> Kernel:
    ends = bounds.zyx
    return lambda chosen, places, shape, wanted: runs.count_runs_of_blocks(chosen, places, shape, wanted, ends)


async def _encoded(found: Voxels, kernel: Kernel, workers: Workers, start: int = 0) -> AsyncIterator[bytes]:
    async for _, parts in found.each(kernel, workers, start):
        for part in parts:
            yield sparse_volumes.encode_bare_runs(part)


async def _gathered(pieces: AsyncIterator[bytes]) -> Answer:
    """All pieces as one, if they are not too long; else the pieces."""
    held: list[bytes] = []
    size = 0
    async for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size > HELD_BYTES:
            return _continued(held, pieces)
    return held[0] if len(held) == 1 else b"".join(held)


async def _gzipped(pieces: AsyncIterator[bytes], workers: Workers) -> AsyncIterator[bytes]:
    stream = compression.GzipStream()
    async for piece in pieces:
        if packed := await workers.run(stream.add, piece):
            yield packed
    yield stream.end()


async def _continued(held: Sequence[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in held:
        yield piece
    async for piece in rest:
        yield piece
