"""Do the tables of groups agree with each other? And what should those be that follow from others?

`map/` and `group/` say who is where; members of groups (`child/`), the groups of whole bodies (`root/`) and the numbers
of members follow from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.datatypes.labelmap import groups, keys
from app.datatypes.labelmap.checks.report import Report
from app.datatypes.labelmap.keys import OF_BODY, OF_GROUP, U64
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader

I64 = npt.NDArray[np.int64]

_NONE = -1
_CHILD_KEYS = keys.child(0, 0, 0)[:-17], keys.child(0, 0, 0)[:-17] + b"\xff" * 18


@dataclass(frozen=True)
class Tables:
    """The tables as they are stored: rows of numbers, uint64, in the order of the keys."""

    #: supervoxel, group
    mapped: U64
    #: name, kind, of, members
    groups: U64
    #: group, kind, member
    children: U64
    #: body, group
    roots: U64
    #: supervoxel, body
    fixed: U64
    fixed_count: int


async def read(reader: Reader) -> Tables:
    """All tables; they take some tens of bytes for each supervoxel that was ever edited."""
    stored = keys.parse_groups(await reader.keys(*keys.groups_range()))
    columns = [stored[name].astype(np.uint64) for name in ("name", "kind", "of", "members")]
    return Tables(
        keys.pairs(await reader.keys(*keys.MAP.all())),
        np.stack(columns, axis=1),
        _children(await reader.keys(*_CHILD_KEYS)),
        keys.pairs(await reader.keys(*keys.ROOT.all())),
        keys.pairs(await reader.keys(*keys.FIXED.all())),
        await groups.fixed_count(reader),
    )


def _children(names: list[bytes]) -> U64:
    row = np.dtype([("group", ">u8"), ("kind", "u1"), ("member", ">u8")])
    table = np.frombuffer(b"".join(name[-row.itemsize :] for name in names), row)
    return np.stack([table[column].astype(np.uint64) for column in ("group", "kind", "member")], axis=1)


class Shape:
    """How the groups hang together: each one's parent, and all of its members, those of its parts too."""

    def __init__(self, tables: Tables) -> None:
        names = tables.groups[:, 0]
        self.names, first = np.unique(names, return_index=True)
        self.table = tables.groups[first]
        self.is_part = self.table[:, 1] == OF_GROUP
        above = np.minimum(np.searchsorted(self.names, self.table[:, 2]), max(len(self.names) - 1, 0))
        is_found = self.is_part & (self.names[above] == self.table[:, 2]) if len(names) else self.is_part
        self.parents: I64 = np.where(is_found, above, _NONE).astype(np.int64)
        self.is_orphan = self.is_part & ~is_found
        self.slots = self.slots_of(tables.mapped[:, 1])
        self.members = np.bincount(self.slots[self.slots != _NONE], minlength=len(self.names)).astype(np.int64)
        self.in_cycle = self._gather()

    def slots_of(self, names: U64) -> I64:
        """Where groups are in the tables of this shape, -1 for unknown ones."""
        if not len(self.names):
            return np.full(len(names), _NONE, np.int64)
        places = np.minimum(np.searchsorted(self.names, names), len(self.names) - 1)
        return np.where(self.names[places] == names, places, _NONE).astype(np.int64)

    def _gather(self) -> npt.NDArray[np.bool_]:
        """Add the members of parts to those of the groups above; the groups never reached lie on or above a cycle."""
        has_parent = self.parents != _NONE
        waiting = np.bincount(self.parents[has_parent], minlength=len(self.names))
        todo = np.flatnonzero(waiting == 0)
        is_done = np.zeros(len(self.names), bool)
        while len(todo):
            is_done[todo] = True
            todo = todo[has_parent[todo]]
            above = self.parents[todo]
            np.add.at(self.members, above, self.members[todo])
            np.subtract.at(waiting, above, 1)
            todo = np.unique(above[waiting[above] == 0])
        return ~is_done

    def wanted_children(self, tables: Tables) -> U64:
        """What `child/` should hold."""
        placed = tables.mapped[self.slots != _NONE]
        parts = self.table[self.is_part]
        of_group = np.concatenate([placed[:, 1], parts[:, 2]])
        kinds = np.repeat(np.array([keys.SUPERVOXEL, keys.GROUP], np.uint64), [len(placed), len(parts)])
        return np.stack([of_group, kinds, np.concatenate([placed[:, 0], parts[:, 0]])], axis=1)

    def wanted_roots(self) -> U64:
        """What `root/` should hold."""
        whole = self.table[~self.is_part]
        return np.stack([whole[:, 2], whole[:, 0]], axis=1)


def check(tables: Tables, report: Report) -> None:
    """Compare the tables."""
    shape = Shape(tables)
    report.saw("groups", len(shape.names))
    report.saw("mapped supervoxels", len(tables.mapped))

    def each(kind: str, problem: str, **columns: npt.NDArray[Any]) -> None:
        for row in zip(*[column.tolist() for column in columns.values()], strict=True):
            report.fault(kind, problem=problem, **dict(zip(columns, row, strict=True)))

    each("mapping", "the supervoxel is in several groups", supervoxel=_repeated(tables.mapped[:, 0]))
    lost = tables.mapped[(shape.slots == _NONE) & (tables.mapped[:, 1] != groups.RETIRED)]
    each("mapping", "the supervoxel is in a group that is not there", supervoxel=lost[:, 0], group=lost[:, 1])
    each("mapping", "the supervoxel has several posted mappings", supervoxel=_repeated(tables.fixed[:, 0]))
    each("groups", "the group is stored several times", group=_repeated(tables.groups[:, 0]))
    orphans = shape.table[shape.is_orphan]
    each("groups", "the group is part of one that is not there", group=orphans[:, 0], of=orphans[:, 2])
    each("groups", "the group is on or above a cycle", group=shape.names[shape.in_cycle])
    is_off = (shape.members != shape.table[:, 3].astype(np.int64)) & ~shape.in_cycle
    off = shape.table[is_off]
    each("groups", "members are miscounted", group=off[:, 0], stored=off[:, 3], counted=shape.members[is_off])
    for problem, rows in zip(
        ("a member is not listed", "a member is listed that is none"),
        _differences(shape.wanted_children(tables), tables.children),
        strict=True,
    ):
        is_group = rows[:, 1] == keys.GROUP
        each("members", problem, group=rows[:, 0], is_group=is_group, member=rows[:, 2])
    wanted = shape.wanted_roots()
    each("bodies", "the body is two groups", body=_repeated(wanted[:, 0]))
    for problem, rows in zip(
        ("the group of the body is not listed", "a group is listed that is not the body"),
        _differences(wanted, tables.roots),
        strict=True,
    ):
        each("bodies", problem, body=rows[:, 0], group=rows[:, 1])
    if tables.fixed_count != len(tables.fixed):
        stored, counted = tables.fixed_count, len(tables.fixed)
        report.fault("mapping", problem="posted mappings are miscounted", stored=stored, counted=counted)


def repair(mutation: Mutation, tables: Tables) -> int:
    """Rewrite what follows from `map/` and `group/`; the number of keys that were wrong.

    Groups of a cycle, and duplicates of groups or supervoxels, cannot be decided here and stay.
    """
    shape = Shape(tables)
    changed = 0

    def rewrite(wanted: U64, present: U64, key: Callable[..., bytes]) -> None:
        nonlocal changed
        missing, extra = _differences(wanted, present)
        for row in extra.tolist():
            mutation.delete(key(*row))
        for row in missing.tolist():
            mutation.put(key(*row), b"")
        changed += len(missing) + len(extra)

    rewrite(shape.wanted_children(tables), tables.children, keys.child)
    rewrite(shape.wanted_roots(), tables.roots, keys.ROOT.key)
    counted = shape.table.copy()
    counted[~shape.in_cycle, 3] = shape.members[~shape.in_cycle].astype(np.uint64)
    is_single = ~np.isin(shape.names, _repeated(tables.groups[:, 0]))
    rewrite(counted[is_single], shape.table[is_single], keys.group)
    if tables.fixed_count != len(tables.fixed):
        mutation.put(keys.FIXED_COUNT, keys.number(len(tables.fixed)))
        changed += 1
    return changed


def retired(tables: Tables) -> U64:
    """The supervoxels that exist no more, ascending."""
    found: U64 = tables.mapped[tables.mapped[:, 1] == groups.RETIRED, 0]
    return found


def largest(tables: Tables) -> int:
    """The largest number of a supervoxel or body in the tables."""
    bodies = tables.groups[tables.groups[:, 1] == OF_BODY, 2]
    return int(max(tables.mapped[:, 0].max(initial=0), bodies.max(initial=0)))


def _repeated(column: U64) -> U64:
    found, counts = np.unique(column, return_counts=True)
    repeated: U64 = found[counts > 1]
    return repeated


def _differences(wanted: U64, present: U64) -> tuple[U64, U64]:
    """Rows of one table that the other has not, and the reverse."""
    joined = np.concatenate([wanted, present])
    if not len(joined):
        return wanted, present
    _, number = np.unique(joined, axis=0, return_inverse=True)
    number = number.reshape(-1)
    ours, theirs = number[: len(wanted)], number[len(wanted) :]
    missing: U64 = wanted[~np.isin(ours, theirs)]
    extra: U64 = present[~np.isin(theirs, ours)]
    return missing, extra
