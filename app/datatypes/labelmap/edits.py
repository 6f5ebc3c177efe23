"""Edits of bodies that move no voxels: merge, cleave, renumber.

Each is one mutation with one log record. What it costs depends on what it names, not on how large the bodies are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson

from app.core.errors import Invalid
from app.datatypes.author import Author
from app.datatypes.labelmap import counters, groups, index, keys, unused
from app.datatypes.labelmap.forest import Forest
from app.datatypes.labelmap.lookups import Lookups
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader

#: A body with more supervoxels is not listed by an edit; readers that know it look it up anew.
LISTED = 256
#: The voxels of a body with more supervoxels are not counted by an edit.
COUNTED = 64


def sign(mutation: Mutation, author: Author, mutation_id: int, *bodies: int) -> None:
    """Note in bodies who changed them last."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    for body in bodies:
        mutation.put(keys.head(body), orjson.dumps([mutation_id, author.user, author.app, now]))


async def merge(data: Data, target: int, others: Sequence[int], author: Author) -> int:
    """Make the supervoxels of other bodies the target's; the mutation id."""
    mutation_id = await data.mutation_id()
    others = list(dict.fromkeys(others))
    if target == 0 or 0 in others:
        raise Invalid("label 0 is the background and cannot be merged")
    if target in others:
        raise Invalid(f"body {target} cannot be merged into itself")
    if not others:
        raise Invalid("a merge needs a target and at least one other body")

    async def change(mutation: Mutation) -> None:
        forest = Forest(mutation, mutation_id)
        await forest.before.around([target, *others])
        with_own = await own_supervoxels(mutation, forest, [target, *others])
        for body in (target, *others):
            await check_exists(mutation, forest, body, with_own)
        await _unfix(mutation, forest, others)
        for body in others:
            forest.operations.append(await _moving(forest, body, target, body in with_own))
            await forest.join(target, body, with_other=body in with_own)
        _forget_heads(mutation, others)
        await forest.flush()
        sign(mutation, author, mutation_id, target)
        mutation.record(author.record(data, "merge", mutation_id, {"Target": target, "Labels": others}))

    await _look_ahead(data, [target, *others])
    await data.mutate(change, by_admin=author.by_admin)
    return mutation_id


async def cleave(data: Data, body: int, supervoxels: Sequence[int], author: Author) -> tuple[int, int]:
    """Make supervoxels of a body a new body: its number, and the mutation id."""
    mutation_id = await data.mutation_id()
    named = list(dict.fromkeys(supervoxels))
    if body == 0 or 0 in named:
        raise Invalid("label 0 is the background and cannot be cleaved")
    if not named:
        raise Invalid("a cleave needs at least one supervoxel")
    given, _ = await counters.give(data, 1)

    async def change(mutation: Mutation) -> int:
        forest = Forest(mutation, mutation_id)
        await forest.before.around([body], named)
        moved, ghosts = await _sorted_out(mutation, forest, body, named)
        size, remain = await _sizes(mutation, forest, body, set(moved))
        new = await unused.number(data, mutation, forest, given)
        for label in moved:
            if await forest.fixed_of(label) is not None:
                await forest.fix(label, None)
        await forest.retire(new)
        await forest.put_in(new, moved)
        for label in ghosts:
            await forest.fix(label, new)
        forest.operations.append(["move", moved, body, new])
        await forest.flush()
        await counters.raise_max_label(mutation, new)
        sign(mutation, author, mutation_id, body, new)
        arguments: dict[str, Any] = {
            "OrigLabel": body,
            "CleavedLabel": new,
            "CleavedSupervoxels": named,
            "CleavedSize": size,
        }
        # Counting a large body costs more than the edit: who asks for the log counts what it was before.
        arguments |= {"RemainSize": remain} if remain is not None else {"before": mutation.generation}
        mutation.record(author.record(data, "cleave", mutation_id, arguments))
        return new

    await _look_ahead(data, [body], [body, *named, given])
    return await data.mutate(change, by_admin=author.by_admin), mutation_id


async def renumber(data: Data, old: int, new: int, author: Author) -> int:
    """Give a body a number that no body has; the mutation id."""
    mutation_id = await data.mutation_id()
    if old == 0 or new == 0:
        raise Invalid("label 0 is the background and cannot be renumbered")
    if old == new:
        raise Invalid(f"body {old} has that number already")

    async def change(mutation: Mutation) -> None:
        forest = Forest(mutation, mutation_id)
        await forest.before.around([old, new])
        with_own = await own_supervoxels(mutation, forest, [old, new])
        await check_exists(mutation, forest, old, with_own)
        if await exists(mutation, forest, new, with_own):
            raise Invalid(f"there is a body {new} already")
        await _unfix(mutation, forest, [old])
        forest.operations.append(await _moving(forest, old, new, old in with_own))
        await forest.rename(old, new, with_old=old in with_own)
        await forest.flush()
        _forget_heads(mutation, [old])
        await counters.raise_max_label(mutation, new)
        sign(mutation, author, mutation_id, new)
        mutation.record(author.record(data, "renumber", mutation_id, {"NewLabel": new, "OrigLabel": old}))

    await counters.see(data, new)
    await _look_ahead(data, [old, new])
    await data.mutate(change, by_admin=author.by_admin)
    return mutation_id


async def _look_ahead(data: Data, bodies: Sequence[int], counted: Sequence[int] = ()) -> None:
    """Let this process know what an edit of bodies will read, before it waits for its turn.

    `counted`: supervoxels whose voxels are counted, and with them those of the bodies if they are few.
    """
    snapshot = await data.head()
    await index.make_known(snapshot)
    lookups = Lookups(snapshot)
    if not counted:
        await lookups.around(bodies)
        await index.with_voxels(snapshot, np.array(sorted(bodies), np.uint64))
        return
    await lookups.around(bodies, counted, await index.lists_ahead(snapshot, counted))
    others = {label for body in bodies for label in lookups.few_members(body)}.difference(counted)
    await snapshot.keys_of(await index.lists_ahead(snapshot, others))


async def own_supervoxels(reader: Reader, forest: Forest, bodies: Sequence[int]) -> set[int]:
    """The bodies of which the supervoxel of the same number, which is in no group, has voxels."""
    alone = np.array(sorted({body for body in bodies if await forest.group_of(body) is None}), np.uint64)
    return await index.with_voxels(reader, alone)


async def exists(reader: Reader, forest: Forest, body: int, with_own: set[int]) -> bool:
    """Whether a body has voxels."""
    if body in with_own or await forest.number_of_members(body) > LISTED:
        return True  # so many supervoxels were never all erased
    return await forest.root_of(body) is not None and await _any_voxels(reader, await forest.members(body))


async def check_exists(reader: Reader, forest: Forest, body: int, with_own: set[int]) -> None:
    """Refuse a body without voxels."""
    if not await exists(reader, forest, body, with_own):
        raise Invalid(f"there is no body {body}")


async def _any_voxels(reader: Reader, supervoxels: Sequence[int]) -> bool:
    """Whether any of some supervoxels has voxels: the first mostly has."""
    start, count = 0, 1
    while start < len(supervoxels):
        if len(await index.counts(reader, np.array(supervoxels[start : start + count], np.uint64))):
            return True
        start, count = start + count, 4 * count
    return False


async def _moving(forest: Forest, source: int, target: int, with_own: bool) -> list[object]:
    """How readers that know the bodies learn that all supervoxels of one become another's: by name if they are few."""
    if await forest.number_of_members(source) > LISTED:
        return ["rebuild", source, target]
    moved = await forest.members(source)
    if not with_own and await forest.group_of(source) is None:
        moved.remove(source)
    return ["move", moved, source, target]


async def _unfix(mutation: Mutation, forest: Forest, bodies: Sequence[int]) -> None:
    """Forget posted mappings of bodies' supervoxels: from now on reads of voxels show what the groups say."""
    fixed = await groups.fixed_count(mutation)
    if not fixed:
        return
    if sum([await forest.number_of_members(body) for body in bodies]) <= fixed:
        candidates = [label for body in bodies for label in await forest.members(body)]
    else:
        candidates = keys.pairs(await mutation.keys(*keys.FIXED.all()))[:, 0].tolist()
    for label in candidates:
        if await forest.fixed_of(label) is not None and await forest.body_of(label) in bodies:
            await forest.fix(label, None)


async def _sorted_out(
    mutation: Mutation, forest: Forest, body: int, named: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Which of the named supervoxels the body lists, and which only a posted mapping sends to it."""
    await forest.before.supervoxels(named)
    moved: list[int] = []
    ghosts: list[int] = []
    for label in named:
        if await forest.body_of(label) == body:
            moved.append(label)
        elif await forest.fixed_of(label) == body and not await index.has_voxels(mutation, label):
            ghosts.append(label)
        else:
            raise Invalid(f"supervoxel {label} is not in body {body}")
    return moved, ghosts


async def _sizes(mutation: Mutation, forest: Forest, body: int, moved: set[int]) -> tuple[int, int | None]:
    """The voxels that a body loses, and those that it keeps; refused if either is none.

    None if it keeps many supervoxels and is what it was in the generation below: no mutation of the batch changed it.
    """
    is_as_below = not (mutation.is_staged(keys.head(body)) or mutation.is_staged(keys.DELTAS))
    number = await forest.number_of_members(body) - len(moved)
    kept = [label for label in await forest.members(body) if label not in moved] if number <= LISTED else []
    is_counted = number <= COUNTED or (number <= LISTED and not is_as_below)
    rows = await index.counts(mutation, np.array(sorted([*moved, *(kept if is_counted else ())]), np.uint64))
    is_moved = np.isin(rows.supervoxels, np.array([*moved], np.uint64), kind="sort")
    size = int(rows.voxels[is_moved].sum(dtype=np.uint64))
    if not size:
        raise Invalid(f"none of the supervoxels has any voxels in body {body}")
    remain: int | None = None
    if is_counted:
        remain = rows.size - size
    elif not is_as_below:
        remain = await index.size(mutation, body, False) - size
    if number <= LISTED and not (await _any_voxels(mutation, kept) if remain is None else remain):
        raise Invalid(f"these are all supervoxels of body {body}: it would be empty")
    return size, remain


def _forget_heads(mutation: Mutation, bodies: Sequence[int]) -> None:
    for body in bodies:
        mutation.delete(keys.head(body))  # most have none: looking would cost more than this
