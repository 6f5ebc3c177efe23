"""The mapping from supervoxels to bodies at one version, as a reader of voxels needs it: all of it, in memory.

A process reads the tables once and then follows the turns that edits leave (`groups.py`): the large arrays are shared
by all later mappings, until late changes are so many that new arrays pay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from app.datatypes.labelmap import groups, keys
from app.datatypes.labelmap.keys import OF_BODY, U64
from app.kernels import forests
from app.versioning.snapshot import Reader, Snapshot

I64 = npt.NDArray[np.int64]

#: Late changes before the large arrays are made anew.
LATE = 8192
_MEMO = b"memo/mapping"
#: Kinds of names of slots beside groups: bodies that posted mappings name. Their slots never change.
_RETIRED_SLOT = 0


@dataclass(frozen=True)
class _Forest:
    """The large arrays (see `app/kernels/forests.py`), and the names of the slots: groups, then bodies of `fixed/`."""

    supervoxels: U64
    slots: I64
    parents: I64
    tops: U64
    groups: U64
    fixed_bodies: U64

    def slot_of_group(self, name: int) -> int | None:
        """The slot of a group; slot 0 is that of retired supervoxels."""
        return _find(self.groups, name, 1)

    def slot_of_body(self, body: int) -> int | None:
        """The slot of a body that a posted mapping names."""
        return _find(self.fixed_bodies, body, 1 + len(self.groups))

    def fixed_body(self, supervoxel: int) -> int | None:
        """The body that a posted mapping names for a supervoxel, if one does."""
        place = _find(self.supervoxels, supervoxel, 0)
        named = -1 if place is None else int(self.slots[place]) - 1 - len(self.groups)
        return int(self.fixed_bodies[named]) if named >= 0 else None


def _find(table: U64, value: int, offset: int) -> int | None:
    place = int(np.searchsorted(table, np.uint64(value)))
    return place + offset if place < len(table) and int(table[place]) == value else None


@dataclass
class _Late:
    """What has changed since: slots of supervoxels, parents and tops of slots, slots that are new."""

    slots_of: dict[int, int] = field(default_factory=dict)
    tops: dict[int, tuple[int, int]] = field(default_factory=dict)
    groups: dict[int, int] = field(default_factory=dict)
    bodies: dict[int, int] = field(default_factory=dict)
    #: Posted mappings that are new or other ones; None: gone.
    fixed: dict[int, int | None] = field(default_factory=dict)
    #: Tables of both kinds say where a supervoxel is; of one that `fixed/` names, `map/` is kept here.
    under: dict[int, int] = field(default_factory=dict)

    def copy(self) -> _Late:
        """The same, to be changed."""
        return _Late(**{name: dict(table) for name, table in vars(self).items()})


class Mapping:
    """What body each supervoxel is shown as. `mark` is the number of the last change: encoded answers carry it."""

    def __init__(self, forest: _Forest, late: _Late, mark: int) -> None:
        self._forest = forest
        self._late = late
        self.mark = mark
        self.late_supervoxels, self.late_slots = _sorted(late.slots_of)
        changed = np.array(sorted(late.tops), np.int64)
        rows = [late.tops[int(slot)] for slot in changed]
        self._late_tables = (
            changed,
            np.array([parent for parent, _ in rows], np.int64),
            np.array([top for _, top in rows], np.uint64),
        )

    @property
    def is_empty(self) -> bool:
        """Whether every supervoxel is its own body."""
        return not len(self._forest.supervoxels) and not len(self.late_supervoxels)

    @property
    def nbytes(self) -> int:
        """The memory that the large arrays take."""
        return 16 * len(self._forest.supervoxels) + 24 * len(self._forest.parents)

    def __len__(self) -> int:
        return len(self._forest.supervoxels) + len(self.late_supervoxels)

    def apply(self, labels: U64) -> U64:
        """The bodies of supervoxels, an array of any shape; the same object if all are their own."""
        if self.is_empty or not labels.size:
            return labels
        forest = self._forest
        found, differs = forests.bodies(
            labels.reshape(-1),
            forest.supervoxels,
            forest.slots,
            self.late_supervoxels,
            self.late_slots,
            forest.parents,
            forest.tops,
            *self._late_tables,
        )
        bodies: U64 = found.reshape(labels.shape)
        return bodies if differs else labels

    def is_fixed(self, labels: U64) -> npt.NDArray[np.bool_]:
        """For which supervoxels a posted mapping says something else than the groups."""
        forest, late = self._forest, self._late.fixed
        if not len(forest.supervoxels):
            return np.array([late.get(label) is not None for label in labels.tolist()], bool)
        places = np.minimum(np.searchsorted(forest.supervoxels, labels), len(forest.supervoxels) - 1)
        found: npt.NDArray[np.bool_] = (forest.supervoxels[places] == labels) & (
            forest.slots[places] > len(forest.groups)
        )
        for place in np.flatnonzero(np.isin(labels, np.array(list(late), np.uint64))).tolist():
            found[place] = late[int(labels[place])] is not None
        return found

    def fixed_to(self, body: int) -> U64:
        """The supervoxels that posted mappings send to a body, where the groups say something else."""
        slot, late = self._forest.slot_of_body(body), self._late.fixed
        early = self._forest.supervoxels[self._forest.slots == (-1 if slot is None else slot)]
        early = early[~np.isin(early, np.array(list(late), np.uint64))]
        return np.union1d(early, np.array([label for label, named in late.items() if named == body], np.uint64))

    def pairs(self) -> U64:
        """Rows supervoxel, body, without those that map to themselves: uint64 (n, 2), ascending."""
        everybody = np.union1d(self._forest.supervoxels, self.late_supervoxels)
        found = self.apply(everybody)
        rows: U64 = np.stack([everybody, found], axis=1)[everybody != found]
        return rows

    def follow(self, turns: list[dict[str, Any]], mark: int) -> Mapping | None:
        """The mapping after further turns; None if they are so many that it should be read anew."""
        late = self._late.copy()
        count = 1 + len(self._forest.groups) + len(self._forest.fixed_bodies) + len(late.groups) + len(late.bodies)
        for turn in turns:
            for name, kind, of in turn["groups"]:
                slot = self._slot_of_group(late, name)
                if slot is None:
                    slot = late.groups[name] = count
                    count += 1
                late.tops[slot] = (forests.TOP, of) if kind == OF_BODY else (-2, of)
            for slot, (parent, of) in list(late.tops.items()):
                if parent == -2:  # by name until all groups of the turn have slots
                    above = self._slot_of_group(late, of)
                    assert above is not None
                    late.tops[slot] = above, 0
            for label, body in turn["fixed"]:
                late.fixed[label] = body
            for label, name in turn["map"]:
                slot = self._slot_of_group(late, name) if name else _RETIRED_SLOT
                late.under[label] = forests.NOWHERE if name is None else slot  # type: ignore[assignment]
            for label in {label for label, _ in turn["map"]} | {label for label, _ in turn["fixed"]}:
                named = late.fixed[label] if label in late.fixed else self._forest.fixed_body(label)
                if named is not None:
                    slot = self._slot_of_body(late, named)
                    if slot is None:
                        slot = late.bodies[named] = count
                        late.tops[slot] = forests.TOP, named
                        count += 1
                    late.slots_of[label] = slot
                elif label in late.under:
                    late.slots_of[label] = late.under[label]
                else:
                    return None  # only the tables know which group lies under an entry of `fixed/` that has gone
        if len(late.slots_of) + len(late.tops) > LATE:
            return None
        return Mapping(self._forest, late, mark)

    def _slot_of_group(self, late: _Late, name: int) -> int | None:
        slot = late.groups.get(name)
        return self._forest.slot_of_group(name) if slot is None else slot

    def _slot_of_body(self, late: _Late, body: int) -> int | None:
        slot = late.bodies.get(body)
        return self._forest.slot_of_body(body) if slot is None else slot


def _sorted(table: dict[int, int]) -> tuple[U64, I64]:
    labels = sorted(table)
    return np.array(labels, np.uint64), np.array([table[label] for label in labels], np.int64)


def _make(mapped: U64, fixed: U64, grouped: npt.NDArray[np.void], mark: int) -> Mapping:
    """A mapping from the rows of `map/`, `fixed/` and `group/`, each ascending."""
    names = grouped["name"].astype(np.uint64) if len(grouped) else np.empty(0, np.uint64)
    targets = np.unique(fixed[:, 1])
    count = 1 + len(names) + len(targets)
    parents = np.arange(count, dtype=np.int64)
    tops = np.zeros(count, np.uint64)
    tops[1 + len(names) :] = targets
    if len(names):
        of = grouped["of"].astype(np.uint64)
        is_part = grouped["kind"] != OF_BODY
        tops[1 : 1 + len(names)] = np.where(is_part, 0, of)
        parents[1 : 1 + len(names)][is_part] = 1 + np.searchsorted(names, of[is_part])
        while True:  # until every slot points to its body's
            above = parents[parents]
            if (above == parents).all():
                break
            parents = above
    slots = np.where(mapped[:, 1] == groups.RETIRED, 0, 1 + np.searchsorted(names, mapped[:, 1])).astype(np.int64)
    supervoxels, fixed_slots = mapped[:, 0], 1 + len(names) + np.searchsorted(targets, fixed[:, 1])
    if len(fixed):
        stays = ~np.isin(supervoxels, fixed[:, 0])
        supervoxels = np.concatenate([supervoxels[stays], fixed[:, 0]])
        order = np.argsort(supervoxels, kind="stable")
        supervoxels, slots = supervoxels[order], np.concatenate([slots[stays], fixed_slots])[order]
    forest = _Forest(np.ascontiguousarray(supervoxels), np.ascontiguousarray(slots), parents, tops, names, targets)
    return Mapping(forest, _Late(), mark)


_NO_PAIRS: U64 = np.empty((0, 2), np.uint64)
#: For reads of supervoxels: nothing is mapped.
IDENTITY = _make(_NO_PAIRS, _NO_PAIRS, np.empty(0, np.void), 0)


async def load(reader: Reader) -> Mapping:
    """The mapping that a reader sees; a process keeps it and follows the edits."""
    mark = await groups.mark(reader)
    if not mark:
        return IDENTITY
    known: Mapping | None = reader.recall(_MEMO, "mapping")
    if known is not None and known.mark == mark:
        return known
    loaded = None
    if known is not None:
        turns = await groups.turns(reader, known.mark, mark)
        loaded = known.follow(turns, mark) if turns is not None else None
    if loaded is None:
        loaded = await _read(reader, mark, keys.pairs(await reader.keys(*keys.FIXED.all())))
    if isinstance(reader, Snapshot):  # what a mutation has staged may never be
        reader.remember(_MEMO, "mapping", loaded, loaded.nbytes)
    return loaded


async def load_groups(reader: Reader) -> Mapping:
    """The bodies whose indices list the supervoxels: the same without posted mappings that differ."""
    if not await groups.fixed_count(reader):
        return await load(reader)
    return await _read(reader, await groups.mark(reader), _NO_PAIRS)


async def _read(reader: Reader, mark: int, fixed: U64) -> Mapping:
    mapped = keys.pairs(await reader.keys(*keys.MAP.all()))
    return _make(mapped, fixed, keys.parse_groups(await reader.keys(*keys.groups_range())), mark)
