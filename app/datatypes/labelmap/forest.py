"""Groups of supervoxels as one mutation changes them (see `groups.py`).

A forest reads through a mutation, keeps what it changes, and stages all of it in `flush`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from app.datatypes.labelmap import keys
from app.datatypes.labelmap.groups import RETIRED, Group, fixed_count, stage_turn, stale
from app.datatypes.labelmap.keys import OF_BODY, OF_GROUP
from app.datatypes.labelmap.lookups import Lookups
from app.versioning.mutations import Mutation

#: A turn with more changes than this says only that there were many.
LONGEST_TURN = 100_000

#: Rows of a table that changed: first number, second number before and now; and what is told of them.
_Rows = Sequence[tuple[int, int | None, int | None]]
_Told = Sequence[tuple[int | None, ...]]


class Forest:
    """The groups and the mapping as one mutation changes them. `seed` makes names of new groups: unique in the repo."""

    def __init__(self, mutation: Mutation, seed: int) -> None:
        self._below = mutation
        #: What the tables said before; what differs now is kept here.
        self.before = Lookups(mutation)
        self._next_name = seed << 20
        self._names: dict[int, int | None] = {}
        self._groups: dict[int, Group] = {}
        self._roots: dict[int, int | None] = {}
        self._fixed: dict[int, int | None] = {}
        self._new: set[int] = set()
        self._children: dict[tuple[int, int, int], bool] = {}
        self._moved_in: dict[int, set[int]] = defaultdict(set)
        self._touched: set[int] = set()
        #: Bodies and supervoxels that their indices go on to list.
        self.left_stale: list[tuple[int, int]] = []
        #: How bodies changed, for readers that know them; others that changed are named in `flush`.
        self.operations: list[list[Any]] = []

    # -------- what is there

    async def group_of(self, supervoxel: int) -> int | None:
        """The group of a supervoxel, `RETIRED`, or None."""
        return self._names[supervoxel] if supervoxel in self._names else await self.before.group_of(supervoxel)

    async def group(self, name: int) -> Group:
        """A group."""
        return self._groups[name] if name in self._groups else await self.before.group(name)

    async def root_of(self, body: int) -> int | None:
        """The group of a whole body."""
        return self._roots[body] if body in self._roots else await self.before.root_of(body)

    async def body_of(self, supervoxel: int) -> int:
        """The body that lists a supervoxel; 0 for a retired one."""
        name = await self.group_of(supervoxel)
        if name is None:
            return supervoxel
        while name != RETIRED:
            found = await self.group(name)
            if found.kind == OF_BODY:
                return found.of
            name = found.of
        return 0

    async def shown(self, supervoxel: int) -> int:
        """What reads of voxels show for a supervoxel."""
        fixed = await self.fixed_of(supervoxel)
        return await self.body_of(supervoxel) if fixed is None else fixed

    async def fixed_of(self, supervoxel: int) -> int | None:
        """The posted mapping of a supervoxel where it differs from the groups."""
        return self._fixed[supervoxel] if supervoxel in self._fixed else await self.before.fixed_of(supervoxel)

    async def members(self, body: int) -> list[int]:
        """The supervoxels of a body as they are now; costs as much as it has."""
        listed = {*await self.before.members(body), *self._moved_in[body]}
        return sorted([label for label in listed if label not in self._names or await self.body_of(label) == body])

    async def number_of_members(self, body: int) -> int:
        """How many supervoxels a body has, with and without voxels."""
        root = await self.root_of(body)
        own = 1 if await self.group_of(body) is None else 0
        return own + ((await self.group(root)).members if root is not None else 0)

    # -------- changes

    async def put_in(self, body: int, supervoxels: Iterable[int]) -> None:
        """Make supervoxels members of a body, whichever they were of before. Reads of voxels follow."""
        self._touched.add(body)
        for label in supervoxels:
            await self._take_out(label)
            if label == body:
                continue
            root = await self.root_of(body)
            if root is None:
                root = self._new_root(body)
            self._names[label] = root
            self._children[root, keys.SUPERVOXEL, label] = True
            self._moved_in[body].add(label)
            await self._grow(root, 1)

    async def retire(self, supervoxel: int) -> None:
        """Take a supervoxel out of its body for good; what is left of it in voxels reads as background."""
        await self._take_out(supervoxel)
        self._names[supervoxel] = RETIRED

    async def join(self, target: int, other: int, *, with_other: bool) -> None:
        """Make all supervoxels of another body the target's; `with_other`: also the one of the other's own number."""
        self._touched |= {target, other}
        ours, theirs = await self.root_of(target), await self.root_of(other)
        if theirs is not None:
            self._roots[other] = None
            joined = await self.group(theirs)
            if ours is None:
                self._groups[theirs] = Group(OF_BODY, target, joined.members)
                self._roots[target] = theirs
            else:
                mine = await self.group(ours)
                top, below = (ours, theirs) if mine.members >= joined.members else (theirs, ours)
                part = await self.group(below)
                self._groups[below] = Group(OF_GROUP, top, part.members)
                self._groups[top] = Group(OF_BODY, target, mine.members + joined.members)
                self._roots[target] = top
                self._children[top, keys.GROUP, below] = True
        if with_other and await self.group_of(other) is None:
            await self.put_in(target, [other])

    async def rename(self, old: int, new: int, *, with_old: bool) -> None:
        """Give a body another number, which no body with voxels has."""
        if await self.group_of(new) is None:  # the number becomes a body's, but no supervoxel of it
            await self.retire(new)
        await self.join(new, old, with_other=with_old)  # the number may have supervoxels that were all painted over

    async def revive(self, supervoxel: int) -> None:
        """Let a retired supervoxel that is painted again belong to the body of its number."""
        self._touched.add(supervoxel)
        if await self.group_of(supervoxel) == RETIRED:
            self._names[supervoxel] = None

    async def fix(self, supervoxel: int, body: int | None) -> None:
        """Let reads of voxels show a body for a supervoxel, whatever the groups say; None: what the groups say."""
        self._fixed[supervoxel] = body

    async def fix_if_other(self, supervoxel: int, body: int) -> None:
        """The same, where it makes a difference."""
        await self.fix(supervoxel, None if await self.body_of(supervoxel) == body else body)

    async def _take_out(self, supervoxel: int) -> None:
        """Take a supervoxel out of its group, so that it is its own body."""
        self._touched.add(await self.body_of(supervoxel))
        name = await self.group_of(supervoxel)
        if name is None:
            return
        self._names[supervoxel] = None
        if name != RETIRED:
            self._children[name, keys.SUPERVOXEL, supervoxel] = False
            await self._grow(name, -1)

    def _new_root(self, body: int) -> int:
        name, self._next_name = self._next_name, self._next_name + 1
        self._new.add(name)
        self._groups[name] = Group(OF_BODY, body, 0)
        self._roots[body] = name
        return name

    async def _grow(self, name: int, by: int) -> None:
        """Count members up to the root."""
        while True:
            found = await self.group(name)
            self._groups[name] = Group(found.kind, found.of, found.members + by)
            if found.kind == OF_BODY:
                return
            name = found.of

    # -------- staging

    async def flush(self) -> None:
        """Stage what has changed."""
        put, delete = self._below.put, self._below.delete
        there = self.before
        names = await _changed(self._names, there.group_of)
        fixed = await _changed(self._fixed, there.fixed_of)
        roots = await _changed(self._roots, there.root_of)
        for pairs, rows in ((keys.MAP, names), (keys.ROOT, roots), (keys.FIXED, fixed)):
            for label, before, now in rows:
                if before is not None:
                    delete(pairs.key(label, before))
                if now is not None:
                    put(pairs.key(label, now), b"")
        moved = []
        for name, group in self._groups.items():
            was = None if name in self._new else await there.group(name)
            if was is not None and was != group:
                delete(keys.group(name, was.kind, was.of, was.members))
            if was != group:
                put(keys.group(name, group.kind, group.of, group.members), b"")
            if was is None or (was.kind, was.of) != (group.kind, group.of):
                moved.append([name, group.kind, group.of])
        for (name, kind, member), is_in in self._children.items():
            if is_in:
                put(keys.child(name, kind, member), b"")
            else:
                delete(keys.child(name, kind, member))
        await _count_fixed(self._below, fixed)
        is_due = await self._renew()
        if names or fixed or moved or is_due:
            await self._stage_turn([row[::2] for row in names], [row[::2] for row in fixed], moved)

    async def _renew(self) -> bool:
        """Let stale indices that were touched list their own; whether there were any, or are new ones."""
        renewed = [(body, label) for body in self._touched for label in await stale(self._below, body)]
        for body, label in renewed:
            self._below.delete(keys.STALE.key(body, label))
        for body, label in self.left_stale:
            self._below.put(keys.STALE.key(body, label), b"")
            self._below.put(keys.HAS_STALE, b"")
        return bool(renewed or self.left_stale)

    async def _stage_turn(self, names: _Told, fixed: _Told, groups: list[list[int]]) -> None:
        value: dict[str, Any] = {}  # an empty turn: too much has changed
        if len(names) + len(fixed) + len(groups) <= LONGEST_TURN:
            told = {body for operation in self.operations for body in operation[-2:]}
            operations = [*self.operations, ["rebuild", *sorted(self._touched - told)]]
            value = {"map": names, "fixed": fixed, "groups": groups, "operations": operations}
        await stage_turn(self._below, value)


async def _changed(table: dict[int, int | None], before: Callable[[int], Awaitable[int | None]]) -> _Rows:
    """The rows of a table that are others than before: first number, second number before and now."""
    rows = [(label, await before(label), now) for label, now in table.items()]
    return [row for row in rows if row[1] != row[2]]


async def _count_fixed(mutation: Mutation, changes: _Rows) -> None:
    grown = sum((now is not None) - (before is not None) for _, before, now in changes)
    if grown:
        mutation.put(keys.FIXED_COUNT, keys.number(await fixed_count(mutation) + grown))


async def fix_all(mutation: Mutation, changes: _Rows) -> None:
    """Change posted mappings that differ from the groups: rows of a supervoxel, its body before, and its body now."""
    for label, before, now in changes:
        if before is not None:
            mutation.delete(keys.FIXED.key(label, before))
        if now is not None:
            mutation.put(keys.FIXED.key(label, now), b"")
    await _count_fixed(mutation, changes)
    if changes:
        fixed = [[label, now] for label, _, now in changes]
        told = {"map": [], "fixed": fixed, "groups": [], "operations": []} if len(fixed) <= LONGEST_TURN else {}
        await stage_turn(mutation, told)
