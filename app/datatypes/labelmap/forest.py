"""Groups of supervoxels as one mutation changes them (see `groups.py`).

A forest reads through a mutation, keeps what it changes, and stages all of it in `flush`. What the process knows of the
mapping spares it most reads: most supervoxels are in no group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.datatypes.labelmap import keys, mapping
from app.datatypes.labelmap.groups import (
    RETIRED,
    Group,
    fixed_count,
    fixed_of,
    group,
    group_of,
    looked_up,
    mark,
    root_of,
    stage_turn,
    stale,
    turns,
    under,
)
from app.datatypes.labelmap.keys import OF_BODY, OF_GROUP
from app.datatypes.labelmap.mapping import Mapping
from app.versioning.snapshot import Reader, Snapshot
from app.versioning.tree import Mutation

#: A turn with more changes than this says only that there were many.
LONGEST_TURN = 100_000
#: Lists that are asked for ahead, and the members of a group whose lists are among them.
TOGETHER, FEW = 64, 16


@dataclass(frozen=True)
class Known:
    """What is not in the tables for certain: what this process knew of them, and what was said since."""

    mapping: Mapping | None
    supervoxels: frozenset[int]
    bodies: frozenset[int]

    @staticmethod
    async def of(reader: Reader) -> Known:
        """What is known of the tables that a reader sees."""
        now = await mark(reader)
        known = mapping.recalled(reader) if now else mapping.IDENTITY
        since = await turns(reader, known.mark, now) if known is not None else None
        if since is None:
            return Known(None, frozenset(), frozenset())
        named = frozenset(label for turn in since for table in ("map", "fixed") for label, _ in turn[table])
        return Known(known, named, frozenset(of for turn in since for _, kind, of in turn["groups"] if kind == OF_BODY))

    def may_list(self, supervoxel: int) -> bool:
        """Whether a supervoxel may be in a group, or be named by a posted mapping."""
        return self.mapping is None or supervoxel in self.supervoxels or self.mapping.is_listed(supervoxel)

    def may_group(self, body: int) -> bool:
        """Whether a body may have a group."""
        return self.mapping is None or body in self.bodies or self.mapping.is_grouped(body)


async def look_ahead(snapshot: Snapshot, bodies: Sequence[int], supervoxels: Sequence[int]) -> None:
    """Ask at once for what an edit of bodies and the counting of supervoxels will look up one after another."""
    known = await Known.of(snapshot)
    labels = [*{*bodies, *supervoxels}][:TOGETHER]
    grouped = [keys.MAP.range_of(label) for label in labels if known.may_list(label)]
    grouped += [keys.ROOT.range_of(body) for body in bodies[:TOGETHER] if known.may_group(body)]
    found = await snapshot.keys_of([*grouped, *[keys.supervoxel(label) for label in supervoxels[:TOGETHER]]])
    names = {int.from_bytes(rows[0][-8:], "big") for rows in found[: len(grouped)] if rows} - {RETIRED}
    if names:
        found = await snapshot.keys_of([keys.group_range(name) for name in names])
        few = [int(row["name"]) for rows in found for row in keys.parse_groups(rows) if row["members"] <= FEW]
        ranges = [keys.children(name, kind) for name in few for kind in (keys.SUPERVOXEL, keys.GROUP)]
        found = await snapshot.keys_of(ranges)
        if supervoxels:
            below = [int.from_bytes(row[-8:], "big") for rows in found[::2] for row in rows]
            await snapshot.keys_of([keys.supervoxel(label) for label in below[:TOGETHER]])


class Forest:
    """The groups and the mapping as one mutation changes them. `seed` makes names of new groups: unique in the repo."""

    def __init__(self, mutation: Mutation, seed: int) -> None:
        self._below = mutation
        self._known: Known | None = None
        self._next_name = seed << 20
        self._maps: dict[int, tuple[int | None, int | None]] = {}
        self._groups: dict[int, tuple[Group | None, Group]] = {}
        self._roots: dict[int, tuple[int | None, int | None]] = {}
        self._fixed: dict[int, tuple[int | None, int | None]] = {}
        self._children: dict[tuple[int, int, int], bool] = {}
        self._has_fixed: bool | None = None
        self._moved_in: dict[int, set[int]] = defaultdict(set)
        self._touched: set[int] = set()
        #: Bodies and supervoxels that their indices go on to list.
        self.left_stale: list[tuple[int, int]] = []
        #: How bodies changed, for readers that know them; others that changed are named in `flush`.
        self.operations: list[list[Any]] = []

    # -------- what is there

    async def _look(self) -> Known:
        if self._known is None:
            self._known = await Known.of(self._below)
        return self._known

    async def prefetch(self, supervoxels: Iterable[int]) -> None:
        """Look up many supervoxels at once."""
        known = await self._look()
        unknown = [label for label in supervoxels if label not in self._maps]
        wanted = [label for label in unknown if known.may_list(label)]
        self._maps.update(dict.fromkeys(unknown, (None, None)))
        for label, name in (await looked_up(self._below, keys.MAP, wanted)).items():
            self._maps[label] = name, name

    async def prefetch_fixed(self, supervoxels: Iterable[int]) -> None:
        """Look up the posted mappings of many supervoxels at once."""
        wanted = [label for label in supervoxels if label not in self._fixed]
        if await fixed_count(self._below):
            for label, body in (await looked_up(self._below, keys.FIXED, wanted)).items():
                self._fixed[label] = body, body

    async def prefetch_bodies(self, bodies: Iterable[int]) -> None:
        """Look up the groups of many whole bodies at once."""
        wanted = [body for body in bodies if body not in self._roots]
        for body, name in (await looked_up(self._below, keys.ROOT, wanted)).items():
            self._roots[body] = name, name

    async def group_of(self, supervoxel: int) -> int | None:
        """The group of a supervoxel, `RETIRED`, or None."""
        if supervoxel not in self._maps:
            may_be = (await self._look()).may_list(supervoxel)
            name = await group_of(self._below, supervoxel) if may_be else None
            self._maps[supervoxel] = name, name
        return self._maps[supervoxel][1]

    async def group(self, name: int) -> Group:
        """A group."""
        if name not in self._groups:
            found = await group(self._below, name)
            self._groups[name] = found, found
        return self._groups[name][1]

    async def root_of(self, body: int) -> int | None:
        """The group of a whole body."""
        if body not in self._roots:
            may_be = (await self._look()).may_group(body)
            name = await root_of(self._below, body) if may_be else None
            self._roots[body] = name, name
        return self._roots[body][1]

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
        if supervoxel not in self._fixed:
            if self._has_fixed is None:
                self._has_fixed = await fixed_count(self._below) > 0
            may_be = self._has_fixed and (await self._look()).may_list(supervoxel)
            found = await fixed_of(self._below, supervoxel) if may_be else None
            self._fixed[supervoxel] = found, found
        return self._fixed[supervoxel][1]

    async def members(self, body: int) -> list[int]:
        """The supervoxels of a body as they are now; costs as much as it has."""
        await self.root_of(body)
        await self.group_of(body)
        root = self._roots[body][0]
        listed = (await under(self._below, root)).tolist() if root is not None else []
        if self._maps[body][0] is None:
            listed.append(body)
        return sorted([label for label in {*listed, *self._moved_in[body]} if await self._is_in(label, body)])

    async def _is_in(self, supervoxel: int, body: int) -> bool:
        """Whether a supervoxel that was listed for a body still is its member."""
        before, now = self._maps.get(supervoxel, (None, None))
        return before == now or await self.body_of(supervoxel) == body

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
            self._set(self._maps, label, root)
            self._children[root, keys.SUPERVOXEL, label] = True
            self._moved_in[body].add(label)
            await self._grow(root, 1)

    async def retire(self, supervoxel: int) -> None:
        """Take a supervoxel out of its body for good; what is left of it in voxels reads as background."""
        await self._take_out(supervoxel)
        self._set(self._maps, supervoxel, RETIRED)

    async def join(self, target: int, other: int, *, with_other: bool) -> None:
        """Make all supervoxels of another body the target's; `with_other`: also the one of the other's own number."""
        self._touched |= {target, other}
        ours, theirs = await self.root_of(target), await self.root_of(other)
        if theirs is not None:
            self._set(self._roots, other, None)
            joined = await self.group(theirs)
            if ours is None:
                self._set_group(theirs, Group(OF_BODY, target, joined.members))
                self._set(self._roots, target, theirs)
            else:
                mine = await self.group(ours)
                top, below = (ours, theirs) if mine.members >= joined.members else (theirs, ours)
                part = await self.group(below)
                self._set_group(below, Group(OF_GROUP, top, part.members))
                self._set_group(top, Group(OF_BODY, target, mine.members + joined.members))
                self._set(self._roots, target, top)
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
            self._set(self._maps, supervoxel, None)

    async def fix(self, supervoxel: int, body: int | None) -> None:
        """Let reads of voxels show a body for a supervoxel, whatever the groups say; None: what the groups say."""
        await self.fixed_of(supervoxel)
        self._set(self._fixed, supervoxel, body)

    async def fix_if_other(self, supervoxel: int, body: int) -> None:
        """The same, where it makes a difference."""
        await self.fix(supervoxel, None if await self.body_of(supervoxel) == body else body)

    async def _take_out(self, supervoxel: int) -> None:
        """Take a supervoxel out of its group, so that it is its own body."""
        self._touched.add(await self.body_of(supervoxel))
        name = await self.group_of(supervoxel)
        if name is None:
            return
        self._set(self._maps, supervoxel, None)
        if name != RETIRED:
            self._children[name, keys.SUPERVOXEL, supervoxel] = False
            await self._grow(name, -1)

    def _new_root(self, body: int) -> int:
        name, self._next_name = self._next_name, self._next_name + 1
        self._groups[name] = None, Group(OF_BODY, body, 0)
        self._set(self._roots, body, name)
        return name

    async def _grow(self, name: int, by: int) -> None:
        """Count members up to the root."""
        while True:
            found = await self.group(name)
            self._set_group(name, Group(found.kind, found.of, found.members + by))
            if found.kind == OF_BODY:
                return
            name = found.of

    def _set_group(self, name: int, value: Group) -> None:
        self._groups[name] = self._groups[name][0], value

    @staticmethod
    def _set(table: dict[int, tuple[int | None, int | None]], key: int, value: int | None) -> None:
        table[key] = table[key][0], value  # it has been looked up before: what was there must be known

    # -------- staging

    async def flush(self) -> None:
        """Stage what has changed."""
        put, delete = self._below.put, self._below.delete
        for pairs, table in ((keys.MAP, self._maps), (keys.ROOT, self._roots), (keys.FIXED, self._fixed)):
            for label, (before, now) in table.items():
                if before != now:
                    if before is not None:
                        delete(pairs.key(label, before))
                    if now is not None:
                        put(pairs.key(label, now), b"")
        for name, (was, is_now) in self._groups.items():
            if was != is_now:
                if was is not None:
                    delete(keys.group(name, was.kind, was.of, was.members))
                put(keys.group(name, is_now.kind, is_now.of, is_now.members), b"")
        for (name, kind, member), is_in in self._children.items():
            if is_in:
                put(keys.child(name, kind, member), b"")
            else:
                delete(keys.child(name, kind, member))
        grown = sum((now is not None) - (before is not None) for before, now in self._fixed.values())
        if grown:
            put(keys.FIXED_COUNT, keys.number(await fixed_count(self._below) + grown))
        renewed = [(body, label) for body in self._touched for label in await stale(self._below, body)]
        for body, label in renewed:
            delete(keys.STALE.key(body, label))
        for body, label in self.left_stale:
            put(keys.STALE.key(body, label), b"")
            put(keys.HAS_STALE, b"")
        await self._stage_turn(bool(renewed or self.left_stale))

    async def _stage_turn(self, is_due: bool) -> None:
        maps = [[label, now] for label, (before, now) in self._maps.items() if before != now]
        fixed = [[label, now] for label, (before, now) in self._fixed.items() if before != now]
        groups = [
            [name, now.kind, now.of] for name, (before, now) in self._groups.items() if now and _moved(before, now)
        ]
        if not (maps or fixed or groups or is_due):
            return
        value: dict[str, Any] = {}  # an empty turn: too much has changed
        if len(maps) + len(fixed) + len(groups) <= LONGEST_TURN:
            told = {body for operation in self.operations for body in operation[-2:]}
            operations = [*self.operations, ["rebuild", *sorted(self._touched - told)]]
            value = {"map": maps, "fixed": fixed, "groups": groups, "operations": operations}
        await stage_turn(self._below, value)


async def fix_all(mutation: Mutation, changes: Sequence[tuple[int, int | None, int | None]]) -> None:
    """Change posted mappings that differ from the groups: rows of a supervoxel, its body before, and its body now."""
    grown = 0
    for label, before, now in changes:
        if before is not None:
            mutation.delete(keys.FIXED.key(label, before))
        if now is not None:
            mutation.put(keys.FIXED.key(label, now), b"")
        grown += (now is not None) - (before is not None)
    if grown:
        mutation.put(keys.FIXED_COUNT, keys.number(await fixed_count(mutation) + grown))
    if changes:
        fixed = [[label, now] for label, _, now in changes]
        told = {"map": [], "fixed": fixed, "groups": [], "operations": []} if len(fixed) <= LONGEST_TURN else {}
        await stage_turn(mutation, told)


def _moved(before: Group | None, now: Group) -> bool:
    return before is None or (before.kind, before.of) != (now.kind, now.of)
