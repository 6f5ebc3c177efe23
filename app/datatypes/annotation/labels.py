"""In which supervoxel, and so in which body, does each element lie?

The tree of the annotations keeps, with its elements, their supervoxels as they were after one mutation of the labels,
and names that mutation. Bodies are never stored: a merge or a cleave changes nothing here. Voxels that were written
since then are found in the labels' own log, by block. A mutation first brings the stored supervoxels up to the labels
of now; a reader looks up the elements of these blocks anew and remembers them (`View`), so what it answers is true
whether anybody wrote or not, at any version and generation.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid
from app.core.geometry import Triple
from app.datatypes import voxels
from app.datatypes.annotation import blocks, deltas, finding, keys, storing, table
from app.datatypes.annotation.table import U64, Rows
from app.datatypes.labelmap import groups, mapping, read, touched
from app.datatypes.labelmap.mapping import IDENTITY
from app.versioning import log
from app.versioning.datastore import Data
from app.versioning.log import SEQUENCE
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader, Snapshot

#: Types of labels that elements may lie in.
TYPES = frozenset({"labelmap"})
DEFAULT_GRID = (64, 64, 64)
_UUID_BYTES = 16
#: Points and blocks looked up before other requests have their turn.
_POINTS, _BLOCKS = 5000, 512
#: The supervoxels of a body are looked for in so many ranges at most.
_RANGES = 2048


@dataclass(frozen=True)
class Labels:
    """A labelmap at one moment. `position` names the moment: the instance, and its tree's sequence number."""

    data: Data
    snapshot: Snapshot
    position: bytes

    @staticmethod
    async def at(data: Data, snapshot: Snapshot) -> Labels:
        """A labelmap at a snapshot."""
        return Labels(data, snapshot, bytes.fromhex(data.instance.uuid) + (await snapshot.get(SEQUENCE) or b""))

    async def supervoxels(self, points_xyz: npt.NDArray[np.int64]) -> U64:
        """The supervoxels at points, int64 (n, 3)."""
        found = [np.empty(0, np.uint64)]
        for start in range(0, len(points_xyz), _POINTS):
            part = points_xyz[start : start + _POINTS]
            found.append(await read.labels_at(self.data, self.snapshot, 0, part, IDENTITY))
            await asyncio.sleep(0)
        return np.concatenate(found)

    async def members(self, body: int) -> list[int]:
        """The supervoxels whose voxels show a body: those of its index, and those that posted mappings send to it."""
        if body == 0:
            raise Invalid("label 0 is the background and cannot be asked for")
        known = await mapping.load(self.snapshot)
        if known.is_empty:
            return [body]
        candidates = np.union1d(await groups.members(self.snapshot, body), known.fixed_to(body))
        return [int(label) for label in candidates[known.apply(candidates) == body]]

    async def bodies(self, supervoxels: U64) -> U64:
        """The bodies of supervoxels."""
        return (await mapping.load(self.snapshot)).apply(supervoxels)


def source(data: Data) -> Data | None:
    """The labels that an instance is synced with, at the same version."""
    for uuid in data.instance.syncs:
        instance = data.repo.instances.get(uuid)
        if instance is not None and instance.typename in TYPES:
            return Data(data.datastore, data.repo, data.version, instance)
    return None


async def current(data: Data) -> Labels | None:
    """The labels of now, if the instance is synced with any."""
    labels = source(data)
    return None if labels is None else await Labels.at(labels, await labels.head())


async def grid(data: Data, reader: Reader) -> Triple:
    """The shape z, y, x of the blocks of elements: as first written, else that of the labels' blocks."""
    value = await reader.get(keys.GRID)
    if value is not None:
        z, y, x = np.frombuffer(value, "<i4").tolist()
        return z, y, x
    labels = source(data)
    return DEFAULT_GRID if labels is None else voxels.block_shape(labels)


async def _touched(labels: Labels, since: bytes | None) -> npt.NDArray[np.int64] | None:
    """The blocks of labels written between two moments, whichever was first; None if the log does not tell."""
    if since is None or since[:_UUID_BYTES] != labels.position[:_UUID_BYTES]:
        return None
    before, now = since[_UUID_BYTES:], labels.position[_UUID_BYTES:]
    first, last = sorted(log.sequence_of(position or None) for position in (before, now))
    reader = labels.snapshot
    if log.sequence_of(before or None) == last:
        reader = await labels.data.head(fresh=True)
    if not (await log.knows(reader, before) and await log.knows(reader, now)):
        return None
    return await touched.between(reader, first, last)


async def _meeting(reader: Reader, labels: Labels, shape: Triple, since: bytes | None) -> list[Triple]:
    """The blocks with elements that meet blocks of labels written between two moments."""
    written = await _touched(labels, since)
    if written is None:
        return await finding.all_places(reader)
    if not len(written):
        return []
    side = voxels.block_shape(labels.data)
    if side != shape:
        low = written * side // np.array(shape)
        high = (written * side + np.array(side) - 1) // np.array(shape)
        spread = [
            low + step for step in np.ndindex(*(high - low).max(axis=0) + 1) if ((low + step) <= high).all(axis=1).any()
        ]
        written = np.unique(np.concatenate(spread), axis=0)
    if len(written) <= _BLOCKS:
        return [(z, y, x) for z, y, x in written.tolist()]
    wanted = set(map(tuple, written.tolist()))
    return [place for place in await finding.all_places(reader) if place in wanted]


async def _moved(reader: Reader, labels: Labels, shape: Triple, since: bytes | None) -> dict[Triple, tuple[Rows, U64]]:
    """Blocks looked up anew, as labels were written between two moments: their rows, and supervoxels as of now."""
    found: dict[Triple, tuple[Rows, U64]] = {}
    places = await _meeting(reader, labels, shape, since)
    for start in range(0, len(places), _BLOCKS):
        part = places[start : start + _BLOCKS]
        rows = await blocks.fetch_rows(reader, part)
        supervoxels = await labels.supervoxels(table.joined(rows)["position"].astype(np.int64))
        ends = np.cumsum([len(row) for row in rows])[:-1]
        for place, row, now in zip(part, rows, np.split(supervoxels, ends), strict=True):
            if len(row):
                found[place] = row, now
    return found


async def settle(mutation: Mutation, data: Data, *, anew: bool = False) -> Labels | None:
    """Bring the stored supervoxels up to the labels of now, which are answered; `anew`: whatever the log says."""
    labels = await current(data)
    if labels is None:
        mutation.delete(keys.LABELS)
        return None
    since = None if anew else await mutation.get(keys.LABELS)
    if since != labels.position:
        shape = await grid(data, mutation)
        moved = await _moved(mutation, labels, shape, since)
        await storing.move(
            mutation, {zyx: now for zyx, (rows, now) in moved.items() if (rows["supervoxel"] != now).any()}
        )
        mutation.put(keys.LABELS, labels.position)
    return labels


@dataclass(frozen=True)
class View:
    """Elements of a snapshot with the supervoxels that they have in the labels at one moment.

    `moved` are the blocks whose stored supervoxels are not to be used, with the right ones; the same object as long as
    no voxels under elements are written.
    """

    snapshot: Snapshot
    labels: Labels
    moved: Mapping[Triple, U64]
    _places: Mapping[int, set[Triple]]

    async def places(self, supervoxels: Sequence[int]) -> list[Triple]:
        """The blocks that have elements in any of the supervoxels (ascending), in order of z, y, x."""
        wanted = np.array(supervoxels, np.uint64)
        # The widest gaps part the ranges; what lies in the narrower ones is read for nothing.
        gaps = np.sort(np.argsort(np.diff(wanted))[1 - _RANGES :]) + 1
        parts = np.split(wanted, gaps) if len(wanted) else []
        found: set[Triple] = set()
        for start in range(0, len(parts), _BLOCKS):
            ranges = [keys.supervoxels(int(part[0]), int(part[-1])) for part in parts[start : start + _BLOCKS]]
            for names in await self.snapshot.keys_of(ranges):
                found.update(keys.places_of(names, wanted))
        found |= (await deltas.load(self.snapshot)).in_supervoxels(wanted)
        found = {place for place in found if place not in self.moved}
        for label in supervoxels:
            found.update(self._places.get(label, ()))
        return sorted(found)

    def corrected(self, zyx: Triple, rows: Rows) -> U64:
        """The supervoxels of a block's elements."""
        known = self.moved.get(zyx)
        supervoxels: U64 = rows["supervoxel"] if known is None else known
        return supervoxels


async def view(data: Data, snapshot: Snapshot, labels: Labels) -> View:
    """The elements of a snapshot in the labels at a moment; remembered, and brought forward as labels are written."""
    stored = await snapshot.get(keys.LABELS)
    facet = ("view", labels.data.instance.uuid)
    known: View | None = snapshot.recall(SEQUENCE, facet)
    if known is not None and known.labels.position == labels.position:
        return known
    moved: dict[Triple, U64] = {}
    if stored != labels.position:
        since = stored
        if known is not None and await _touched(labels, known.labels.position) is not None:
            since = known.labels.position
        shape = await grid(data, snapshot)
        moved = {zyx: now for zyx, (_, now) in (await _moved(snapshot, labels, shape, since)).items()}
        if known is not None and since is not stored:
            if not moved:
                return _remembered(facet, View(snapshot, labels, known.moved, known._places))
            moved = {**known.moved, **moved}
    places: dict[int, set[Triple]] = defaultdict(set)
    for zyx, supervoxels in moved.items():
        for label in set(supervoxels.tolist()) - {0}:
            places[label].add(zyx)
    return _remembered(facet, View(snapshot, labels, moved, places))


def _remembered(facet: object, made: View) -> View:
    size = 200 + 8 * sum(map(len, made.moved.values())) + 300 * len(made.moved)
    made.snapshot.remember(SEQUENCE, facet, made, size)
    return made
