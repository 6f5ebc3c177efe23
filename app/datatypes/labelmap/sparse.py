"""Sparse volumes of bodies and supervoxels, put together from the index and the blocks it names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.core.geometry import Triple
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.labelmap import blocks
from app.datatypes.labelmap.blocks import U8
from app.datatypes.labelmap.keys import Counts
from app.datatypes.labelmap.mapping import IDENTITY
from app.formats.sparse_volumes import I32
from app.kernels import masks, runs
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

#: Blocks fetched and unpacked at once: bounds the memory of a large body.
BATCH = 512


@dataclass(frozen=True)
class Bounds:
    """Voxel coordinates x, y, z of a scale, both ends included; None where there is no bound."""

    low: tuple[int | None, int | None, int | None] = (None, None, None)
    high: tuple[int | None, int | None, int | None] = (None, None, None)

    @property
    def is_open(self) -> bool:
        """Whether nothing is bounded."""
        return self.low == self.high == (None, None, None)

    def select(self, blocks_zyx: npt.NDArray[np.int64], shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
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

    def clip(self, found: I32) -> I32:
        """Runs without what lies beyond the bounds."""
        first, last = found[:, 0].astype(np.int64), found[:, 0].astype(np.int64) + found[:, 3] - 1
        if self.low[0] is not None:
            first = np.maximum(first, self.low[0])
        if self.high[0] is not None:
            last = np.minimum(last, self.high[0])
        keep = first <= last
        for axis in (1, 2):
            low, high = self.low[axis], self.high[axis]
            if low is not None:
                keep &= found[:, axis] >= low
            if high is not None:
                keep &= found[:, axis] <= high
        clipped = np.stack([first, found[:, 1], found[:, 2], last - first + 1], axis=1)
        return np.ascontiguousarray(clipped[keep].astype(np.int32))


def blocks_at(entries: Counts, scale: int) -> npt.NDArray[np.int64]:
    """The blocks of a scale in which supervoxels may have voxels: int64 (n, 3) as z, y, x, sorted."""
    return np.unique(entries.blocks >> scale, axis=0)


async def voxel_runs(
    data: Data, snapshot: Snapshot, entries: Counts, scale: int, bounds: Bounds, exact: bool, workers: Workers
) -> I32:
    """The runs of supervoxels at a scale: int32 (n, 4) of x, y, z, length, sorted by z, y, x and joined.

    `exact` clips to the bounds; otherwise whole blocks that meet them are kept.
    """
    wanted = np.unique(entries.supervoxels)
    found: list[I32] = []
    async for places, unpacked in _batches(data, snapshot, entries, scale, bounds):
        items: list[tuple[object, ...]] = [
            (block, wanted, place) for place, block in zip(places, unpacked, strict=True)
        ]
        found += await workers.map(runs.block_runs, items)
    everything = np.concatenate(found) if found else np.empty((0, 4), np.int32)
    if exact and not bounds.is_open:
        everything = bounds.clip(everything)
    return await workers.run(runs.join_runs, everything)


async def binary_blocks(
    data: Data, snapshot: Snapshot, entries: Counts, label: int, scale: int, bounds: Bounds, workers: Workers
) -> bytes:
    """The form `blocks`: a header, then for each block its first voxel and a mask; nothing if no block has voxels."""
    wanted = np.unique(entries.supervoxels)
    parts: list[bytes] = []
    async for places, unpacked in _batches(data, snapshot, entries, scale, bounds):
        items: list[tuple[object, ...]] = [(block, wanted) for block in unpacked]
        for (z, y, x), mask in zip(places, await workers.map(masks.block_mask, items), strict=True):
            if mask[0]:
                parts.append(np.array([x, y, z], "<i4").tobytes() + mask.tobytes())
    if not parts:
        return b""
    gz, gy, gx = (side // 8 for side in voxels.block_shape(data))
    header = np.array([gx, gy, gz], "<u4").tobytes() + np.array([label], "<u8").tobytes()
    return header + b"".join(parts)


async def _batches(
    data: Data, snapshot: Snapshot, entries: Counts, scale: int, bounds: Bounds
) -> AsyncIterator[tuple[list[Triple], list[U8]]]:
    """Blocks in batches: (first voxels z, y, x; unpacked blocks), those that exist."""
    shape = voxels.block_shape(data)
    places = blocks_at(entries, scale)
    places = places[bounds.select(places, shape)]
    for start in range(0, len(places), BATCH):
        zyxs = [(z, y, x) for z, y, x in places[start : start + BATCH].tolist()]
        unpacked = await blocks.fetch_unpacked(snapshot, scale, zyxs, IDENTITY)
        there = [
            ((z * shape[0], y * shape[1], x * shape[2]), block)
            for (z, y, x), block in zip(zyxs, unpacked, strict=True)
            if block is not None
        ]
        yield [place for place, _ in there], [block for _, block in there]
