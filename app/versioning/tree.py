"""The tree of one data instance at one version, and the committer through which all its mutations go.

    {instance folder}/trees/{version}/manifest.ocdbt    one for each version in which the instance was written
    {instance folder}/d/...                             nodes and values, shared by all versions of the instance

A version without a tree of its own reads its nearest ancestor's. Its first write copies that manifest (create-only,
so racing pods agree). Mutations queue up, run one after another on one snapshot, and commit together; every commit
reads and writes the tree's sequence number, so two commits that did not see each other cannot both succeed, and a
commit that succeeds is the very next generation.

Locking a version seals the trees it has. What keeps a lock from being missed:
- a version that has a tree but no commit of its own yet asks the catalog before it commits: either that finds the
  lock, or the lock comes later and finds the tree;
- a tree is sealed, if its lock did not come to that, before it is copied for a child.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from app.backends.ordered_map import OrderedMap
from app.backends.store import Store
from app.backends.view import View
from app.core.errors import Conflict, DvidError, NotAllowed, StoreUnavailable
from app.versioning import log, mutations
from app.versioning.cache import Cache
from app.versioning.log import SEQUENCE
from app.versioning.mutations import Asked
from app.versioning.snapshot import Overlay, Snapshot

logger = logging.getLogger(__name__)

#: A commit that keeps losing to other pods gives up after so many seconds, but not before so many attempts.
PATIENCE_SECONDS = 20.0
ATTEMPTS = 12
#: Values up to this size are remembered when they are written, not only when they are read.
PRIMED_BYTES = 4096
#: Losers and winners of a race wait for about as long as an attempt takes, and at most so long.
LONGEST_PAUSE_SECONDS = 0.25
#: A store that fails is asked so often, and not again once its time-out has passed since the first attempt.
FAILURES = 3
#: So many mutations at most share a commit; more would only make the first of them wait.
BATCH = 256
#: A commit waits this long for as many mutations as shared the one before; a client alone never waits.
LINGER_SECONDS = 0.001
#: On a bucket a sealed tree is looked at again this seldom: only an administrator can still change it.
LOCKED_STALENESS_SECONDS = 60.0


@dataclass
class Queued(Asked):
    """A mutation that waits for its commit, and the tree to begin with if its version has none."""

    origin: Tree | None


@dataclass
class _Attempt:
    """One attempt to commit a batch: by what it is recognised if its answer was lost, and what it would answer."""

    nonce: bytes
    first: int
    outcomes: list[Any]


class Tree:
    """One instance at one version."""

    def __init__(self, store: Store, cache: Cache, folder: str, version: str) -> None:
        self._store = store
        self._cache = cache
        self.version = version
        self.map = OrderedMap(store, folder, folder_of(folder, version))
        self._head: Snapshot | None = None
        self._fingerprint: bytes | None = None
        self._looked = float("-inf")
        self._queue: list[Queued] = []
        self._committer: asyncio.Task[None] | None = None
        self._is_committing = False
        self._company = 1
        self._full: asyncio.Future[None] | None = None
        self._own_generation = 0
        self._memos = cache.new_scope()
        self._has_met_others = False
        self._seal = mutations.seal_key(version)

    @property
    def is_known(self) -> bool:
        """Whether this process has seen that the tree is there, which it then stays."""
        return self._head is not None

    async def head(self, max_staleness: float) -> Snapshot | None:
        """The newest snapshot, or None while this version has no tree of its own."""
        head = self._head
        if head is not None and self._is_committing and self._store.scheme == "file":
            return head  # whoever commits holds the lock of the tree: nobody else can have changed it
        if max_staleness:
            age = time.monotonic() - self._looked
            if age < max_staleness:
                return head
            if head is not None and age < LOCKED_STALENESS_SECONDS and await self._is_sealed(head):
                return head
        return await self._look()

    async def at(self, generation: int) -> Snapshot:
        """The snapshot of an earlier generation."""
        head = await self._look()
        if head is None or not 0 < generation <= head.generation:
            raise NotAllowed(f"there is no generation {generation} of this version")
        if generation == head.generation:
            return head
        return Snapshot(
            await self.map.at(generation), generation, self._cache, self._cache.new_scope(), lasting=self._memos
        )

    async def mutate(self, queued: Queued) -> Any:
        """Queue a mutation and wait until it is committed."""
        self._queue.append(queued)
        if self._full is not None and len(self._queue) >= self._company:
            _end(self._full)
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._work())
        return await queued.answer

    async def drain(self) -> None:
        """Wait until everything that was queued is committed."""
        if self._committer is not None:
            await asyncio.wait([self._committer])

    async def seal(self) -> None:
        """Refuse mutations from now on, also those that other pods have under way."""
        head = await self.head(0)
        if head is not None and await self._is_sealed(head):
            return

        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.mutate(Queued(mutations.seal, answer, True, mutations.sealing, None))

    async def _is_sealed(self, snapshot: Snapshot) -> bool:
        return await snapshot.get(self._seal) is not None

    async def _look(self) -> Snapshot | None:
        looked = time.monotonic()
        fingerprint = await self.map.fingerprint()
        if fingerprint is None or (fingerprint == self._fingerprint and self._head is not None):
            self._looked = max(looked, self._looked)
            return self._head
        generation = await self.map.generation(fingerprint)
        head = self._head
        if head is None or generation > head.generation:
            view = await self.map.at(generation)
            head = self._head  # another task may have been here meanwhile
        if head is None or generation > head.generation:
            self._follow(head, view)
        if self._head is not None and generation == self._head.generation:
            self._fingerprint = fingerprint
        self._looked = max(looked, self._looked)
        return self._head

    def _follow(self, head: Snapshot | None, view: View) -> None:
        """Make a newer view the head; what others have not written since the last is as it was."""
        changed = view.since(head.generation) if head is not None else None
        if head is None or head.scope is None or changed is None:
            self._install(self._snapshot(view, view.generation, self._cache.new_scope()))
            return
        scope = head.scope
        known = [key for key in changed if self._cache.drop(scope, key)]
        self._install(self._snapshot(view, view.generation, scope))
        self._prime({key: view.waiting(key) for key in known})

    def _prime(self, writes: Mapping[bytes, bytes | None]) -> None:
        """Remember what was just written: the next mutation is likely to read it, such as the sequence."""
        assert self._head is not None
        for key, value in writes.items():
            if value and len(value) <= PRIMED_BYTES and not log.is_record(key):
                self._head.know(key, value)

    def _snapshot(self, view: View, generation: int, scope: int) -> Snapshot:
        return Snapshot(view, generation, self._cache, scope, self._memos)

    def _install(self, head: Snapshot) -> None:
        if self._head is not None:
            self._head.scope = self._head.memos = None
        self._head, self._fingerprint = head, self.map.fingerprint_of(head.generation)

    async def _succeed(self, base: Snapshot, staged: Overlay) -> None:
        """Make the generation that this process has just committed on top of `base` the head."""
        generation = self._own_generation = base.generation + 1
        view = await self.map.at(generation)
        if self._head is not base:  # a reader came first, or somebody is further already
            if self._head is not None and self._head.generation >= generation:
                return
            scope = self._cache.new_scope()
        elif staged.ranges or staged.copies or base.scope is None:
            scope = self._cache.new_scope()
        else:  # what was not written is as it was, and stays remembered
            scope = base.scope
            for key in staged.writes:
                self._cache.drop(scope, key)
        self._install(self._snapshot(view, generation, scope))
        if self._store.scheme == "file":  # nobody else commits while this process holds the lock
            self._fingerprint = await self.map.fingerprint()
        self._prime(staged.writes)

    async def _work(self) -> None:
        while self._queue or self._company > 1:
            if len(self._queue) < self._company:
                await self._gather()
                if not self._queue:
                    self._company = 1
                    return
            try:
                async with self.map.turn():
                    await self._take_turn()
            except DvidError as error:  # the lock is not to be had
                _fail(self._queue, error)
                self._queue = []

    async def _take_turn(self) -> None:
        """Commit what is queued. Who is answered is answered after the turn, so that others have theirs meanwhile."""
        batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
        batch = [queued for queued in batch if not queued.answer.done()]
        self._company = len(batch)
        try:
            if batch:
                await self._commit(batch)
        except DvidError as error:
            _fail(batch, error)
        except Exception as error:
            logger.exception("a commit to the tree of version %s failed", self.version)
            _fail(batch, StoreUnavailable(f"the commit failed: {error!r}"))
        except BaseException as error:
            _fail([*batch, *self._queue], StoreUnavailable(f"the server is being stopped: {error!r}"))
            self._queue = []
            raise

    async def _gather(self) -> None:
        """Wait a moment for those who shared the last commit, as they are likely to be back."""
        loop = asyncio.get_running_loop()
        self._full = loop.create_future()
        timer = loop.call_later(LINGER_SECONDS, _end, self._full)
        await self._full
        timer.cancel()
        self._full = None

    async def _commit(self, batch: Sequence[Queued]) -> None:
        tried: list[_Attempt] = []
        outcomes: list[Any] = []
        attempts, failures, begun = 0, 0, time.monotonic()
        while True:
            own, started = self._own_generation, time.monotonic()
            try:
                outcomes = await self._attempt(batch, tried)
                self._has_met_others = attempts > 0 or self._own_generation > own + 1 > 1
                break
            except Conflict:
                attempts += 1
                if attempts >= ATTEMPTS and time.monotonic() - begun > PATIENCE_SECONDS:
                    raise
                await asyncio.sleep(random.uniform(0, _pause(started)))
            except StoreUnavailable:
                failures += 1
                if failures == FAILURES or time.monotonic() - begun > self._store.options.timeout_seconds:
                    raise
                await asyncio.sleep(random.uniform(0, 0.1 * failures))
        for queued, outcome in zip(batch, outcomes, strict=True):
            queued.end(outcome)
        if self._has_met_others and self._store.scheme != "file":
            # Let the others have their turn; what is queued meanwhile shares the next commit.
            await asyncio.sleep(random.uniform(1, 2) * _pause(started))

    async def _attempt(self, batch: Sequence[Queued], tried: list[_Attempt]) -> list[Any]:
        """Stage and commit a batch, unless an earlier attempt is found to have succeeded; the answers of all."""
        await self._create(next((queued.origin for queued in batch if queued.origin is not None), None))
        # With a bucket it pays to hope that nobody else is writing; if somebody is, the commit is refused.
        is_hopeful = self._head is not None and not tried and not self._has_met_others
        base = await self.head(self._store.max_staleness) if is_hopeful else await self._look()
        if base is None:
            raise StoreUnavailable(f"the tree of version {self.version} is gone")
        for earlier in tried:
            record = await base.get(log.key(earlier.first))
            if record is not None and log.nonce_of(record) == earlier.nonce:
                return earlier.outcomes
        self._is_committing = True
        try:
            nonce = os.urandom(log.NONCE_BYTES)
            made = await mutations.stage(base, self.version, batch, nonce)
            staged = made.writes
            if staged.writes or staged.ranges:
                tried.append(_Attempt(nonce, made.first, made.outcomes))
                looked = time.monotonic()
                copies = {key: source.view for key, source in staged.copies.items() if source.view is not None}
                unchanged = {SEQUENCE: await base.get(SEQUENCE)}
                is_last = self._seal in staged.writes or await self._is_sealed(base)
                await self.map.commit(
                    staged.writes, staged.ranges, copies, unchanged=unchanged, is_last=is_last, in_turn=True
                )
                self._looked = float("-inf")  # until the new generation is at hand
                with suppress(StoreUnavailable):
                    await self._succeed(base, staged)
                    self._looked = looked
            return made.outcomes
        finally:
            self._is_committing = False

    async def _create(self, origin: Tree | None) -> None:
        """Give this version a tree if it has none."""
        if self._head is not None or await self.map.fingerprint() is not None:
            return
        if origin is None:
            with suppress(Conflict):  # another pod made it
                await self.map.create_empty(in_turn=True)
        else:
            await origin.seal()
            await self.map.branch_from(origin.map, in_turn=True)
            head = await self._look() if self._store.scheme == "file" else None
            if head is not None:  # nobody else has been here since: what only this version writes is not there yet
                head.know(self._seal, None)
                head.know(log.begun_key(self.version), None)


def _fail(batch: Sequence[Queued], error: BaseException) -> None:
    for queued in batch:
        queued.fail(error)


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _pause(started: float) -> float:
    return min(time.monotonic() - started, LONGEST_PAUSE_SECONDS)


def folder_of(folder: str, version: str) -> str:
    """Where the manifest of a version's tree lies in the instance's folder."""
    return f"{folder}trees/{quote(version, safe='')}/"
