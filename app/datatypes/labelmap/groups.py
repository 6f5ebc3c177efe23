"""Which supervoxels make a body: a forest whose edits cost what they name, not what the bodies hold.

A supervoxel in no group belongs to the body of its own number. Others are members of a group; a group is a body (but
for the supervoxel of the body's number, which may stand alone), or a part of a larger group. Joining two bodies hangs
one group below the other, whichever is smaller, so a chain of groups is no longer than the logarithm of their number.
Taking supervoxels out rewrites just these. (Union by size: Tarjan, "Efficiency of a good but not linear set union
algorithm", 1975; here with deletion, and kept for every version.)

Two things may differ for a while, as in DVID: which supervoxels the index lists for a body (the groups), and what reads
of voxels show (the mapping). `POST mappings` changes the mapping alone, `POST indices` the groups alone; where they
differ the mapping is kept in `fixed/`. Edits change both.

Readers that know an earlier state follow the turns that edits leave. `forest.py` changes groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from app.core.errors import StoreUnavailable
from app.datatypes.labelmap import keys
from app.datatypes.labelmap.keys import OF_BODY, U64
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader

#: The group of supervoxels that exist no more: split ones, and numbers that became a body's without being one before.
RETIRED = 0
#: Turns kept for readers that are behind; who is further behind reads the whole mapping.
TURNS = 256
#: Lookups of supervoxels under way at once.
TOGETHER = 256
#: For more lookups than this it is quicker to read the whole table.
MANY = 20_000


@dataclass(frozen=True)
class Group:
    """A group of so many supervoxels: a body's whole, or part of another group."""

    kind: int
    of: int
    members: int


# ------------------------------------------------------------------ reading


async def group_of(reader: Reader, supervoxel: int) -> int | None:
    """The group that a supervoxel is in; `RETIRED`, or None if it is in none."""
    found = await reader.keys(*keys.MAP.range_of(supervoxel))
    return keys.last_number(found[0]) if found else None


async def group(reader: Reader, name: int) -> Group:
    """A group by its name."""
    rows = await reader.keys(*keys.group_range(name))
    return parsed(name, rows[0] if rows else None)


def parsed(name: int, row: bytes | None) -> Group:
    """A group by its key; `StoreUnavailable` if there is none."""
    if row is None:
        raise StoreUnavailable(f"the group {name} of supervoxels is missing")
    return Group(*keys.parse_group(row))


async def root_of(reader: Reader, body: int) -> int | None:
    """The group that is a whole body, None for a body of one supervoxel or none."""
    found = await reader.keys(*keys.ROOT.range_of(body))
    return keys.last_number(found[0]) if found else None


async def body_of(reader: Reader, supervoxel: int) -> int:
    """The body whose index lists a supervoxel; 0 for a retired one."""
    name = await group_of(reader, supervoxel)
    if name is None:
        return supervoxel
    while name != RETIRED:
        found = await group(reader, name)
        if found.kind == OF_BODY:
            return found.of
        name = found.of
    return 0


async def members(reader: Reader, body: int) -> U64:
    """The supervoxels of a body, ascending, whether they have voxels or not."""
    own, root = await reader.keys_of([keys.MAP.range_of(body), keys.ROOT.range_of(body)])
    found = np.array([] if own else [body], np.uint64)
    return np.union1d(found, await under(reader, keys.last_number(root[0]))) if root else found


async def under(reader: Reader, root: int) -> U64:
    """The supervoxels of a group and of all groups below it, ascending."""
    found, level = list[U64](), [root]
    while level:
        ranges = [keys.children(name, kind) for name in level for kind in (keys.SUPERVOXEL, keys.GROUP)]
        listed = await reader.keys_of(ranges)
        found += [keys.last_numbers(names) for names in listed[::2]]
        level = [name for names in listed[1::2] for name in keys.last_numbers(names).tolist()]
    return np.sort(np.concatenate(found))  # a supervoxel is in one group


async def fixed_of(reader: Reader, supervoxel: int) -> int | None:
    """The body that a posted mapping names for a supervoxel, where that differs from the groups."""
    found = await reader.keys(*keys.FIXED.range_of(supervoxel))
    return keys.last_number(found[0]) if found else None


async def fixed_count(reader: Reader) -> int:
    """How many supervoxels have such an entry."""
    value = await reader.get(keys.FIXED_COUNT)
    return 0 if value is None else int.from_bytes(value, "big")


async def looked_up(reader: Reader, table: keys.Pairs, firsts: Sequence[int]) -> dict[int, int | None]:
    """The second numbers of a table's rows by their first ones, None where there is no row."""
    found: dict[int, int | None] = dict.fromkeys(firsts)
    if len(firsts) > MANY:
        rows = keys.pairs(await reader.keys(*table.all()))
        found.update(rows[np.isin(rows[:, 0], np.array(firsts, np.uint64))].tolist())
        return found
    for start in range(0, len(firsts), TOGETHER):
        some = firsts[start : start + TOGETHER]
        listed = await reader.keys_of([table.range_of(first) for first in some])
        found.update({first: keys.last_number(names[0]) for first, names in zip(some, listed, strict=True) if names})
    return found


async def stale(reader: Reader, body: int) -> list[int]:
    """The supervoxels that a posted index took from a body whose own index the client has not replaced yet.

    Until it does, or an edit touches the body, its index lists them too, as DVID's would.
    """
    if await reader.get(keys.HAS_STALE) is None:
        return []
    found: list[int] = keys.pairs(await reader.keys(*keys.STALE.range_of(body)))[:, 1].tolist()
    return found


# ------------------------------------------------------------------ turns


async def stage_turn(mutation: Mutation, value: dict[str, Any]) -> None:
    """Say to readers what has changed; with an empty value that they should read everything anew."""
    turn = await mark(mutation) + 1
    mutation.put(keys.MAPPING_MARK, keys.number(turn))
    mutation.put(keys.turn(turn), orjson.dumps(value))
    if turn > TURNS:
        mutation.delete(keys.turn(turn - TURNS))


async def mark(reader: Reader) -> int:
    """The number of the last turn, 0 before the first."""
    value = await reader.get(keys.MAPPING_MARK)
    return 0 if value is None else int.from_bytes(value, "big")


async def turns(reader: Reader, after: int, up_to: int) -> list[dict[str, Any]] | None:
    """What the turns after one changed, up to another, oldest first; None if that is not kept any more."""
    if up_to - after > TURNS or up_to < after:
        return None
    values = await reader.get_many([keys.turn(number) for number in range(after + 1, up_to + 1)])
    if any(value is None for value in values):
        return None
    found = [orjson.loads(value) for value in values if value is not None]
    return found if all(found) else None
