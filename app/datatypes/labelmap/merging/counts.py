"""The index of a version merge: counts of the voxels that were brought in, and indices that were posted."""

from __future__ import annotations

import numpy as np

from app.datatypes.labelmap import deltas, groups, index, keys
from app.datatypes.labelmap.forest import Forest
from app.datatypes.labelmap.keys import U64, Counts
from app.datatypes.labelmap.merging import Conflicts
from app.datatypes.labelmap.merging.bodies import Change
from app.datatypes.labelmap.merging.voxels import Mixed
from app.versioning.merge import Settling, Sides

_NOBODY_COUNTED = (1 << 32) - 1


async def join(sides: Sides, mixed: list[Mixed], change: Change, conflicts: Conflicts) -> None:
    """Bring the side's changes of the index in, and count the blocks that were joined."""
    changed = [key for key in sides.changes if keys.is_of_index(key)]
    retired = change.ours.retired or change.theirs.retired
    if keys.DELTAS not in sides.clashes and not mixed and not retired:
        for key in changed:  # the other side has counted nothing
            sides.take(key)
    elif changed or retired:
        await _bring(sides, changed, mixed, change, conflicts)
    if mixed:
        rows = [(each.block.zyx, each.block.labels, each.block.voxels, each.before) for each in mixed]
        await index.replace_counts(sides.target, rows, await sides.data.mutation_id())


async def _bring(sides: Sides, changed: list[bytes], mixed: list[Mixed], change: Change, conflicts: Conflicts) -> None:
    retired = [*change.ours.retired, *change.theirs.retired]
    labels = np.union1d(await _changed_labels(sides, changed), np.array(retired, np.uint64))
    base, ours, theirs = [await index.counts(reader, labels) for reader in (sides.base, sides.target, sides.side)]
    joined = np.array([each.block.zyx for each in mixed], np.int64).reshape(-1, 3)
    mine, rows = (_outside(_changes(base, other), joined) for other in (ours, theirs))
    same = np.isin(deltas.rows_as_values(rows), deltas.rows_as_values(mine))
    clash = ~same & np.isin(deltas.places(rows), deltas.places(mine))
    for label in np.unique(rows.supervoxels[clash]).tolist():
        conflicts.counted.add(await groups.body_of(sides.base, label) or label)
    painted = [
        np.unique(np.concatenate([side.supervoxels[side.voxels > 0], *blocks]))
        for side, blocks in ((mine, [each.ours for each in mixed]), (rows, [each.theirs for each in mixed]))
    ]
    await _check_retired(sides, painted, change, conflicts)
    await deltas.add(sides.target, rows[~same & ~clash])
    if sides.settling is Settling.MARK and clash.any():
        marked = rows[clash]
        await deltas.add(
            sides.target, Counts(marked.supervoxels, marked.blocks, np.full(len(marked), _NOBODY_COUNTED, np.uint32))
        )


async def _changed_labels(sides: Sides, changed: list[bytes]) -> U64:
    """The supervoxels whose entries the side changed."""
    entries = [key for key in changed if key.startswith(keys.SV)]
    found = [Counts.of_keys(entries).supervoxels]
    waiting = [key for key in changed if key.startswith(keys.DELTA)]
    for reader in (sides.base, sides.side):
        values = await reader.get_many(waiting)
        found += [deltas.decode(value).supervoxels for value in values if value is not None]
    return np.unique(np.concatenate(found))


def _changes(before: Counts, after: Counts) -> Counts:
    """The rows by which one state becomes another: 0 voxels for an entry that is gone."""
    new = after[~np.isin(deltas.rows_as_values(after), deltas.rows_as_values(before))]
    gone = before[~np.isin(deltas.places(before), deltas.places(after))]
    return Counts.joined([new, Counts(gone.supervoxels, gone.blocks, np.zeros_like(gone.voxels))])


def _outside(rows: Counts, zyxs: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Counts:
    """The rows of other blocks than these."""
    return rows[~np.isin(_blocks(rows.blocks), _blocks(zyxs))]


def _blocks(zyxs: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
    return np.ascontiguousarray(zyxs).view(np.dtype((np.void, 24))).reshape(-1)


async def _check_retired(sides: Sides, painted: list[U64], change: Change, conflicts: Conflicts) -> None:
    """Supervoxels that one side split or retired and the other painted; if that is settled they live again."""
    alive = set[int]()
    ours, theirs = painted
    for retired, labels in ((change.ours.retired, theirs), (change.theirs.retired, ours)):
        for label in set(labels.tolist()) & retired.keys():
            conflicts.retired[retired[label]].add(label)
            alive.add(label)
    if alive:
        forest = Forest(sides.target, await sides.data.mutation_id())
        for label in sorted(alive):
            await forest.revive(label)
        await forest.flush()
