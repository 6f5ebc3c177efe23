"""How is a long range of keys read in parts that fit into memory? Along the nodes of the tree that holds it."""

from __future__ import annotations

import asyncio

from app.backends.ocdbt import Node
from app.core.errors import StoreUnavailable
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

#: Nodes that are read at the same time.
TOGETHER = 32


async def starts(data: Data, snapshot: Snapshot, first: bytes, last: bytes, leaves: int) -> list[bytes]:
    """Keys at which parts of a range begin, ascending, each of about so many leaves of the tree; `first` comes first.

    A generation whose nodes cannot be found any more is one part.
    """
    owner = await data.trees.owner(data.folder, data.line)
    if owner is None:
        return [first]
    try:
        root = await owner.map.root(snapshot.generation)
    except StoreUnavailable:
        return [first]
    nodes: list[Node] = [] if root is None else [root]
    while nodes and nodes[0].height:
        below: list[Node] = []
        for start in range(0, len(nodes), TOGETHER):
            some = nodes[start : start + TOGETHER]
            for children in await asyncio.gather(*[owner.map.children(node) for node in some]):
                below += [child for child in children if child.first < last and not _ends_before(child, first)]
        nodes = below
    inside = [node.first for node in nodes if first < node.first]
    return [first, *inside[leaves - 1 :: leaves]]


def _ends_before(node: Node, first: bytes) -> bool:
    return node.last is not None and node.last <= first
