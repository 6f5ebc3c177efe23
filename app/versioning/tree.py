"""The tree of one data instance at one version, and the committer through which all its mutations go.

    {instance folder}/trees/{version}/manifest.ocdbt    one for each version in which the instance was written
    {instance folder}/d/...                             nodes and values, shared by all versions of the instance

A version without a tree of its own reads its nearest ancestor's. Its first write copies that manifest (create-only,
so racing pods agree). Mutations queue up, run one after another on one snapshot, and commit together; every commit
reads and writes the tree's sequence number, so two commits that did not see each other cannot both succeed.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from app.backends.ocdbt import OrderedMap
from app.backends.store import Store
from app.core.errors import Conflict, DvidError, NotAllowed, StoreUnavailable
from app.versioning import log
from app.versioning.cache import Cache
from app.versioning.snapshot import Overlay, Snapshot

T = TypeVar("T")

SEQUENCE = b"state/sequence"
SEAL = b"state/seal/"

#: A commit that keeps losing to other pods gives up after this many attempts, a few seconds in all.
ATTEMPTS = 12
#: So many mutations at most share a commit; more would only make the first of them wait.
BATCH = 256
#: On a bucket a locked version is looked at again this seldom: only an administrator can still change it.
LOCKED_STALENESS_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class Line:
    """A version and its ancestors along first parents, nearest first: where a read looks for a tree.

    Compared by identity: a change in the catalog makes new ones.
    """

    versions: tuple[str, ...]
    is_locked: bool

    @property
    def version(self) -> str:
        """The version itself."""
        return self.versions[0]


class Mutation(Overlay):
    """What one mutation may do: read, stage writes, and say for the log what it did."""

    def __init__(self, below: Overlay | Snapshot, version: str, generation: int) -> None:
        super().__init__(below)
        self.version = version
        self.generation = generation
        self.records: list[log.Record] = []

    def record(self, record: log.Record) -> None:
        """Add a record to the log; every mutation adds at least one."""
        self.records.append(record)


@dataclass
class _Queued:
    change: Callable[[Mutation], Awaitable[Any]]
    answer: asyncio.Future[Any]
    by_admin: bool


class Tree:
    """One instance at one version."""

    def __init__(self, store: Store, cache: Cache, folder: str, version: str) -> None:
        self._store = store
        self._cache = cache
        self.version = version
        self.map = OrderedMap(store, folder, f"{folder}trees/{quote(version, safe='')}/")
        self._head: Snapshot | None = None
        self._fingerprint: bytes | None = None
        self._looked = float("-inf")
        self._queue: list[_Queued] = []
        self._committer: asyncio.Task[None] | None = None
        self._is_committing = False

    async def head(self, max_staleness: float) -> Snapshot | None:
        """The newest snapshot, or None while this version has no tree of its own."""
        if self._is_committing and self._head is not None:
            return self._head
        if max_staleness and time.monotonic() - self._looked < max_staleness:
            return self._head
        return await self._look()

    async def at(self, generation: int) -> Snapshot:
        """The snapshot of an earlier generation."""
        head = await self._look()
        if head is None or not 0 < generation <= head.generation:
            raise NotAllowed(f"there is no generation {generation} of this version")
        kvstore = await self.map.at(generation)
        return Snapshot(self._store, kvstore, generation, self._cache, self._cache.new_scope())

    async def mutate(self, line: Line, origin: Tree | None, guard: _Guard, queued: _Queued) -> Any:
        """Queue a mutation and wait until it is committed."""
        self._queue.append(queued)
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._work(origin, guard))
        return await queued.answer

    async def drain(self) -> None:
        """Wait until everything that was queued is committed."""
        if self._committer is not None:
            await asyncio.wait([self._committer])

    async def seal(self) -> None:
        """Refuse mutations from now on, also those that other pods have under way."""
        key = SEAL + self.version.encode()

        async def change(mutation: Mutation) -> None:
            mutation.put(key, b"")
            mutation.record(log.Record("seal", self.version))

        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.mutate(Line((self.version,), True), None, _allow, _Queued(change, answer, True))

    async def _look(self) -> Snapshot | None:
        looked = time.monotonic()
        fingerprint = await self.map.fingerprint()
        if fingerprint is None or (fingerprint == self._fingerprint and self._head is not None):
            self._looked = looked
            return self._head
        await self._install(fingerprint, None)
        self._looked = looked
        return self._head

    async def _install(self, fingerprint: bytes | None, own: Overlay | None) -> None:
        """Make the newest generation the head; `own` is what this process wrote to make it."""
        generation = await self.map.generation()
        head = self._head
        if head is None or generation > head.generation:
            kvstore = await self.map.at(generation)
            head = self._head  # another task may have been here meanwhile
        if head is None or generation > head.generation:
            scope = None
            if head is not None:
                is_successor = own is not None and generation == head.generation + 1 and not own.ranges
                scope, head.scope = (head.scope if is_successor else None), None
            if scope is None:
                scope = self._cache.new_scope()
            elif own is not None:
                for key in own.writes:
                    self._cache.drop(scope, key)
            self._head = Snapshot(self._store, kvstore, generation, self._cache, scope)
        self._fingerprint = fingerprint

    async def _work(self, origin: Tree | None, guard: _Guard) -> None:
        while self._queue:
            batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
            batch = [queued for queued in batch if not queued.answer.done()]
            try:
                await self._commit(batch, origin, guard)
            except DvidError as error:
                for queued in batch:
                    _fail(queued.answer, error)
            except BaseException as error:
                for queued in batch:
                    _fail(queued.answer, StoreUnavailable(f"the commit failed: {error!r}"))
                raise
            await asyncio.sleep(0)

    async def _commit(self, batch: Sequence[_Queued], origin: Tree | None, guard: _Guard) -> None:
        nonce = uuid.uuid4().bytes
        outcomes: list[Any] = []
        first = 0
        for attempt in range(ATTEMPTS):
            async with self._store.exclusively(self.map.lock_path):
                await self._create(origin, guard)
                snapshot = await self._look()
                assert snapshot is not None
                if attempt and await self._landed(snapshot, nonce, first):
                    break
                self._is_committing = True
                try:
                    staged, outcomes, first = await self._stage(snapshot, batch, nonce)
                    if not staged.writes and not staged.ranges:
                        break
                    await self.map.commit(
                        staged.writes, staged.ranges, unchanged={SEQUENCE: await snapshot.get(SEQUENCE)}
                    )
                    await self._install(await self.map.fingerprint(), staged)
                    self._looked = time.monotonic()
                    break
                except (Conflict, StoreUnavailable) as error:
                    if attempt == ATTEMPTS - 1 or (isinstance(error, StoreUnavailable) and attempt >= 2):
                        raise
                finally:
                    self._is_committing = False
            await asyncio.sleep(random.uniform(0, 0.005 * 2 ** min(attempt, 7)))
        for queued, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                _fail(queued.answer, outcome)
            elif not queued.answer.done():
                queued.answer.set_result(outcome)

    async def _create(self, origin: Tree | None, guard: _Guard) -> None:
        """Give this version a tree if it has none, and then make sure that it was not locked meanwhile."""
        if self._fingerprint is not None or await self.map.fingerprint() is not None:
            return
        if origin is None:
            try:
                await self.map.create_empty()
            except Conflict:
                return  # another pod made it
        else:
            await self.map.branch_from(origin.map)
        await guard()

    async def _stage(
        self, snapshot: Snapshot, batch: Sequence[_Queued], nonce: bytes
    ) -> tuple[Overlay, list[Any], int]:
        """Run the mutations one after another; a failing one leaves nothing behind and answers its own error."""
        is_sealed = await snapshot.get(SEAL + self.version.encode()) is not None
        first = log.sequence_of(await snapshot.get(SEQUENCE)) + 1
        staged, records = Overlay(snapshot), list[log.Record]()
        outcomes: list[Any] = []
        for queued in batch:
            if is_sealed and not queued.by_admin:
                outcomes.append(NotAllowed(f"version {self.version} is locked"))
                continue
            mutation = Mutation(staged, self.version, snapshot.generation)
            try:
                outcomes.append(await queued.change(mutation))
            except Exception as error:  # each mutation answers for itself
                outcomes.append(error)
                continue
            assert mutation.records, "a mutation without a log record"
            staged.absorb(mutation)
            records += mutation.records
        if records:
            for number, record in enumerate(records, first):
                staged.put(log.key(number), record.encode(nonce))
            staged.put(SEQUENCE, log.sequence(first + len(records) - 1, nonce))
            begun = log.begun_key(self.version)
            if await snapshot.get(begun) is None:
                staged.put(begun, log.sequence(first, nonce))
        return staged, outcomes, first

    async def _landed(self, snapshot: Snapshot, nonce: bytes, first: int) -> bool:
        """Whether an attempt whose answer was lost is in the tree after all."""
        record = await snapshot.get(log.key(first))
        return record is not None and log.nonce_of(record) == nonce


_Guard = Callable[[], Awaitable[None]]


async def _allow() -> None:
    return None


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)


class Trees:
    """All trees of one store that this process has looked at."""

    def __init__(self, store: Store, cache: Cache) -> None:
        self.store = store
        self._cache = cache
        self._trees: dict[tuple[str, str], Tree] = {}
        self._owners: dict[tuple[str, Line], Tree | None] = {}
        self._empty = Snapshot(store, None, 0, cache, cache.new_scope())

    async def head(self, folder: str, line: Line) -> Snapshot:
        """What a version holds now: its own tree's newest snapshot, else its nearest ancestor's."""
        staleness = self.store.max_staleness
        if staleness and line.is_locked:
            staleness = LOCKED_STALENESS_SECONDS
        snapshot = await self._tree(folder, line.version).head(staleness)
        if snapshot is None:
            owner = await self._ancestor(folder, line)
            snapshot = await owner.head(staleness) if owner is not None else None
        return snapshot or self._empty

    async def at(self, folder: str, line: Line, generation: int) -> Snapshot:
        """What a version held at an earlier generation of its tree (or of the tree that it inherits)."""
        own = self._tree(folder, line.version)
        owner = own if await own.head(0) is not None else await self._ancestor(folder, line)
        if owner is None:
            raise NotAllowed(f"there is no generation {generation} of this version")
        return await owner.at(generation)

    async def owner(self, folder: str, line: Line) -> str | None:
        """The version whose tree a read at this version sees."""
        if await self._tree(folder, line.version).head(0) is not None:
            return line.version
        owner = await self._ancestor(folder, line)
        return owner.version if owner is not None else None

    async def mutate(
        self,
        folder: str,
        line: Line,
        change: Callable[[Mutation], Awaitable[T]],
        *,
        still_open: _Guard,
        by_admin: bool = False,
    ) -> T:
        """Apply a mutation to a version and return its answer once it is committed.

        `change` may run several times, each time on a newer snapshot, and must have no other effect than what it
        stages. `still_open` raises if the catalog says, asked anew, that the version was locked; it is called when
        this is the version's first write, which no seal could stop.
        """
        tree = self._tree(folder, line.version)
        has_tree = await tree.head(self.store.max_staleness) is not None
        origin = None if has_tree else await self._ancestor(folder, line)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        return await tree.mutate(line, origin, still_open, _Queued(change, answer, by_admin))  # type: ignore[no-any-return]

    async def seal(self, folder: str, version: str) -> None:
        """Seal a version's tree if it has one: the second half of locking a version."""
        tree = self._tree(folder, version)
        if await tree.map.fingerprint() is not None:
            await tree.seal()

    async def drain(self) -> None:
        """Wait for all mutations under way."""
        await asyncio.gather(*[tree.drain() for tree in self._trees.values()])

    def _tree(self, folder: str, version: str) -> Tree:
        tree = self._trees.get((folder, version))
        if tree is None:
            tree = self._trees[folder, version] = Tree(self.store, self._cache, folder, version)
        return tree

    async def _ancestor(self, folder: str, line: Line) -> Tree | None:
        """The tree of the nearest ancestor that has one; ancestors are locked, so the answer stays."""
        key = (folder, line)
        if key not in self._owners:
            if len(self._owners) > 100_000:
                self._owners.clear()
            owner = None
            for version in line.versions[1:]:
                tree = self._tree(folder, version)
                if await tree.head(self.store.max_staleness) is not None:
                    owner = tree
                    break
            self._owners[key] = owner
        return self._owners[key]
