"""Version merges of labels: voxel by voxel, and supervoxel by supervoxel.

What one side did alone is taken: as keys where the other side did nothing of the kind, else by what it means. Both
sides may write voxels of one block, move supervoxels of one body, add to one index. In conflict are

- a voxel painted differently on both sides,
- a supervoxel put in different bodies, or mapped to them,
- a body that got supervoxels on one side and on the other was merged away or renumbered, and one that both sides made,
- a supervoxel that was split or retired on one side and painted elsewhere on the other.

They are named by body. Counts follow the voxels; where indices were posted they are compared by supervoxel and block.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import orjson

from app.datatypes import voxels
from app.datatypes.labelmap import keys
from app.versioning.merge import Join, Settling, Sides

#: What a voxel, or the body of a supervoxel, is in the past of sides that settled a conflict each for itself.
NOBODY = (1 << 64) - 1
#: Supervoxels named for one body.
NAMED = 8


@dataclass
class Conflicts:
    """What was found to be in conflict, by body."""

    painted: set[int] = field(default_factory=set)
    moved: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    dissolved: set[int] = field(default_factory=set)
    retired: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    counted: set[int] = field(default_factory=set)

    def lines(self) -> list[str]:
        """One line for each body and kind."""
        moved, retired = sorted(self.moved.items()), sorted(self.retired.items())
        return [
            *(f"body {body}: voxels were painted differently" for body in sorted(self.painted)),
            *(f"body {body}: supervoxels {_some(of)} were put in different bodies" for body, of in moved),
            *(f"body {body}: one side added to it, the other made it another body" for body in sorted(self.dissolved)),
            *(f"body {body}: supervoxels {_some(of)} were split or retired, and painted" for body, of in retired),
            *(f"body {body}: different counts were posted" for body in sorted(self.counted)),
        ]


def _some(labels: set[int]) -> str:
    shown = ", ".join(map(str, sorted(labels)[:NAMED]))
    return f"{shown} and {len(labels) - NAMED} more" if len(labels) > NAMED else shown


async def merge(sides: Sides) -> list[str]:
    """Bring a side in."""
    from app.datatypes.labelmap.merging import bodies, counts
    from app.datatypes.labelmap.merging import voxels as painted

    conflicts = Conflicts()
    mixed = await painted.join(sides, conflicts)
    change = await bodies.join(sides, conflicts)
    if sides.data.instance.settings["indexed"]:
        await counts.join(sides, mixed, change, conflicts)
    for key in sides.changes:
        join = _JOINS.get(key)
        if keys.parse_block(key) or keys.is_of_mapping(key) or keys.is_of_index(key):
            continue
        if key.startswith(keys.HEAD):
            await _join_head(sides, key)
        elif join is not None:
            values = [await reader.get(key) for reader in (sides.base, sides.target, sides.side)]
            sides.put(key, join(*values))
        else:
            await sides.join(key)
    return conflicts.lines()


async def _join_head(sides: Sides, key: bytes) -> None:
    """Of two changes of a body the later one is its last, unless the other side has priority."""
    if key not in sides.clashes:
        sides.take(key)
        return
    ours, theirs = await sides.target.get(key), await sides.side.get(key)
    if sides.settling is Settling.KEEP:
        return
    if ours is None or theirs is None:
        sides.put(key, None)
    elif orjson.loads(theirs)[0] > orjson.loads(ours)[0]:
        sides.put(key, theirs)


def _larger(_base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes | None:
    return max(ours or b"", theirs or b"") or None


_JOINS: dict[bytes, Join] = {keys.MAX_LABEL: _larger, voxels.EXTENTS: voxels.join_extents}
