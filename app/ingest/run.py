"""The work itself: slabs read, padded, written; several at a time, each noted when it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from app.core.geometry import Box
from app.ingest.plan import Plan
from app.ingest.progress import Extents, Progress
from app.ingest.sources import Source
from app.ingest.target import Array, Target, as_voxels, voxel_type


async def run(
    source: Source, target: Target, plan: Plan, progress: Progress, *, jobs: int, advance: Callable[[int], None]
) -> int:
    """Write all slabs that are not done yet, and return how many that were. `advance` is told of voxels written."""
    if progress.is_new:
        await progress.begin(await target.extents())
    for index in progress.done:
        advance(plan.inside(plan.slabs[index]).count)
    todo = iter([index for index in range(len(plan.slabs)) if index not in progress.done])
    written = 0

    async def work() -> None:
        nonlocal written
        for index in todo:
            await _write(source, target, plan, plan.slabs[index], progress.before)
            await progress.finished(index)
            written += 1
            advance(plan.inside(plan.slabs[index]).count)

    workers = [asyncio.create_task(work()) for _ in range(max(1, jobs))]
    try:
        await asyncio.gather(*workers)
        await target.set_extents(_joined(progress.before, plan.volume))
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await progress.save()
    return written


async def _write(source: Source, target: Target, plan: Plan, slab: Box, before: Extents | None) -> None:
    inside = plan.inside(slab)
    origin = plan.volume.start
    back = (-origin[0], -origin[1], -origin[2])
    found = await asyncio.to_thread(source.read, inside.shift(back))
    voxels = await asyncio.to_thread(as_voxels, found, target.typename)
    del found
    was_empty = before is None
    if inside != slab:
        voxels = await _padded(target, slab, inside, voxels, was_empty)
    if was_empty and not voxels.any():
        return  # what was never written is zero anyway
    await target.write(slab, voxels)


async def _padded(target: Target, slab: Box, inside: Box, voxels: Array, was_empty: bool) -> Array:
    """Whole blocks: around the volume there are zeros, or what other ingests left there."""
    whole = np.zeros(slab.shape, voxel_type(target.typename)) if was_empty else await target.read(slab)
    start = slab.start
    whole[inside.shift((-start[0], -start[1], -start[2])).slices()] = voxels
    return whole


def _joined(before: Extents | None, volume: Box) -> Extents:
    """The true extents: of the volume, and of what was there before."""
    low, high = [*volume.start[::-1]], [side - 1 for side in volume.stop[::-1]]
    if before is None:
        return low, high
    return list(map(min, low, before[0])), list(map(max, high, before[1]))
