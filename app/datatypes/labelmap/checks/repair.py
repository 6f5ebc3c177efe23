"""Make the index what the voxels say, beside servers that go on writing.

Entries are rewritten in the order of their keys, some supervoxels in each mutation. A mutation sees which blocks were
written since the voxels were counted (the log names them) and leaves their entries to a further round; all others it
may replace, whatever has happened to them meanwhile: only writes of blocks change what an entry should be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.core.errors import Conflict, DvidError
from app.core.geometry import Box
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.labelmap import counters, deltas, groups, index, keys, touched
from app.datatypes.labelmap.checks import forest
from app.datatypes.labelmap.checks.verify import Check, Progress, outside_extents, recounted
from app.datatypes.labelmap.keys import Counts
from app.versioning import log
from app.versioning.datastore import Data
from app.versioning.log import SEQUENCE, Record
from app.versioning.mutations import Mutation

APP = "dvid-cloud-reindex"
#: Entries that one mutation rewrites: others wait for as long as its commit takes.
MUTATION_ROWS = 50_000
#: Rounds after which writers that never rest are too many.
ROUNDS = 10


@dataclass
class Repaired:
    """What a repair changed."""

    entries: int = 0
    tables: int = 0
    rounds: int = 0


async def repair(data: Data, workers: Workers, progress: Progress, *, by_admin: bool = False) -> Repaired:
    """Count the voxels and rewrite the index, the tables of groups, largest label and extents where they differ."""
    done = Repaired()
    while done.rounds < ROUNDS:
        done.rounds += 1
        async with recounted(data, workers, progress) as check:
            late = await _rewrite(check, progress, done, by_admin) if check.is_indexed else 0
            await _finish(check, done, by_admin)
        if not late:
            return done
    raise Conflict(f"after {ROUNDS} rounds blocks are still being written as quickly as they can be counted")


async def _rewrite(check: Check, progress: Progress, done: Repaired, by_admin: bool) -> int:
    """Rewrite the entries that are wrong; how many must wait for another round."""
    late = 0
    async for wrong in check.wrong_entries(progress):
        for start in range(0, len(wrong.rows), MUTATION_ROWS):
            rows = wrong.rows[np.arange(start, min(start + MUTATION_ROWS, len(wrong.rows)))]
            rewritten = await _rewrite_some(check, rows, by_admin)
            done.entries += rewritten
            late += len(rows) - rewritten
    return late


async def _rewrite_some(check: Check, wanted: Counts, by_admin: bool) -> int:
    data = check.data
    mutation_id = await data.mutation_id()

    async def change(mutation: Mutation) -> int:
        rows = wanted[~np.isin(_blocks(wanted.blocks), _blocks(await _written(check, mutation)))]
        if len(rows):
            first, last = int(rows.supervoxels.min()), int(rows.supervoxels.max())
            deltas.replace(mutation, await mutation.keys(*keys.supervoxels(first, last)), rows)
            await deltas.restart(mutation, without=rows)
            await index.adopt(mutation, np.unique(rows.supervoxels[rows.voxels > 0]), mutation_id)
        mutation.record(_record(data, mutation_id, entries=len(rows)))
        return len(rows)

    return await data.mutate(change, by_admin=by_admin)


async def _written(check: Check, mutation: Mutation) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """The blocks written since the voxels were counted."""
    last = log.sequence_of(await mutation.get(SEQUENCE))
    return await touched.between(mutation, check.sequence, last)


def _blocks(zyxs: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Blocks as values that can be compared."""
    table = np.ascontiguousarray(zyxs, np.int64)
    return table.view(np.dtype((np.void, 24)))[:, 0]


def _record(data: Data, mutation_id: int, **arguments: int) -> Record:
    return Record("reindex", data.home.uuid, mutation_id, "", APP, arguments)


async def _finish(check: Check, done: Repaired, by_admin: bool) -> None:
    """Tables of groups, retired supervoxels that are painted, turns, largest label, extents."""
    data = check.data
    painted = check.recount.counted(forest.retired(check.tables)).tolist()
    adopting = int(check.tables.fixed[:, 1].max(initial=0))  # what posted mappings name may have become a body
    largest = max(check.recount.largest, forest.largest(check.tables), adopting)
    outside = await outside_extents(check)
    if largest:
        await counters.see(data, largest)
    mutation_id = await data.mutation_id()

    async def change(mutation: Mutation) -> int:
        changed = forest.repair(mutation, await forest.read(mutation)) + await _mend_turns(mutation)
        if changed:
            await groups.stage_turn(mutation, {})
        if not await deltas.is_whole(mutation):
            await deltas.restart(mutation, without=Counts.of_keys([]))
            changed += 1
        written = _blocks(await _written(check, mutation))
        safe = [
            label
            for label in painted
            if not np.isin(_blocks(check.recount.between(label, label).blocks), written).any()
        ]
        if safe:
            await index.adopt(mutation, np.array(safe, np.uint64), mutation_id)
        if largest:
            changed += await counters.raise_max_label(mutation, largest)
        if len(outside):
            low, high = outside.min(axis=0) * check.shape, (outside.max(axis=0) + 1) * check.shape
            await voxels.grow_extents(data, mutation, Box(tuple(low.tolist()), tuple(high.tolist())))
        changed += len(safe) + bool(len(outside))
        if not changed:
            raise _NothingToDo
        mutation.record(_record(data, mutation_id, tables=changed))
        return changed

    try:
        done.tables += await data.mutate(change, by_admin=by_admin)
    except _NothingToDo:
        return


class _NothingToDo(DvidError):
    """Everything is as it should be; no commit is needed."""


async def _mend_turns(mutation: Mutation) -> int:
    """Let turns that are missing say that everything changed."""
    mark = await groups.mark(mutation)
    numbers = range(max(1, mark - groups.TURNS + 1), mark + 1)
    missing = [
        number
        for number, value in zip(numbers, await mutation.get_many([keys.turn(n) for n in numbers]), strict=True)
        if value is None
    ]
    for number in missing:
        mutation.put(keys.turn(number), b"{}")
    return len(missing)
