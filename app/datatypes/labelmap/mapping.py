"""The mapping from supervoxels to bodies at one version, as a reader of voxels needs it: all of it, in memory.

A process reads the tables once and then follows the turns that edits leave (`groups.py`): the large arrays are shared
by all later mappings, until late changes are so many that new arrays pay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import ChainMap
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from app.datatypes.labelmap import groups, keys
from app.datatypes.labelmap.keys import OF_BODY, U64
from app.kernels import forests
from app.versioning.snapshot import Reader, Snapshot

I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Late changes before the large arrays are made anew, and those that the next mapping copies instead of sharing them.
LATE, FRESH = 2048, 64
_MEMO = b"memo/mapping"
#: The slot of retired supervoxels.
_RETIRED = 0


@dataclass(frozen=True)
class _Names:
    """Slots by the names of what they stand for, sorted by name."""

    names: U64
    slots: I64

    def slot(self, name: int) -> int | None:
        place = int(np.searchsorted(self.names, np.uint64(name)))
        return int(self.slots[place]) if place < len(self.names) and int(self.names[place]) == name else None

    def with_late(self, late: Table[int, int]) -> _Names:
        names = np.concatenate([self.names, np.fromiter(late, np.uint64, len(late))])
        slots = np.concatenate([self.slots, np.fromiter(late.values(), np.int64, len(late))])
        order = np.argsort(names, kind="stable")
        return _Names(names[order], slots[order])


@dataclass(frozen=True)
class _Forest:
    """The large arrays (see `app/kernels/forests.py`), and what their slots stand for.

    A slot is a group, or a body that posted mappings name; the latter never changes.
    """

    supervoxels: U64
    slots: I64
    parents: I64
    tops: U64
    #: Which slots are bodies that posted mappings name.
    is_fixed: Bools
    groups: _Names
    bodies: _Names

    @cached_property
    def _listed(self) -> memoryview:
        return self.supervoxels.data

    @cached_property
    def _sorted_tops(self) -> memoryview:
        return np.sort(self.tops).data

    def lists(self, supervoxel: int) -> bool:
        """Whether a supervoxel is in the table."""
        return _is_among(supervoxel, self._listed)

    def has_top(self, body: int) -> bool:
        """Whether any slot's body is this one."""
        return _is_among(body, self._sorted_tops)

    def places(self, supervoxels: U64) -> tuple[npt.NDArray[np.intp], Bools]:
        """Where supervoxels are in the table, and which of them really are."""
        if not len(self.supervoxels):
            return np.zeros(len(supervoxels), np.intp), np.zeros(len(supervoxels), bool)
        places = np.minimum(self.supervoxels.searchsorted(supervoxels), len(self.supervoxels) - 1)
        return places, self.supervoxels[places] == supervoxels

    def fixed_body(self, supervoxel: int) -> int | None:
        """The body that a posted mapping names for a supervoxel, if one does."""
        (place,), (is_there,) = self.places(np.array([supervoxel], np.uint64))
        slot = self.slots[place] if is_there else _RETIRED
        return int(self.tops[slot]) if self.is_fixed[slot] else None


def _is_among(number: int, ascending: memoryview) -> bool:
    place = bisect_left(ascending, number)  # a call of NumPy takes as long as ten steps of this
    return place < len(ascending) and ascending[place] == number


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _next(table: ChainMap[_Key, _Value]) -> ChainMap[_Key, _Value]:
    """The same table, to be changed; what has long been in it is shared."""
    if len(table.maps[0]) <= FRESH:
        return table.copy()
    return ChainMap({}, {**table.maps[1], **table.maps[0]})


def _size(table: ChainMap[_Key, _Value]) -> int:
    """How many rows a table has at most: those that were there before and changed count twice."""
    return len(table.maps[0]) + len(table.maps[1])


def _table() -> ChainMap[Any, Any]:
    return ChainMap({}, {})


@dataclass
class _Late:
    """What has changed since: slots of supervoxels, parents and tops of slots, slots that are new.

    `under` has the slots in `map/` of supervoxels that a turn named: what is seen once `fixed/` says no more of them.
    """

    slots_of: ChainMap[int, int] = field(default_factory=_table)
    tops: ChainMap[int, tuple[int, int]] = field(default_factory=_table)
    groups: ChainMap[int, int] = field(default_factory=_table)
    bodies: ChainMap[int, int] = field(default_factory=_table)
    #: Posted mappings that are new or other ones; None: gone.
    fixed: ChainMap[int, int | None] = field(default_factory=_table)
    under: ChainMap[int, int] = field(default_factory=_table)
    #: Bodies that got a group, as keys; some of them have lost it again.
    grouped: ChainMap[int, bool] = field(default_factory=_table)

    def copy(self) -> _Late:
        """The same, to be changed."""
        return _Late(**{name: _next(table) for name, table in vars(self).items()})


class Mapping:
    """What body each supervoxel is shown as. `mark` is the number of the last change: encoded answers carry it."""

    def __init__(self, forest: _Forest, late: _Late, mark: int) -> None:
        self._forest = forest
        self._late = late
        self.mark = mark

    @property
    def is_empty(self) -> bool:
        """Whether every supervoxel is its own body."""
        return not len(self._forest.supervoxels) and not self._late.slots_of

    @property
    def nbytes(self) -> int:
        """The memory that the large arrays take."""
        return 16 * len(self._forest.supervoxels) + 32 * len(self._forest.parents)

    def __len__(self) -> int:
        return len(self._forest.supervoxels) + len(self._late.slots_of)

    @cached_property
    def _tables(self) -> tuple[U64, I64, I64, I64, U64]:
        """Late changes as the kernel wants them: supervoxels and slots; slots, parents and tops."""
        supervoxels, slots_of = _sorted(self._late.slots_of)
        changed = np.array(sorted(self._late.tops), np.int64)
        rows = [self._late.tops[slot] for slot in changed.tolist()]
        parents, tops = np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.uint64)
        return supervoxels, slots_of, changed, parents, tops

    def apply(self, labels: U64) -> U64:
        """The bodies of supervoxels, an array of any shape; the same object if all are their own."""
        if self.is_empty or not labels.size:
            return labels
        forest, late = self._forest, self._tables
        large = forest.supervoxels, forest.slots
        found, differs = forests.bodies(
            labels.reshape(-1), *large, late[0], late[1], forest.parents, forest.tops, late[2], late[3], late[4]
        )
        return found.reshape(labels.shape) if differs else labels

    def is_listed(self, supervoxel: int) -> bool:
        """Whether any table may have a row for a supervoxel; False is certain, as of `mark`."""
        if supervoxel in self._late.slots_of:
            return True
        return self._forest.lists(supervoxel)

    def is_grouped(self, body: int) -> bool:
        """Whether a body may have a group; False is certain, as of `mark`."""
        if body in self._late.grouped:
            return True
        return self._forest.has_top(body)

    def is_fixed(self, labels: U64) -> npt.NDArray[np.bool_]:
        """For which supervoxels a posted mapping says something else than the groups."""
        late = self._late.fixed
        places, is_there = self._forest.places(labels)
        found: Bools = is_there
        if is_there.any():
            found = is_there & self._forest.is_fixed[self._forest.slots[places]]
        for place in np.flatnonzero(np.isin(labels, np.array(list(late), np.uint64))).tolist():
            found[place] = late[int(labels[place])] is not None
        return found

    def fixed_to(self, body: int) -> U64:
        """The supervoxels that posted mappings send to a body, where the groups say something else."""
        slot, late = self._forest.bodies.slot(body), self._late.fixed
        early = self._forest.supervoxels[self._forest.slots == (-1 if slot is None else slot)]
        early = early[~np.isin(early, np.array(list(late), np.uint64))]
        return np.union1d(early, np.array([label for label, named in late.items() if named == body], np.uint64))

    def pairs(self) -> U64:
        """Rows supervoxel, body, without those that map to themselves: uint64 (n, 2), ascending."""
        everybody = np.union1d(self._forest.supervoxels, self._tables[0])
        found = self.apply(everybody)
        rows: U64 = np.stack([everybody, found], axis=1)[everybody != found]
        return rows

    # -------- following edits

    def follow(self, turns: list[dict[str, Any]], mark: int) -> Mapping | None:
        """The mapping after further turns; None if only the tables know it."""
        forest, late = self._forest, self._late.copy()
        if _size(late.slots_of) + _size(late.tops) > LATE:
            forest, late = _folded(forest, late), _Late()
        for turn in turns:
            _take_groups(forest, late, turn["groups"])
            for label, body in turn["fixed"]:
                late.fixed[label] = body
            for label, name in turn["map"]:
                slot = _slot(forest.groups, late.groups, name) if name else _RETIRED
                late.under[label] = forests.NOWHERE if name is None or slot is None else slot
            for label in {label for label, _ in turn["map"]} | {label for label, _ in turn["fixed"]}:
                named = late.fixed[label] if label in late.fixed else forest.fixed_body(label)
                if named is not None:
                    late.slots_of[label] = _slot_of_body(forest, late, named)
                elif label in late.under:
                    late.slots_of[label] = late.under[label]
                else:
                    return None  # only the tables know which group lies under an entry of `fixed/` that has gone
        return Mapping(forest, late, mark)


def _slot(known: _Names, late: Table[int, int], name: int) -> int | None:
    slot = late.get(name)
    return known.slot(name) if slot is None else slot


def _new_slot(forest: _Forest, late: _Late) -> int:
    return len(forest.parents) + _size(late.groups) + _size(late.bodies)  # whose rows never change


def _slot_of_body(forest: _Forest, late: _Late, body: int) -> int:
    """The slot of a body that a posted mapping names."""
    slot = _slot(forest.bodies, late.bodies, body)
    if slot is None:
        slot = _new_slot(forest, late)
        late.bodies[body] = slot
        late.tops[slot] = forests.TOP, body
        late.grouped[body] = True
    return slot


def _take_groups(forest: _Forest, late: _Late, groups: list[list[int]]) -> None:
    """What a turn says of groups: rows name, kind, of."""
    for name, _, _ in groups:
        if _slot(forest.groups, late.groups, name) is None:
            late.groups[name] = _new_slot(forest, late)
    for name, kind, of in groups:
        slot, above = _slot(forest.groups, late.groups, name), _slot(forest.groups, late.groups, of)
        assert slot is not None
        if kind == OF_BODY:
            late.tops[slot] = forests.TOP, of
            late.grouped[of] = True
        else:
            assert above is not None
            late.tops[slot] = above, 0


def _folded(forest: _Forest, late: _Late) -> _Forest:
    """The large arrays with late changes in them."""
    count = _new_slot(forest, late)
    parents, tops = np.arange(count, dtype=np.int64), np.zeros(count, np.uint64)
    parents[: len(forest.parents)], tops[: len(forest.tops)] = forest.parents, forest.tops
    for slot, (parent, top) in late.tops.items():
        parents[slot], tops[slot] = (slot if parent == forests.TOP else parent), top
    is_fixed = np.zeros(count, bool)
    is_fixed[: len(forest.is_fixed)] = forest.is_fixed
    is_fixed[list(late.bodies.values())] = True
    changed, slots_of = _sorted(late.slots_of)
    stays = ~np.isin(forest.supervoxels, changed)
    supervoxels = np.concatenate([forest.supervoxels[stays], changed[slots_of != forests.NOWHERE]])
    slots = np.concatenate([forest.slots[stays], slots_of[slots_of != forests.NOWHERE]])
    order = np.argsort(supervoxels, kind="stable")
    return _Forest(
        supervoxels[order],
        slots[order],
        _flat(parents),
        tops,
        is_fixed,
        forest.groups.with_late(late.groups),
        forest.bodies.with_late(late.bodies),
    )


def _flat(parents: I64) -> I64:
    """Every slot's parent, as far up as there is one."""
    while True:
        above = parents[parents]
        if (above == parents).all():
            return parents
        parents = above


def _sorted(table: Table[int, int]) -> tuple[U64, I64]:
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
    slots = np.where(mapped[:, 1] == groups.RETIRED, 0, 1 + np.searchsorted(names, mapped[:, 1])).astype(np.int64)
    supervoxels, fixed_slots = mapped[:, 0], 1 + len(names) + np.searchsorted(targets, fixed[:, 1])
    if len(fixed):
        hidden = np.isin(supervoxels, fixed[:, 0])
        supervoxels = np.concatenate([supervoxels[~hidden], fixed[:, 0]])
        slots = np.concatenate([slots[~hidden], fixed_slots])
        order = np.argsort(supervoxels, kind="stable")
        supervoxels, slots = supervoxels[order], slots[order]
    forest = _Forest(
        np.ascontiguousarray(supervoxels),
        np.ascontiguousarray(slots),
        _flat(parents),
        tops,
        np.arange(count) > len(names),
        _Names(names, np.arange(1, 1 + len(names))),
        _Names(targets, np.arange(1 + len(names), count)),
    )
    return Mapping(forest, _Late(), mark)


_NO_PAIRS: U64 = np.empty((0, 2), np.uint64)
#: For reads of supervoxels: nothing is mapped.
IDENTITY = _make(_NO_PAIRS, _NO_PAIRS, np.empty(0, np.void), 0)


def recalled(reader: Reader) -> Mapping | None:
    """What this process knows of the mapping: that of this reader or of an earlier one; None if it does not know it."""
    known: Mapping | None = reader.recall(_MEMO, "mapping")
    return known


async def load(reader: Reader) -> Mapping:
    """The mapping that a reader sees; a process keeps it and follows the edits."""
    mark = await groups.mark(reader)
    if not mark:
        return IDENTITY
    known = recalled(reader)
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
