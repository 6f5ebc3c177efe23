"""Version merges: what one side did since the sides parted is brought into what the other holds.

Every side is compared with the state from which all of them came: what only one side changed is taken, what two sides
changed in the same way is the same, and what they changed differently (or one changed and another deleted) is a
conflict. What a change is, a datatype may know better than its keys tell: each has its own way to bring a side in, and
`by_key` is the one for those that have none.

The child's tree is made before the catalog hears of the child, so a merge that fails or is refused leaves nothing.
"""

from __future__ import annotations

import asyncio
import operator
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from app.core.errors import Invalid, NotAllowed
from app.versioning import diff, log
from app.versioning.datastore import Data, Datastore
from app.versioning.diff import Change, Place
from app.versioning.graph import Instance, Repo
from app.versioning.line import Line
from app.versioning.log import SEQUENCE
from app.versioning.mutations import SEAL, Mutation
from app.versioning.snapshot import Reader, Snapshot
from app.versioning.tree import Tree

#: What a tree begins with, whatever it is about.
CREATED = b"state/created"
#: Conflicts named in a refusal.
LISTED = 1000


class Settling(Enum):
    """What is done about a conflict."""

    #: Say so; the merge is refused.
    REPORT = "report"
    #: Keep what is there: it comes from a side of higher priority.
    KEEP = "keep"
    #: Put something there that neither side has: this is the past of two sides that settled it each for itself.
    MARK = "mark"


@dataclass(frozen=True)
class Sides:
    """One step of a merge: a side is brought into the target, which holds what was brought together so far.

    `changes` says in which keys the side differs from the base, `clashes` in which of these the target differs from
    it too. `data` is the instance at a version that went into the target.
    """

    data: Data
    base: Reader
    side: Snapshot
    target: Mutation
    changes: Mapping[bytes, Change]
    clashes: Mapping[bytes, Change]
    settling: Settling

    def take(self, key: bytes) -> None:
        """Let the target hold what the side holds; large values go by reference."""
        new = self.changes[key].new
        if isinstance(new, str):
            self.target.copy(key, self.side)
        else:
            self.put(key, new)

    def put(self, key: bytes, value: bytes | None) -> None:
        """Let the target hold a value, or nothing."""
        if value is None:
            self.target.delete(key)
        else:
            self.target.put(key, value)

    async def join(self, key: bytes, same: Callable[[bytes | None, bytes | None], bool] = operator.eq) -> bool:
        """Bring one key in; False if that is a conflict, which is settled as wanted. `same` compares values."""
        clash = self.clashes.get(key)
        if clash is None:
            self.take(key)
            return True
        ours, theirs = clash.new, self.changes[key].new
        if ours == theirs:
            return True
        # Large values may be the same though they were written twice.
        base, ours, theirs = [await reader.get(key) for reader in (self.base, self.target, self.side)]
        if same(theirs, ours) or same(theirs, base):
            return True
        if same(ours, base):
            self.take(key)
            return True
        if self.settling is Settling.MARK:
            self.target.put(key, uuid.uuid4().bytes)
        return False


#: Brings a side in and says what is in conflict, one line for each; in `REPORT` these make the merge fail.
Merge = Callable[[Sides], Awaitable[list[str]]]


#: What becomes of a value that two sides changed: of that of the base, of the target and of the side.
Join = Callable[[bytes | None, bytes | None, bytes | None], bytes | None]


def by_key(
    name: Callable[[bytes], str],
    joins: Mapping[bytes, Join] | None = None,
    same: Callable[[bytes | None, bytes | None], bool] = operator.eq,
) -> Merge:
    """The merge of data whose keys have nothing to do with each other; `name` says what a key is to its users.

    `joins` are for keys whose values can be joined whatever the sides did; `same` compares values.
    """

    async def merge(sides: Sides) -> list[str]:
        conflicts = []
        for key in sides.changes:
            join = joins.get(key) if joins and key in sides.clashes else None
            if join is not None:
                sides.put(key, join(*[await reader.get(key) for reader in (sides.base, sides.target, sides.side)]))
            elif not await sides.join(key, same):
                conflicts.append(name(key))
        return conflicts

    return merge


@dataclass(frozen=True)
class _State:
    """What an instance holds at a version: the tree that says so, and its newest snapshot."""

    version: str
    place: Place
    snapshot: Snapshot


class Joining:
    """One instance on its way from several versions to a child of theirs that is not in the catalog yet."""

    def __init__(self, data: Data, child: str, merge: Merge, settling: Settling) -> None:
        self._data = data
        self._trees = data.trees
        self._repo = data.repo
        self._child = child
        self._merge = merge
        self._settling = settling

    async def run(self, parents: Sequence[str]) -> list[str]:
        """Give the child what it shall hold, if that is not what its first parent holds; the conflicts."""
        states = await self._states(parents)
        if len(states) < 2 and (not states or states[0].version == await self._owner(parents[0])):
            return []
        main, sides = await self._main(states)
        if not sides:
            await self._write(main, _copied)
            return []
        conflicts: list[str] = []
        joined = [main.version]
        for side in sides:
            bases = self._repo.common_ancestors(joined, side.version)
            conflicts += await self._bring(main, side, bases)
            joined.append(side.version)
        return conflicts

    async def discard(self) -> None:
        """Remove what was made for the child."""
        await self._trees.discard(self._data.folder, self._child)

    def _line(self, version: str) -> Line:
        return self._repo.line(version)

    async def _owner(self, version: str) -> str | None:
        owner = await self._trees.owner(self._data.folder, self._line(version))
        return None if owner is None else owner.version

    async def _states(self, versions: Sequence[str]) -> list[_State]:
        """What is held at versions, without what others of them hold already; in the order given."""
        owners = [await self._owner(version) for version in versions]
        found = dict.fromkeys(owner for owner in owners if owner is not None)
        newest = set(self._repo.newest(found))
        trees = [self._trees.tree(self._data.folder, version) for version in found if version in newest]
        return [await _state(tree) for tree in trees]

    async def _main(self, states: Sequence[_State]) -> tuple[_State, Sequence[_State]]:
        """The state to begin with, and those to bring in: of two little into much; of more the order may matter."""
        if self._settling is not Settling.KEEP and len(states) == 2:
            apart = await diff.difference(states[0].place, states[1].place)
            if len(apart.come) > len(apart.gone):
                return states[1], states[:1]
        return states[0], states[1:]

    async def _bring(self, main: _State, side: _State, bases: Sequence[str]) -> list[str]:
        """Bring a side in, by comparison with the state from which it came."""
        states = await self._states(bases)
        if len(states) < 2:
            base = states[0] if states else _State("", Place(), self._trees.empty)
            return await self._fold(main, base, side)
        # Histories that cross have no one state that all came from: it is made, of those states that they came from.
        past = Joining(self._data, uuid.uuid4().hex, self._merge, Settling.MARK)
        try:
            await past.run(bases)
            return await self._fold(main, await _state(self._trees.tree(self._data.folder, past._child)), side)
        finally:
            await past.discard()

    async def _fold(self, main: _State, base: _State, side: _State) -> list[str]:
        theirs = await diff.changes(base.place, side.place)
        tree = self._trees.tree(self._data.folder, self._child)
        data = replace(self._data, version=self._repo.versions[main.version])

        async def change(mutation: Mutation) -> list[str]:
            ours = Place(tree.map, mutation.generation)
            own = [key for key in theirs if not _is_tree_s_own(key)]
            clashes = await diff.changes(base.place, ours, own)
            changes = {key: theirs[key] for key in own}
            sides = Sides(data, base.snapshot, side.snapshot, mutation, changes, clashes, self._settling)
            conflicts = await self._merge(sides)
            await _bring_log(theirs, base.snapshot, side.snapshot, mutation)
            mutation.record(log.Record("version-merge", self._child))
            return conflicts

        return await self._write(main, change)

    async def _write(self, main: _State, change: Callable[[Mutation], Awaitable[list[str]]]) -> list[str]:
        line = Line((self._child, *self._line(main.version).versions), False, self._repo.epoch)
        return await self._trees.mutate(self._data.folder, line, change, still_open=_unknown_to_all)


async def merge_versions(
    datastore: Datastore,
    repo: Repo,
    parents: Sequence[str],
    *,
    note: str,
    merges: Callable[[Instance], Merge],
    settled: Sequence[str] = (),
) -> str:
    """A child of several locked versions, which holds what all of them hold.

    `merges` says how an instance's sides are joined. `NotAllowed`, with all conflicts, if there are any, except in the
    instances with the names `settled`: there the value of the first parent that has one in conflict is kept.
    """
    if len(set(parents)) < 2 or len(set(parents)) < len(parents):
        raise Invalid("a version merge needs at least two parents, each named once")
    for parent in parents:
        if not repo.versions[parent].locked:
            raise NotAllowed(f"version {parent} is not locked; commit it before merging")
    child = uuid.uuid4().hex
    joinings = {
        instance.name: Joining(
            Data(datastore, repo, repo.versions[parents[0]], instance),
            child,
            merges(instance),
            Settling.KEEP if instance.name in settled else Settling.REPORT,
        )
        for instance in repo.instances.values()
        if instance.has_versions
    }
    try:
        conflicts: list[str] = []
        for name, joining in sorted(joinings.items()):
            found = await joining.run(parents)
            if name not in settled:
                conflicts += [f"{name}: {text}" for text in found]
        if conflicts:
            raise NotAllowed(_refusal(conflicts))
        return await datastore.repos.add_version(repo.root, parents, note=note, uuid_=child)
    except BaseException:
        await asyncio.shield(asyncio.gather(*[joining.discard() for joining in joinings.values()]))
        raise


def _refusal(conflicts: Sequence[str]) -> str:
    listed = [f"  {conflict}" for conflict in conflicts[:LISTED]]
    if len(conflicts) > LISTED:
        listed.append(f"  and {len(conflicts) - LISTED} more")
    what = "what two sides changed differently, or one changed and another deleted"
    return "\n".join([f"the versions cannot be merged because of {len(conflicts)} conflicts, {what}:", *listed, ""])


async def _unknown_to_all() -> None:
    """Nobody can lock a version that the catalog does not have."""


async def _copied(mutation: Mutation) -> list[str]:
    mutation.record(log.Record("version-merge", mutation.version))
    return []


async def _state(tree: Tree) -> _State:
    snapshot = await tree.head(0)
    assert snapshot is not None
    return _State(tree.version, Place(tree.map, snapshot.generation), snapshot)


def _is_tree_s_own(key: bytes) -> bool:
    return log.is_own(key) or key in (SEQUENCE, CREATED) or key.startswith(SEAL)


async def _bring_log(changes: Mapping[bytes, Change], base: Reader, side: Snapshot, mutation: Mutation) -> None:
    """Add a side's records to the log, with new numbers, so that derived data and histories find them."""
    names = [key for key in changes if log.is_record(key)]
    # Numbers are a tree's own: what a record says tells whether the base has it.
    known = {log.said(value) for value in await base.get_many(names) if value is not None}
    next_number = log.sequence_of(await mutation.get(SEQUENCE)) + 1
    begun: dict[str, int] = {}
    for name, value in zip(names, await side.get_many(names), strict=True):
        if value is None or log.said(value) in known:
            continue
        touched = await side.get(log.touched_key(log.number_of(name)))
        record = replace(log.Record.decode(value), touched=touched or b"")
        begun.setdefault(record.version, next_number)
        next_number += 1
        mutation.record(record)
    for version, number in begun.items():
        if await mutation.get(log.begun_key(version)) is None:
            mutation.put(log.begun_key(version), log.sequence(number, b""))
