"""What a process remembers of bodies: answers put together from many keys, until something is written.

They lie in the process's cache with the snapshot's other values, under keys that no tree has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from app.datatypes.labelmap import index, keys
from app.versioning.snapshot import Snapshot

#: Labels looked up at the same time.
TOGETHER = 256
#: A larger answer is put together anew each time.
LARGEST_ANSWER = 32 << 20
_NUMBER_BYTES = 32


def recall(snapshot: Snapshot, label: int, facet: Any) -> Any:
    """What is remembered of a label for this generation, or None."""
    known = snapshot.recall(_key(label), facet)
    return known[1] if known is not None and known[0] == snapshot.generation else None


def remember(snapshot: Snapshot, label: int, facet: Any, value: Any, size_bytes: int) -> None:
    """Remember something of a label."""
    if size_bytes <= LARGEST_ANSWER:
        snapshot.remember(_key(label), facet, (snapshot.generation, value), size_bytes)


async def sizes(snapshot: Snapshot, labels: Sequence[int], is_supervoxel: bool) -> list[int]:
    """The numbers of voxels of bodies or supervoxels in their order, 0 for those that do not exist."""
    facet = ("size", is_supervoxel)
    found: list[int | None] = [recall(snapshot, label, facet) for label in labels]
    absent = [place for place, size in enumerate(found) if size is None]
    for start in range(0, len(absent), TOGETHER):
        some = absent[start : start + TOGETHER]
        counted = await asyncio.gather(*[index.size(snapshot, labels[place], is_supervoxel) for place in some])
        for place, size in zip(some, counted, strict=True):
            found[place] = size
            remember(snapshot, labels[place], facet, size, _NUMBER_BYTES)
    return [size or 0 for size in found]


def _key(label: int) -> bytes:
    return b"memo/" + keys.number(label)
