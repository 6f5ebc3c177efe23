"""The index entries that the voxels of scale 0 amount to, sorted by supervoxel in bounded memory.

Blocks are counted in their own order; sorted parts of the entries go to files, and come back one range of supervoxels
at a time (an external sort).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.errors import StoreUnavailable
from app.core.geometry import MAX_COORDINATE, Triple, block_key
from app.core.work import Workers
from app.datatypes.labelmap import blocks, index, keys
from app.datatypes.labelmap.keys import U64, Counts
from app.kernels import label_block
from app.versioning.snapshot import Snapshot

I32 = npt.NDArray[np.int32]

#: Blocks fetched and counted together.
TOGETHER = 256
#: Entries of one sorted part, 36 bytes each in memory.
PART_ROWS = 1 << 21
#: One in so many entries of a part says how its supervoxels are spread.
SAMPLE = 256
#: More planes of blocks than this are listed at once: extents can be anything that a client says.
MOST_PLANES = 1 << 16
_LAST = (1 << 64) - 1


async def places(snapshot: Snapshot, scale: int, planes: tuple[int, int] | None) -> I32:
    """The blocks that are stored at a scale, int32 (n, 3) as z, y, x in the order of their keys.

    `planes` are the first and last z where most of them lie: keys are listed plane by plane there.
    """
    low, high = -MAX_COORDINATE, MAX_COORDINATE
    cuts = [low, high]
    if planes is not None and 0 <= planes[1] - planes[0] < MOST_PLANES:
        cuts[1:1] = range(planes[0], planes[1] + 2)
    parts = [np.empty((0, 3), np.int32)]
    for first, end in pairwise(cuts):
        start, stop = _plane_key(scale, first), _plane_key(scale, end)
        names = await snapshot.keys(start, stop)
        if names:
            table = np.frombuffer(b"".join(name[-12:] for name in names), ">u4").reshape(-1, 3)
            parts.append((table.astype(np.int64) - MAX_COORDINATE).astype(np.int32))
    return np.concatenate(parts)


def _plane_key(scale: int, z: int) -> bytes:
    prefix = keys.block(scale, (0, 0, 0))[:-12]
    return prefix + block_key((z, -MAX_COORDINATE, -MAX_COORDINATE)) if z < MAX_COORDINATE else prefix + b"\xff" * 13


async def stored_blocks(
    snapshot: Snapshot, scale: int, zyxs: I32, together: int = TOGETHER
) -> AsyncIterator[tuple[list[Triple], list[bytes | None]]]:
    """Blocks and their bytes, some at a time; the next are on their way while the last are worked on."""

    async def fetch(some: list[Triple]) -> list[bytes | None]:
        return await snapshot.read([keys.block(scale, zyx) for zyx in some])

    batches: list[list[Triple]] = [
        [(z, y, x) for z, y, x in zyxs[start : start + together].tolist()] for start in range(0, len(zyxs), together)
    ]
    coming = asyncio.create_task(fetch(batches[0])) if batches else None
    for number, batch in enumerate(batches):
        assert coming is not None
        found = await coming
        coming = asyncio.create_task(fetch(batches[number + 1])) if number + 1 < len(batches) else None
        yield batch, found


def count_block(stored: bytes, shape: Triple) -> tuple[U64, npt.NDArray[np.uint32]] | str:
    """The labels of a stored block and their voxels, or what is wrong with its bytes."""
    try:
        block = blocks.unpack(stored)
        label_block.check(block, shape)
    except (StoreUnavailable, ValueError) as error:
        return str(error)
    return label_block.counts(block)


class Recount:
    """Entries counted in voxels. `folder` takes the sorted parts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[Counts] = []
        self._rows = 0
        self._parts: list[tuple[U64, I32, npt.NDArray[np.uint32]]] = []
        self._samples: list[U64] = []
        #: Blocks whose bytes cannot be read, and why.
        self.damaged: list[tuple[Triple, str]] = []
        self.largest = 0
        self.total = 0

    async def read(
        self, snapshot: Snapshot, zyxs: I32, shape: Triple, workers: Workers, advance: Callable[[int], None]
    ) -> None:
        """Count the blocks of scale 0. `advance` is told of blocks done."""
        async for batch, stored in stored_blocks(snapshot, 0, zyxs):
            items: list[tuple[object, ...]] = [(value, shape) for value in stored if value is not None]
            answers = iter(await workers.map(count_block, items))
            found = [(zyx, next(answers)) for zyx, value in zip(batch, stored, strict=True) if value is not None]
            self.damaged += [(zyx, answer) for zyx, answer in found if isinstance(answer, str)]
            self._take(index.entries_of([(zyx, *answer) for zyx, answer in found if not isinstance(answer, str)]))
            if self._rows >= PART_ROWS:
                await workers.run(self._sort)
            advance(len(batch))
        await workers.run(self._sort)

    def _take(self, rows: Counts) -> None:
        self._waiting.append(rows)
        self._rows += len(rows)
        self.total += len(rows)
        self.largest = max(self.largest, int(rows.supervoxels.max(initial=0)))

    def _sort(self) -> None:
        """Write what was counted since the last time as one sorted part."""
        if not self._rows:
            return
        rows = Counts.joined(self._waiting)
        self._waiting, self._rows = [], 0
        order = np.argsort(rows.supervoxels, kind="stable")  # within a supervoxel blocks are in order already
        sorted_rows = rows[order]
        columns = sorted_rows.supervoxels, sorted_rows.blocks.astype(np.int32), sorted_rows.voxels
        supervoxels, zyxs, voxels = (self._on_disk(column) for column in columns)
        self._parts.append((supervoxels, zyxs, voxels))
        self._samples.append(sorted_rows.supervoxels[::SAMPLE].copy())

    def _on_disk(self, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        name = self._folder / f"{len(self._parts)}-{column.dtype}"
        column.tofile(name)
        return np.memmap(name, column.dtype, "r", shape=column.shape)

    def ranges(self, rows: int) -> list[tuple[int, int]]:
        """Ranges of supervoxels (first and last) that cover all numbers, with about so many entries in each."""
        spread = np.sort(np.concatenate(self._samples)) if self._samples else np.empty(0, np.uint64)
        cuts = np.unique(spread[max(1, rows // SAMPLE) :: max(1, rows // SAMPLE)]).tolist()
        return list(zip([0, *cuts], [*[cut - 1 for cut in cuts], _LAST], strict=True))

    def counted(self, supervoxels: U64) -> U64:
        """Those of some supervoxels that have voxels."""
        is_there = np.zeros(len(supervoxels), bool)
        for column, _, _ in self._parts:
            places = np.minimum(np.searchsorted(column, supervoxels), len(column) - 1)
            is_there |= column[places] == supervoxels
        found: U64 = supervoxels[is_there]
        return found

    def between(self, first: int, last: int) -> Counts:
        """The entries of a range of supervoxels, sorted by supervoxel, z, y, x."""
        parts = [Counts.of_keys([])]
        for supervoxels, zyxs, voxels in self._parts:
            low = int(np.searchsorted(supervoxels, np.uint64(first), "left"))
            high = int(np.searchsorted(supervoxels, np.uint64(last), "right"))
            parts.append(
                Counts(np.array(supervoxels[low:high]), zyxs[low:high].astype(np.int64), np.array(voxels[low:high]))
            )
        rows = Counts.joined(parts)
        return rows[np.argsort(rows.supervoxels, kind="stable")]
