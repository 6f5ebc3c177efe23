"""The whole check of a labelmap at one version: everything that follows from the voxels, recomputed and compared."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.labelmap import counters, deltas, groups, keys
from app.datatypes.labelmap.checks import forest, scales
from app.datatypes.labelmap.checks.recount import I32, Recount
from app.datatypes.labelmap.checks.report import Report
from app.datatypes.labelmap.keys import U64, Counts
from app.versioning import log
from app.versioning.datastore import Data
from app.versioning.log import SEQUENCE
from app.versioning.snapshot import Snapshot

#: Index entries compared together.
RANGE_ROWS = 200_000


class Progress(Protocol):
    """Somebody who watches a long work."""

    def begin(self, what: str, total: int) -> None:
        """A part of the work begins: so many steps."""

    def advance(self, steps: int) -> None:
        """Steps of it are done."""


class Silent:
    """Nobody watches."""

    def begin(self, what: str, total: int) -> None:
        """Nothing is shown."""

    def advance(self, steps: int) -> None:
        """Nothing is shown."""


@dataclass(frozen=True)
class Wrong:
    """Index entries that differ from the voxels: what is indexed in rows' places, and the rows as they should be."""

    indexed: npt.NDArray[np.uint64]
    rows: Counts


class Check:
    """A version's state at one moment, and its blocks counted anew. Made by `recounted`."""

    def __init__(self, data: Data, snapshot: Snapshot, tables: forest.Tables, places: list[I32]) -> None:
        self.data = data
        self.snapshot = snapshot
        self.tables = tables
        self.places = places
        self.shape = voxels.block_shape(data)
        self.sequence = 0
        self.recount: Recount
        self.is_indexed: bool = data.instance.settings["indexed"]

    async def wrong_entries(self, progress: Progress) -> AsyncIterator[Wrong]:
        """The index entries that differ from the voxels, in the order of supervoxels."""
        waiting = deltas.latest((await deltas.load(self.snapshot)).all())
        ranges = self.recount.ranges(RANGE_ROWS)
        progress.begin("index", len(ranges))
        for first, last in ranges:
            listed = Counts.of_keys(await self.snapshot.keys(*keys.supervoxels(first, last)))
            late = waiting[_slice(waiting.supervoxels, first, last)]
            yield await asyncio.to_thread(lambda: compare(listed, late, self.recount.between(first, last)))  # noqa: B023
            progress.advance(1)


def _slice(column: U64, first: int, last: int) -> npt.NDArray[np.intp]:
    low = np.searchsorted(column, np.uint64(first), "left")
    high = np.searchsorted(column, np.uint64(last), "right")
    return np.arange(low, high)


@asynccontextmanager
async def recounted(data: Data, workers: Workers, progress: Progress) -> AsyncIterator[Check]:
    """Look at a version as it is now, and count its voxels."""
    snapshot = await data.head(fresh=True)
    low, high = await voxels.extents(data, snapshot)
    shape = voxels.block_shape(data)
    planes = None if low is None or high is None else (low[2] // shape[0], high[2] // shape[0])
    places = await scales.stored_places(snapshot, planes, data.instance.settings["max_scale"])
    check = Check(data, snapshot, await forest.read(snapshot), places)
    check.sequence = log.sequence_of(await snapshot.get(SEQUENCE))
    with tempfile.TemporaryDirectory(prefix="dvid-cloud-") as folder:
        check.recount = Recount(Path(folder))
        progress.begin("blocks", len(places[0]))
        await check.recount.read(snapshot, places[0], shape, workers, progress.advance)
        yield check


async def verify(
    data: Data, workers: Workers, progress: Progress, listener: Callable[..., None] = lambda *_: None
) -> Report:
    """Compare a version with its voxels and report every difference to a listener too. Nothing is changed."""
    report = Report(listener)
    async with recounted(data, workers, progress) as check:
        report.saw("blocks", len(check.places[0]))
        report.saw("entries", check.recount.total)
        for (z, y, x), reason in check.recount.damaged:
            report.fault("blocks", block=[x, y, z], problem=reason)
        if check.is_indexed:
            async for wrong in check.wrong_entries(progress):
                _tell(wrong, report)
        await _compare_deltas(check, report)
        forest.check(check.tables, report)
        _find_retired(check, report)
        await _compare_bounds(check, report)
        progress.begin("scales", sum(map(len, check.places[1:])))
        await scales.check(check.snapshot, check.places, check.shape, workers, report, progress.advance)
    return report


def _tell(wrong: Wrong, report: Report) -> None:
    rows = wrong.rows
    table = zip(
        rows.supervoxels.tolist(), rows.blocks.tolist(), wrong.indexed.tolist(), rows.voxels.tolist(), strict=True
    )
    for supervoxel, (z, y, x), indexed, number in table:
        report.fault("index", supervoxel=supervoxel, block=[x, y, z], indexed=indexed, voxels=number)


def compare(listed: Counts, waiting: Counts, counted: Counts) -> Wrong:
    """Index entries as `sv/` lists them and rows of deltas, which win, against those that were counted."""
    if not len(waiting) and _same(listed, counted):
        return Wrong(np.empty(0, np.uint64), Counts.of_keys([]))
    rows = Counts.joined([listed, waiting, counted])
    source = np.repeat([0, 1, 2], [len(listed), len(waiting), len(counted)])
    z, y, x = rows.blocks.T
    order = np.lexsort((x, y, z, rows.supervoxels))
    rows, source = rows[order], source[order]
    is_first = np.ones(len(rows), bool)
    is_first[1:] = (rows.supervoxels[1:] != rows.supervoxels[:-1]) | (rows.blocks[1:] != rows.blocks[:-1]).any(axis=1)
    starts = np.flatnonzero(is_first)

    def of(kind: int, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        return np.add.reduceat(np.where(source == kind, values, np.uint64(0)), starts)

    sizes, ones = rows.voxels.astype(np.uint64), np.ones(len(rows), np.uint64)
    is_late = of(1, ones) > 0
    indexed = np.where(is_late, of(1, sizes), of(0, sizes))
    found = of(2, sizes)
    is_wrong = (indexed != found) | (~is_late & (of(0, ones) > 1))  # two keys for one place are one too many
    places = rows[starts[is_wrong]]
    return Wrong(indexed[is_wrong], Counts(places.supervoxels, places.blocks, found[is_wrong].astype(np.uint32)))


def _same(one: Counts, other: Counts) -> bool:
    return (
        len(one) == len(other)
        and np.array_equal(one.supervoxels, other.supervoxels)
        and np.array_equal(one.voxels, other.voxels)
        and np.array_equal(one.blocks, other.blocks)
    )


async def _compare_deltas(check: Check, report: Report) -> None:
    """The waiting changes of the index, and those of the mapping, must all be there."""
    if not await deltas.is_whole(check.snapshot):
        report.fault("deltas", problem="waiting changes of the index are miscounted or missing")
    mark = await groups.mark(check.snapshot)
    kept = range(max(1, mark - groups.TURNS + 1), mark + 1)
    turns = await check.snapshot.get_many([keys.turn(number) for number in kept])
    for number, turn in zip(kept, turns, strict=True):
        if turn is None:
            report.fault("turns", problem="the turn is missing", turn=number)
    if len(check.tables.mapped) and not mark:
        report.fault("turns", problem="there is a mapping, but no turn that says so")


def _find_retired(check: Check, report: Report) -> None:
    """No voxel may be of a supervoxel that exists no more."""
    for label in check.recount.counted(forest.retired(check.tables)).tolist():
        rows = check.recount.between(label, label)
        z, y, x = rows.blocks[0].tolist()
        report.fault("retired", supervoxel=label, block=[x, y, z], voxels=rows.size)


async def _compare_bounds(check: Check, report: Report) -> None:
    """Largest label and extents must cover what is there."""
    largest = max(check.recount.largest, forest.largest(check.tables))
    stored = await counters.max_label(check.snapshot)
    if largest and (stored is None or stored < largest):
        report.fault("max-label", stored=stored, found=largest)
    repo = await counters.load(check.data)
    if max(repo.largest, repo.last_given) < largest:
        report.fault("next-label", largest_known=repo.largest, last_given=repo.last_given, found=largest)
    outside = await outside_extents(check)
    if len(outside):
        (z, y, x), number = outside[0].tolist(), len(outside)
        report.fault("extents", problem="blocks lie outside of them", blocks=number, first=[x, y, z])


async def outside_extents(check: Check) -> I32:
    """The blocks of scale 0 none of whose voxels lie in the extents."""
    low, high = await voxels.extents(check.data, check.snapshot)
    if low is None or high is None:
        return check.places[0]
    starts = check.places[0].astype(np.int64) * check.shape
    ends = starts + check.shape
    return check.places[0][((ends <= low[::-1]) | (starts > high[::-1])).any(axis=1)]
