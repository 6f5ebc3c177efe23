"""What the tables of groups say of some supervoxels and bodies: looked up once, in few rounds of lists.

What the process knows of the mapping spares most lists: most supervoxels are in no group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.backends.view import Range
from app.datatypes.labelmap import groups, keys, mapping
from app.datatypes.labelmap.groups import Group
from app.datatypes.labelmap.keys import OF_BODY
from app.datatypes.labelmap.mapping import Mapping
from app.versioning.snapshot import Reader

#: Supervoxels and bodies that are looked up together with their groups, and members of a group that come with it.
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
        now = await groups.mark(reader)
        known = mapping.recalled(reader) if now else mapping.IDENTITY
        since = await groups.turns(reader, known.mark, now) if known is not None else None
        if since is None:
            return Known(None, frozenset(), frozenset())
        named = frozenset([label for turn in since for table in ("map", "fixed") for label, _ in turn[table]])
        grouped = frozenset([of for turn in since for _, kind, of in turn["groups"] if kind == OF_BODY])
        return Known(known, named, grouped)

    def may_list(self, supervoxel: int) -> bool:
        """Whether a supervoxel may be in a group, or be named by a posted mapping."""
        return self.mapping is None or supervoxel in self.supervoxels or self.mapping.is_listed(supervoxel)

    def may_group(self, body: int) -> bool:
        """Whether a body may have a group."""
        return self.mapping is None or body in self.bodies or self.mapping.is_grouped(body)


class Lookups:
    """Rows of the tables as a reader sees them, kept once they were looked up."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: Known | None = None
        self._has_fixed: bool | None = None
        self._names: dict[int, int | None] = {}
        self._groups: dict[int, Group] = {}
        self._roots: dict[int, int | None] = {}
        self._fixed: dict[int, int | None] = {}
        self._small: dict[int, list[int]] = {}

    # -------- many at once

    async def around(self, bodies: Sequence[int], supervoxels: Sequence[int] = (), also: Sequence[Range] = ()) -> None:
        """Look up supervoxels, whole bodies and their groups with the members of small ones; read other ranges too."""
        known = await self._look()
        labels = [label for label in {*bodies, *supervoxels} if label not in self._names][:TOGETHER]
        wholes = [body for body in bodies if body not in self._roots][:TOGETHER]
        self._names.update(dict.fromkeys(labels))
        self._roots.update(dict.fromkeys(wholes))
        labels = [label for label in labels if known.may_list(label)]
        wholes = [body for body in wholes if known.may_group(body)]
        rows = await self._only([*map(keys.MAP.range_of, labels), *map(keys.ROOT.range_of, wholes)], also)
        named = [keys.last_number(row) if row else None for row in rows]
        self._names.update(zip(labels, named, strict=False))
        self._roots.update(zip(wholes, named[len(labels) :], strict=True))
        names = [*({name for name in named if name} - self._groups.keys())]
        rows = await self._only([keys.group_range(name) for name in names])
        self._groups.update((name, groups.parsed(name, row)) for name, row in zip(names, rows, strict=True))
        await self._look_inside([name for name in names if self._groups[name].members <= FEW])

    async def _only(self, ranges: Sequence[Range], also: Sequence[Range] = ()) -> list[bytes | None]:
        """The keys of ranges that have one or none; other ranges are read together with them."""
        found = await self._listed(ranges, [1] * len(ranges), also)
        return [rows[0] if rows else None for rows in found]

    async def _look_inside(self, small: Sequence[int]) -> None:
        """Look up the members of small groups, as far as all of them are supervoxels."""
        members = [self._groups[name].members for name in small]
        found = await self._listed([keys.children(name) for name in small], members)
        for name, number, rows in zip(small, members, found, strict=True):
            if len(rows) == number and all(map(keys.is_of_supervoxel, rows)):
                self._small[name] = [keys.last_number(row) for row in rows]

    async def _listed(
        self, ranges: Sequence[Range], full: Sequence[int], also: Sequence[Range] = ()
    ) -> list[list[bytes]]:
        """The keys of ranges, which have as many keys as is said, or fewer; other ranges are read with them."""
        found = [self._reader.recent(range_) for range_ in ranges]
        unknown = [place for place, number in enumerate(full) if len(found[place]) < number]
        if unknown or also:
            listed = await self._reader.keys_of([*[ranges[place] for place in unknown], *also])
            for place, rows in zip(unknown, listed, strict=False):
                found[place] = rows
        return found

    async def supervoxels(self, supervoxels: Iterable[int]) -> None:
        """Look up the groups of many supervoxels."""
        known = await self._look()
        unknown = [label for label in supervoxels if label not in self._names]
        self._names.update(dict.fromkeys(unknown))
        wanted = [label for label in unknown if known.may_list(label)]
        self._names.update(await groups.looked_up(self._reader, keys.MAP, wanted))

    async def fixed(self, supervoxels: Iterable[int]) -> None:
        """Look up the posted mappings of many supervoxels."""
        wanted = [label for label in supervoxels if label not in self._fixed]
        if await groups.fixed_count(self._reader):
            self._fixed.update(await groups.looked_up(self._reader, keys.FIXED, wanted))

    async def bodies(self, bodies: Iterable[int]) -> None:
        """Look up the groups of many whole bodies."""
        wanted = [body for body in bodies if body not in self._roots]
        self._roots.update(await groups.looked_up(self._reader, keys.ROOT, wanted))

    # -------- one at a time

    async def group_of(self, supervoxel: int) -> int | None:
        """The group of a supervoxel, `RETIRED`, or None."""
        if supervoxel not in self._names:
            may_be = (await self._look()).may_list(supervoxel)
            self._names[supervoxel] = await groups.group_of(self._reader, supervoxel) if may_be else None
        return self._names[supervoxel]

    async def group(self, name: int) -> Group:
        """A group."""
        if name not in self._groups:
            self._groups[name] = await groups.group(self._reader, name)
        return self._groups[name]

    async def root_of(self, body: int) -> int | None:
        """The group of a whole body."""
        if body not in self._roots:
            may_be = (await self._look()).may_group(body)
            self._roots[body] = await groups.root_of(self._reader, body) if may_be else None
        return self._roots[body]

    async def fixed_of(self, supervoxel: int) -> int | None:
        """The posted mapping of a supervoxel where it differs from the groups."""
        if supervoxel not in self._fixed:
            if self._has_fixed is None:
                self._has_fixed = await groups.fixed_count(self._reader) > 0
            may_be = self._has_fixed and (await self._look()).may_list(supervoxel)
            self._fixed[supervoxel] = await groups.fixed_of(self._reader, supervoxel) if may_be else None
        return self._fixed[supervoxel]

    async def members(self, body: int) -> list[int]:
        """The supervoxels of a body, in no order, with and without voxels; costs as much as it has."""
        root = await self.root_of(body)
        own = [body] if await self.group_of(body) is None else []
        if root is None:
            return own
        small = self._small.get(root)
        return [*(small if small is not None else (await groups.under(self._reader, root)).tolist()), *own]

    def few_members(self, body: int) -> list[int]:
        """The supervoxels in the group of a body that `around` found to be small, else none."""
        root = self._roots.get(body)
        return [] if root is None else self._small.get(root, [])

    async def _look(self) -> Known:
        if self._known is None:
            self._known = await Known.of(self._reader)
        return self._known
