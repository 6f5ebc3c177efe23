"""Mutations: what one may do, and what a batch of them stages for the commit that they share.

They run one after another, each on what those before it have left. One that fails leaves nothing behind and answers for
itself. A version refuses them once it is sealed: by who locked it or, as a lock may have found no tree to seal, by who
asks the catalog before the version's first commit and hears of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.errors import NotAllowed, StoreUnavailable
from app.versioning import log
from app.versioning.log import SEQUENCE
from app.versioning.snapshot import Overlay, Snapshot

SEAL = b"state/seal/"
#: The action in the record of a seal.
SEAL_ACTION = "seal"


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


#: Asks the catalog whether the version is open. Raises `NotAllowed` if it is locked, or answers False to somebody who
#: may write all the same.
Guard = Callable[[], Awaitable[bool | None]]


@dataclass
class Asked:
    """A mutation that somebody waits for."""

    change: Callable[[Mutation], Awaitable[Any]]
    answer: asyncio.Future[Any]
    by_admin: bool
    still_open: Guard

    def fail(self, error: BaseException) -> None:
        """Answer with an error, unless there is an answer."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def end(self, outcome: Any) -> None:
        """Answer with what the mutation returned or raised, unless there is an answer."""
        if isinstance(outcome, BaseException):
            self.fail(outcome)
        elif not self.answer.done():
            self.answer.set_result(outcome)


@dataclass(frozen=True)
class Staged:
    """What a batch leaves to be committed, nothing if all failed; its answers; and the number of its first record."""

    writes: Overlay
    outcomes: list[Any]
    first: int


def seal_key(version: str) -> bytes:
    """Where a version says that it is sealed."""
    return SEAL + version.encode()


async def seal(mutation: Mutation) -> None:
    """The mutation that seals a version."""
    key = seal_key(mutation.version)
    if await mutation.get(key) is None:
        mutation.put(key, b"")
    mutation.record(log.Record(SEAL_ACTION, mutation.version))


async def sealing() -> None:
    """The guard of a seal, which need not ask whether there is a lock."""


async def stage(base: Snapshot, version: str, batch: Sequence[Asked], nonce: bytes) -> Staged:
    """Run mutations of a version; `nonce` tells their commit from others."""
    sealed_key, begun_key = seal_key(version), log.begun_key(version)
    sequence, sealed, begun = await base.get_many([SEQUENCE, sealed_key, begun_key])
    first = log.sequence_of(sequence) + 1
    staged, records = Overlay(base), list[log.Record]()
    refused: dict[bool, NotAllowed] = {}
    if sealed is not None:
        refused[False] = NotAllowed(f"version {version} is locked")
    elif begun is None and await _ask(batch, refused):
        staged.put(sealed_key, b"")
    outcomes: list[Any] = []
    for asked in batch:
        if asked.by_admin in refused:
            outcomes.append(refused[asked.by_admin])
            continue
        mutation = Mutation(staged, version, base.generation)
        try:
            outcome = await asked.change(mutation)
            if not mutation.records:
                raise AssertionError("a mutation without a log record")
        except Exception as error:  # each mutation answers for itself
            outcomes.append(error)
            continue
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            outcomes.append(StoreUnavailable(f"the mutation was cancelled: {error!r}"))
            continue
        outcomes.append(outcome)
        staged.absorb(mutation)
        records += mutation.records
    if not records:
        return Staged(Overlay(base), outcomes, first)
    for number, record in enumerate(records, first):
        log.stage(staged, number, record, nonce)
    staged.put(SEQUENCE, log.sequence(first + len(records) - 1, nonce))
    if begun is None:
        staged.put(begun_key, log.sequence(first, nonce))
    return Staged(staged, outcomes, first)


async def _ask(batch: Sequence[Asked], refused: dict[bool, NotAllowed]) -> bool:
    """Ask the catalog for a lock that found no tree to seal; whether there is one that an administrator passed."""
    done, is_locked = set[bool](), False
    for asked in batch:
        if asked.still_open is not sealing and asked.by_admin not in done:
            done.add(asked.by_admin)
            try:
                is_locked |= await asked.still_open() is False
            except NotAllowed as error:
                refused[asked.by_admin] = error
    return is_locked


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
