"""labelsz: how many annotations of each kind lie in each body.

Nothing is counted ahead: the numbers are those of the annotations and labels of the moment, worked out when they are
asked for and remembered as long as neither changes. As in DVID, elements that were there before the instance was synced
are left out until it is reloaded: `before` keeps where they are, a gzip of little-endian int32 x, y, z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.work import Workers
from app.datatypes.annotation import blocks, finding, labels, read, table
from app.datatypes.annotation.labels import Labels, View
from app.datatypes.annotation.table import U64, Rows
from app.datatypes.author import Author
from app.datatypes.config import Config
from app.datatypes.datatype import Datatype
from app.datatypes.roi import Mask
from app.formats import compression
from app.formats.element_json import I32, KIND_CODES, KINDS
from app.versioning.datastore import Data
from app.versioning.log import SEQUENCE
from app.versioning.merge import by_key
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader, Snapshot

I64 = npt.NDArray[np.int64]

_BEFORE = b"before"
_MOST_BYTES = 1 << 34
#: The kinds that each type of index counts. Voxels are not annotations: DVID takes the word and counts nothing.
TYPES = {
    **{kind: (KIND_CODES[kind],) for kind in ("PostSyn", "PreSyn", "Gap", "Note")},
    "AllSyn": tuple(KIND_CODES[kind] for kind in ("PostSyn", "PreSyn", "Gap")),
    "Voxels": (),
}
#: The numbers of so few labels are worked out from their own elements, unless those of all are known.
FEW_LABELS = 64


def _settings(config: Config) -> dict[str, Any]:
    return {"roi": config.text("ROI")}


async def _extended(data: Data, _snapshot: Snapshot) -> dict[str, Any]:
    return {"StaticROI": data.instance.settings["roi"]}


@dataclass(frozen=True)
class Counts:
    """Bodies with elements, ascending, and the number of elements of each kind: int64 (n, kinds)."""

    labels: U64
    numbers: I64

    @staticmethod
    def of(owners: U64, numbers: I64) -> Counts:
        """Numbers by owner, which may come several times, added up; the background is left out."""
        unique, inverse = np.unique(owners, return_inverse=True)
        added = np.zeros((len(unique), len(KINDS)), np.int64)
        np.add.at(added, inverse, numbers)
        return Counts(unique[unique != 0], added[unique != 0])

    def of_type(self, index_type: str) -> I64:
        """The number of a type of index for each body."""
        total: I64 = self.numbers[:, list(TYPES[index_type])].sum(axis=1)
        return total

    def get(self, wanted: U64, index_type: str) -> I64:
        """The numbers of bodies, 0 for those without elements."""
        if not len(self.labels):
            return np.zeros(len(wanted), np.int64)
        places = np.minimum(np.searchsorted(self.labels, wanted), len(self.labels) - 1)
        return np.where(self.labels[places] == wanted, self.of_type(index_type)[places], 0)

    def ranked(self, index_type: str, least: int) -> tuple[U64, I64]:
        """Bodies with at least so many, the largest number first and equal ones by label, and their numbers."""
        numbers = self.of_type(index_type)
        chosen = np.flatnonzero(numbers >= max(least, 1))
        order = chosen[np.lexsort((self.labels[chosen], -numbers[chosen]))]
        return self.labels[order], numbers[order]


NO_COUNTS = Counts(np.empty(0, np.uint64), np.empty((0, len(KINDS)), np.int64))


@dataclass(frozen=True)
class Counting:
    """What is counted: the elements of an annotation instance in labels, all or those of a region.

    `own` is the snapshot of the labelsz instance, `region_state` names the state of the region.
    """

    data: Data
    own: Snapshot
    annotation: Data
    elements: Snapshot
    labels: Labels
    region: Mask | None
    region_state: object
    workers: Workers

    async def few(self, bodies: Sequence[int]) -> Counts | None:
        """The numbers of some bodies, unless those of all are known or quicker."""
        if len(bodies) > FEW_LABELS or await self._known() is not None:
            return None
        before = await _before(self.own)
        found = [NO_COUNTS]
        for body in bodies:
            rows = await read.rows_in_label(self.annotation, self.elements, self.labels, body) if body else ()
            if len(rows):
                rows = self._counted(np.asarray(rows), before)
                numbers = np.bincount(rows["kind"], minlength=len(KINDS))[None].astype(np.int64)
                found.append(Counts(np.array([body], np.uint64), numbers))
        return Counts.of(np.concatenate([c.labels for c in found]), np.concatenate([c.numbers for c in found]))

    async def all(self) -> Counts:
        """The numbers of all bodies."""
        known = await self._known()
        if known is not None:
            return known
        view = await labels.view(self.annotation, self.elements, self.labels)
        by_supervoxel = await self._by_supervoxel(view)
        bodies = await self.labels.bodies(by_supervoxel.labels)
        counts = await self.workers.run(Counts.of, bodies, by_supervoxel.numbers)
        self._remember("bodies", (await self._state(), self.labels.position), counts)
        return counts

    async def _known(self) -> Counts | None:
        return self._recall("bodies", (await self._state(), self.labels.position))

    async def _state(self) -> object:
        """What the numbers depend on beside elements and labels."""
        return await self.own.get(SEQUENCE), self.region_state

    async def _by_supervoxel(self, view: View) -> Counts:
        """The numbers by supervoxel: these outlive edits of bodies."""
        stamp = (await self._state(), self.labels.data.instance.uuid, id(view.moved))
        known = self._recall("supervoxels", stamp)
        if known is not None:
            return known
        rows, before = await read.all_rows(self.elements, view), await _before(self.own)

        def work() -> Counts:
            counted = self._counted(rows, before)
            unique, inverse = np.unique(counted["supervoxel"], return_inverse=True)
            cells = np.bincount(inverse * len(KINDS) + counted["kind"], minlength=len(unique) * len(KINDS))
            return Counts.of(unique, cells.reshape(-1, len(KINDS)).astype(np.int64))

        counts = await self.workers.run(work)
        self._remember("supervoxels", stamp, counts, view.moved)
        return counts

    def _counted(self, rows: Rows, before: npt.NDArray[np.void] | None) -> Rows:
        """The rows of those elements that count."""
        if self.region is not None:
            rows = rows[self.region.contains(rows["position"].astype(np.int64))]
        if before is not None:
            rows = rows[~np.isin(_names(rows["position"]), before)]
        return rows

    def _recall(self, what: str, stamp: object) -> Counts | None:
        found = self.elements.recall(SEQUENCE, (what, self.data.instance.uuid))
        return found[1] if found is not None and found[0] == stamp else None

    def _remember(self, what: str, stamp: object, counts: Counts, kept: object = None) -> None:
        # What the stamp names by its identity is kept with it, so that nothing else can get the same.
        facet = (what, self.data.instance.uuid)
        size = counts.labels.nbytes + counts.numbers.nbytes + 300
        self.elements.remember(SEQUENCE, facet, (stamp, counts, kept), size)


def _names(positions: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """Positions, int32 (n, 3), as values that can be compared as a whole."""
    packed: npt.NDArray[np.void] = np.ascontiguousarray(positions, "<i4").view("V12").reshape(-1)
    return packed


async def _before(reader: Reader) -> npt.NDArray[np.void] | None:
    value = await reader.get(_BEFORE)
    return None if value is None else _names(_decoded(value))


def _decoded(value: bytes) -> I32:
    return np.frombuffer(compression.ungzip(value, _MOST_BYTES), "<i4").reshape(-1, 3)


def _encoded(positions: npt.NDArray[Any]) -> bytes:
    return compression.gzip(np.ascontiguousarray(positions, "<i4").tobytes())


def source(data: Data) -> Data | None:
    """The annotations that an instance is synced with, at the same version."""
    for uuid in data.instance.syncs:
        instance = data.repo.instances.get(uuid)
        if instance is not None and instance.typename == "annotation":
            return Data(data.datastore, data.repo, data.version, instance)
    return None


async def synced(data: Data, others: Sequence[Data], author: Author) -> None:
    """Leave out what was there before, until a reload."""
    elements = await others[0].head()
    places = await finding.all_places(elements)
    rows = table.joined(await blocks.fetch_rows(elements, places))
    value = _encoded(rows["position"]) if len(rows) else None
    await _set_before(data, "sync", value, author)


async def reload(data: Data, author: Author) -> None:
    """Count all elements from now on, whenever they came."""
    await _set_before(data, "reload", None, author)


async def _set_before(data: Data, action: str, value: bytes | None, author: Author) -> None:
    record = author.record(data, action, await data.mutation_id())

    async def change(mutation: Mutation) -> None:
        if value is None:
            mutation.delete(_BEFORE)
        else:
            mutation.put(_BEFORE, value)
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)


def _join(_base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes | None:
    """After a version merge all those are left out that one of the sides left out."""
    found = [_decoded(value) for value in (ours, theirs) if value is not None]
    return _encoded(np.unique(np.concatenate(found), axis=0)) if found else None


DATATYPE = Datatype(
    "labelsz",
    merge=by_key(lambda key: "the elements left out", {_BEFORE: _join}),
    settings=_settings,
    extended=_extended,
    syncs=frozenset({"annotation"}),
    most_syncs=1,
    synced=synced,
)
