"""In which keys do two states of an instance differ? At a cost that grows with the difference, not with the data.

Trees of one instance share nodes: what was not written since two trees parted is the same node in both. So both are
walked down together, level by level, and whatever node both have is left out with all below it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence, Set
from dataclasses import dataclass

from app.backends.ocdbt import Held, Node
from app.backends.ordered_map import OrderedMap

#: Nodes that are read at the same time.
TOGETHER = 32


@dataclass(frozen=True)
class Place:
    """A generation of a map; without a map it has no keys."""

    map: OrderedMap | None = None
    generation: int = 0


@dataclass(frozen=True)
class Change:
    """What a key holds in two states, as far as nodes tell; None where it is absent."""

    old: Held | None
    new: Held | None


@dataclass(frozen=True)
class Difference:
    """The leaves that only one of two states has; the leaves of both may well hold some of the same keys."""

    old: Place
    new: Place
    gone: Sequence[Node]
    come: Sequence[Node]

    async def changes(self) -> dict[bytes, Change]:
        """The keys that hold something else, in order. A large value that was written anew counts as something else."""
        before, after = await _held(self.old, self.gone), await _held(self.new, self.come)
        late = {*await _late(self.old), *await _late(self.new)}  # of these the nodes do not tell the truth
        await _put_right(before, self.old, late)
        await _put_right(after, self.new, late)
        names = sorted(before.keys() | after.keys())
        pairs = ((name, before.get(name), after.get(name)) for name in names)
        return {name: Change(old, new) for name, old, new in pairs if old != new}


async def difference(old: Place, new: Place, among: Sequence[bytes] | None = None) -> Difference:
    """Where two states of an instance differ; with `among` (keys in order), only as far as these keys may lie there."""
    olds, news = await _root(old), await _root(new)
    for height in range(max([node.height for node in [*olds, *news]], default=0), -1, -1):
        shared = {_identity(node) for node in olds} & {_identity(node) for node in news}
        olds = [node for node in olds if _identity(node) not in shared and _may_hold(node, among)]
        news = [node for node in news if _identity(node) not in shared and _may_hold(node, among)]
        if height:
            olds, news = await _below(old, olds, height), await _below(new, news, height)
    return Difference(old, new, olds, news)


async def changes(old: Place, new: Place, among: Sequence[bytes] | None = None) -> dict[bytes, Change]:
    """The keys, or those among some, that hold something else in a newer state."""
    found = await (await difference(old, new, among)).changes()
    if among is None:
        return found
    return {name: found[name] for name in among if name in found}


async def _late(place: Place) -> dict[bytes, bytes | None]:
    return {} if place.map is None else (await place.map.at(place.generation)).late()


async def _put_right(held: dict[bytes, Held], place: Place, keys: Set[bytes]) -> None:
    names = sorted(keys)
    values = [None] * len(names) if place.map is None else await (await place.map.at(place.generation)).get_many(names)
    for name, value in zip(names, values, strict=True):
        if value is None:
            held.pop(name, None)
        else:
            held[name] = value


async def _root(place: Place) -> list[Node]:
    root = None if place.map is None else await place.map.root(place.generation)
    return [] if root is None else [root]


def _identity(node: Node) -> tuple[str, bytes]:
    return node.location, node.prefix


def _may_hold(node: Node, among: Sequence[bytes] | None) -> bool:
    if among is None:
        return True
    place = bisect_left(among, node.first)
    return place < len(among) and (node.last is None or among[place] < node.last)


async def _below(place: Place, nodes: Sequence[Node], height: int) -> list[Node]:
    """Nodes with those of this height replaced by their children."""
    assert place.map is not None or not nodes
    found: list[Node] = []
    for start in range(0, len(nodes), TOGETHER):
        some = nodes[start : start + TOGETHER]
        children = await asyncio.gather(
            *[place.map.children(node) for node in some if place.map is not None and node.height == height]
        )
        found += [node for node in some if node.height != height]
        found += [child for listed in children for child in listed]
    return found


async def _held(place: Place, leaves: Sequence[Node]) -> dict[bytes, Held]:
    found: dict[bytes, Held] = {}
    for start in range(0, len(leaves), TOGETHER):
        some = leaves[start : start + TOGETHER]
        for entries in await asyncio.gather(*[place.map.leaf(node) for node in some if place.map is not None]):
            found.update(entries)
    return found
