"""The bodies of a version merge: which supervoxels each side moved, and where to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from app.datatypes.labelmap import groups, index, keys, mapping
from app.datatypes.labelmap.forest import Forest
from app.datatypes.labelmap.keys import U64
from app.datatypes.labelmap.mapping import Mapping
from app.datatypes.labelmap.merging import NOBODY, Conflicts
from app.versioning.merge import Settling, Sides
from app.versioning.snapshot import Reader

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Moves:
    """Supervoxels whose body a side changed, ascending: from which body, and to which (0: retired)."""

    supervoxels: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    sources: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    targets: U64 = field(default_factory=lambda: np.empty(0, np.uint64))

    @property
    def retired(self) -> dict[int, int]:
        """Supervoxels that are no more, and the bodies they were of."""
        gone = (self.targets == 0) & (self.sources != 0)
        return dict(zip(self.supervoxels[gone].tolist(), self.sources[gone].tolist(), strict=True))


@dataclass(frozen=True)
class Change:
    """What each side moved."""

    ours: Moves = field(default_factory=Moves)
    theirs: Moves = field(default_factory=Moves)


async def join(sides: Sides, conflicts: Conflicts) -> Change:
    """Bring the side's groups and mapping in."""
    changed = [key for key in sides.changes if keys.is_of_mapping(key)]
    ours = await groups.mark(sides.target)
    if not changed and ours == await groups.mark(sides.base):
        return Change()
    base, target, side = [await mapping.load_groups(reader) for reader in (sides.base, sides.target, sides.side)]
    change = Change(_moves(base, target), _moves(base, side))
    if changed and keys.MAPPING_MARK not in sides.clashes:
        for key in changed:  # the other side has moved nothing
            sides.take(key)
    elif changed:
        for key in filter(keys.is_stale, changed):  # rows without values: there or not
            await sides.join(key)
        await _bring(sides, target, change, conflicts)
    return change


def _moves(base: Mapping, other: Mapping) -> Moves:
    listed = np.union1d(base.pairs()[:, 0], other.pairs()[:, 0])
    sources, targets = base.apply(listed), other.apply(listed)
    moved = sources != targets
    return Moves(listed[moved], sources[moved], targets[moved])


async def _bring(sides: Sides, target: Mapping, change: Change, conflicts: Conflicts) -> None:
    theirs = change.theirs
    now = target.apply(theirs.supervoxels)
    done = now == theirs.targets
    moved_too = ~done & (now != theirs.sources)
    for body, label in _rows(theirs.sources, theirs.supervoxels, moved_too):
        conflicts.moved[body].add(label)
    unsound = await _unsound(sides, change, ~done & ~moved_too)
    in_conflict = moved_too | np.isin(theirs.targets, unsound) | np.isin(theirs.sources, unsound)
    conflicts.dissolved.update(unsound.tolist())
    forest = Forest(sides.target, await sides.data.mutation_id())
    await forest.before.supervoxels(theirs.supervoxels.tolist())
    await _move(forest, theirs, ~done & ~in_conflict)
    if sides.settling is Settling.MARK:
        await forest.put_in(NOBODY, theirs.supervoxels[~done & in_conflict].tolist())
    await _bring_fixed(sides, forest, conflicts)
    await forest.flush()


def _rows(bodies: U64, supervoxels: U64, chosen: Bools) -> list[tuple[int, int]]:
    return list(zip(bodies[chosen].tolist(), supervoxels[chosen].tolist(), strict=True))


async def _unsound(sides: Sides, change: Change, taken: Bools) -> U64:
    """Bodies to which one side added while the other made them part of, or all of, another body; and bodies that both
    sides made of different supervoxels."""
    ours, theirs = change.ours, change.theirs
    added = np.setdiff1d(theirs.targets[taken], [0])
    kept = np.setdiff1d(ours.targets, [0])
    found = [body for body in np.intersect1d(added, ours.sources).tolist() if await _is_gone(sides.target, body)]
    found += [body for body in np.intersect1d(kept, theirs.sources).tolist() if await _is_gone(sides.side, body)]
    found += [body for body in np.intersect1d(added, kept).tolist() if await _is_gone(sides.base, body)]
    return np.array(sorted(set(found)), np.uint64)


async def _is_gone(reader: Reader, body: int) -> bool:
    """Whether there is no body of this number."""
    if await groups.root_of(reader, body) is not None:
        return False
    return await groups.group_of(reader, body) is not None or not await index.has_voxels(reader, body)


async def _move(forest: Forest, moves: Moves, chosen: Bools) -> None:
    by_target: dict[int, list[int]] = defaultdict(list)
    for body, label in _rows(moves.targets, moves.supervoxels, chosen):
        by_target[body].append(label)
    for label in by_target.pop(0, []):
        await forest.retire(label)
    for body, labels in by_target.items():
        await forest.put_in(body, labels)


async def _bring_fixed(sides: Sides, forest: Forest, conflicts: Conflicts) -> None:
    """Posted mappings that say something else than the groups."""
    start = len(keys.FIXED.all()[0])
    labels = {
        int.from_bytes(key[start : start + 8], "big") for key in sides.changes if key.startswith(keys.FIXED.all()[0])
    }
    for label in sorted(labels):
        base, ours, theirs = [await groups.fixed_of(reader, label) for reader in (sides.base, sides.target, sides.side)]
        if theirs in (ours, base):
            continue
        if ours == base:
            await forest.fix(label, theirs)
        else:
            conflicts.moved[await groups.body_of(sides.base, label)].add(label)
            if sides.settling is Settling.MARK:
                await forest.fix(label, NOBODY)
