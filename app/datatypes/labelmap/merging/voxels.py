"""The voxels of a version merge: blocks that one side wrote are taken, blocks of both are joined voxel by voxel."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.core.geometry import Triple
from app.core.work import Workers
from app.datatypes.labelmap import blocks, keys, mapping, write
from app.datatypes.labelmap.keys import U64
from app.datatypes.labelmap.merging import NOBODY, Conflicts
from app.datatypes.labelmap.write import Prepared
from app.datatypes.voxels import block_shape
from app.kernels import label_block
from app.versioning.merge import Settling, Sides

#: Blocks joined at a time.
TOGETHER = 32


@dataclass(frozen=True)
class Mixed:
    """A block that both sides wrote: what it holds now, and the labels and counts of what the target held.

    `ours` and `theirs` are the labels that the target and the side painted in it.
    """

    block: Prepared
    before: tuple[U64, npt.NDArray[np.uint32]] | None
    ours: U64
    theirs: U64


async def join(sides: Sides, conflicts: Conflicts) -> list[Mixed]:
    """Bring the side's voxels in, of all scales; the blocks of scale 0 that had to be joined."""
    both: dict[int, dict[Triple, bytes]] = {}
    for key in sides.changes:
        place = keys.parse_block(key)
        if place is None:
            continue
        if key in sides.clashes:
            scale, zyx = place
            both.setdefault(scale, {})[zyx] = key
        else:
            sides.take(key)
    mixed: list[Mixed] = []
    workers = Workers()
    try:
        for scale in sorted(both):
            found = await _join_scale(sides, scale, both[scale], conflicts)
            if scale == 0:
                mixed = found
        await _reduce(sides, mixed, workers)
    finally:
        workers.close()
    return mixed


async def _join_scale(sides: Sides, scale: int, places: Mapping[Triple, bytes], conflicts: Conflicts) -> list[Mixed]:
    shape = block_shape(sides.data)
    applied = [await mapping.load(reader) for reader in (sides.base, sides.target, sides.side)]
    mixed: list[Mixed] = []
    names = list(places.items())
    for start in range(0, len(names), TOGETHER):
        some = names[start : start + TOGETHER]
        listed = [key for _, key in some]
        stored = [await reader.get_many(listed) for reader in (sides.base, sides.target, sides.side)]
        for (zyx, key), base, ours, theirs in zip(some, *stored, strict=True):
            if theirs in (ours, base):
                continue
            if ours == base:
                sides.take(key)
                continue
            dense, clash, painted = await asyncio.to_thread(_joined, shape, base, ours, theirs, sides.settling)
            block = await asyncio.to_thread(write.prepare_dense, zyx, dense, 0)
            sides.target.put(key, block.stored)
            if scale == 0:  # coarser voxels follow
                for labels, applied_to in zip(clash, applied, strict=True):
                    conflicts.painted.update(applied_to.apply(labels).tolist())
                before = None if ours is None else label_block.counts(blocks.unpack(ours))
                mixed.append(Mixed(block, before, *painted))
    conflicts.painted.discard(0)
    return mixed


def _joined(
    shape: Triple, base: bytes | None, ours: bytes | None, theirs: bytes | None, settling: Settling
) -> tuple[U64, list[U64], list[U64]]:
    """The voxels of a block; the labels of voxels in conflict: in the base, and where it has none on both sides; and
    the labels that both sides painted."""
    was, our, their = (_dense(shape, stored) for stored in (base, ours, theirs))
    clash = (our != was) & (their != was) & (our != their)
    out = np.where((their != was) & ~clash, their, our)
    if settling is Settling.MARK:
        out[clash] = NOBODY
    fresh = clash & (was == 0)
    in_conflict = [np.unique(was[clash]), np.unique(our[fresh]), np.unique(their[fresh])]
    return out, in_conflict, [np.unique(our[our != was]), np.unique(their[their != was])]


def _dense(shape: Triple, stored: bytes | None) -> U64:
    if stored is None:
        return np.zeros(shape, np.uint64)
    out = np.empty(shape, np.uint64)
    label_block.decode(blocks.unpack(stored), out)
    return out


async def _reduce(sides: Sides, mixed: list[Mixed], workers: Workers) -> None:
    """Compute the joined blocks' parts of the coarser scales, where the target has these."""
    shape, most = block_shape(sides.data), sides.data.instance.settings["max_scale"]
    if not mixed or not most:
        return
    prepared = []
    for each in mixed:
        zyx = each.block.zyx
        above = [keys.block(level, tuple(a >> level for a in zyx)) for level in range(1, most + 1)]  # type: ignore[arg-type]
        present = await sides.target.get_many(above)
        levels = next((level for level, stored in enumerate(present) if stored is None), most)
        dense = _dense(shape, each.block.stored)
        prepared.append(await workers.run(write.prepare_dense, zyx, dense, levels))
    await write.store_reduced(sides.target, prepared, shape, workers)
