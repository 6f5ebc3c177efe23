"""Trees against a dictionary: versions, locks, batches with failures, two pods, old generations."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.backends.store import Store, StoreOptions
from app.core.errors import Invalid, NotAllowed
from app.versioning import log
from app.versioning.cache import Cache
from app.versioning.line import Line
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Snapshot
from app.versioning.trees import Trees
from tests.journals import store_options

FOLDER = "repos/r/d/"
FIRST, LAST = b"k/", b"k0"

keys = st.builds(
    lambda parts: b"k/" + b"".join(parts), st.lists(st.sampled_from([b"a", b"b", b"\0", b"\xff"]), max_size=3)
)
#: A letter and how often: written out, so that hypothesis need not print large values.
values = st.tuples(st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 1025, 70_000, 257 << 10]))
operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys, values),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("delete_range"), keys, keys),
        st.tuples(st.just("read"), keys, keys),
    ),
    max_size=6,
)
#: Operations, and whether the mutation fails at its end.
mutations = st.lists(st.tuples(operations, st.sampled_from([False, False, False, True])), min_size=1, max_size=4)
pods = st.integers(0, 1)


def value(letter: int, count: int) -> bytes:
    return bytes([letter]) * count


class Deliberate(Exception):
    pass


@dataclass(repr=False)
class Version:
    uuid: str
    parent: Version | None
    contents: dict[bytes, bytes]
    locked: bool = False
    is_sealed: bool = True
    children: list[Version] = field(default_factory=list)
    applied: int = 0

    def __repr__(self) -> str:
        return self.uuid


def apply(contents: dict[bytes, bytes], operation: Sequence[Any]) -> Any:
    """What an operation does to a dictionary, and what it answers."""
    kind, key, *rest = operation
    if kind == "put":
        contents[key] = value(*rest[0])
    elif kind == "delete":
        contents.pop(key, None)
    elif kind == "delete_range":
        for each in [each for each in contents if key <= each < rest[0]]:
            del contents[each]
    else:
        found = sorted(each for each in contents if key <= each < rest[0])
        return found, contents.get(key), [contents.get(key), contents.get(rest[0])]
    return None


async def perform(mutation: Mutation, operation: Sequence[Any]) -> Any:
    """The same, done to a tree."""
    kind, key, *rest = operation
    if kind == "put":
        mutation.put(key, value(*rest[0]))
    elif kind == "delete":
        mutation.delete(key)
    elif kind == "delete_range":
        mutation.delete_range(key, rest[0])
    else:
        return await mutation.keys(key, rest[0]), await mutation.get(key), await mutation.get_many([key, rest[0]])
    return None


class Pod:
    def __init__(self, store: Store, cache_bytes: int) -> None:
        self.trees = Trees(store, Cache(cache_bytes))


class Machine(RuleBasedStateMachine):
    kind = "memory"

    @initialize(cache_bytes=st.sampled_from([3_000, 1 << 20]))
    def start(self, cache_bytes: int) -> None:
        self.runner = asyncio.Runner()
        self.cache_bytes = cache_bytes
        self.folder = tempfile.TemporaryDirectory()
        self.memory = Store("memory://x", StoreOptions())
        self.pods = [self.pod(), self.pod()]
        self.versions = [Version("root", None, {})]
        self.lines: dict[tuple[int, str], Line] = {}
        self.epoch = 0
        self.seen: list[tuple[Version, Snapshot, dict[bytes, bytes]]] = []
        self.numbers = 0

    def pod(self) -> Pod:
        if self.kind == "memory":
            return Pod(self.memory, self.cache_bytes)
        options = store_options(durability="process", cache_bytes=1 << 20)
        return Pod(Store(self.folder.name, options), self.cache_bytes)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            for pod in self.pods:
                self.runner.run(pod.trees.drain())
            self.runner.close()
            self.folder.cleanup()

    def line(self, pod: int, version: Version, locked: bool | None = None) -> Line:
        key = (pod, version.uuid)
        if locked is not None or key not in self.lines:
            chain, step = [version.uuid], version.parent
            while step is not None:
                chain.append(step.uuid)
                step = step.parent
            made = Line(tuple(chain), version.locked if locked is None else locked, self.epoch)
            if locked is not None:
                return made
            self.lines[key] = made
        return self.lines[key]

    def choose(self, data: st.DataObject, locked: bool | None) -> Version:
        return data.draw(st.sampled_from([each for each in self.versions if locked in (None, each.locked)]))

    # -------------------------------------------------------------- writing

    async def mutate(
        self, pod: int, line: Line, version: Version, operations: Sequence[Any], fails: bool, number: int, admin: bool
    ) -> list[Any]:
        async def change(mutation: Mutation) -> list[Any]:
            answers = [await perform(mutation, operation) for operation in operations]
            mutation.record(log.Record("test", version.uuid, number))
            if fails:
                raise Deliberate
            return answers

        async def still_open() -> bool:
            await asyncio.sleep(0)
            if version.locked and not admin:
                raise NotAllowed("locked")
            return not version.locked

        return await self.pods[pod].trees.mutate(FOLDER, line, change, still_open=still_open, by_admin=admin)

    def write(
        self,
        version: Version,
        work: Sequence[tuple[int, Sequence[tuple[Sequence[Any], bool]]]],
        *,
        line: Line | None = None,
        admin: bool = False,
        locking: bool = False,
        by: int = 0,
    ) -> list[BaseException]:
        """Run mutations of pods at once, and apply those that succeeded to the model in the order of the log."""
        known: dict[int, tuple[Sequence[Any], bool]] = {}
        tasks = []
        for pod, batch in work:
            for operations, fails in batch:
                self.numbers += 1
                known[self.numbers] = operations, fails
                tasks.append(
                    self.mutate(pod, line or self.line(pod, version), version, operations, fails, self.numbers, admin)
                )

        async def lock() -> None:
            await asyncio.sleep(0)
            version.locked = True
            await self.pods[by].trees.seal(FOLDER, version.uuid)

        async def run() -> list[Any]:
            return await asyncio.gather(*tasks, *([lock()] if locking else []), return_exceptions=True)

        answers: dict[int, Any] = dict(zip(known, self.runner.run(run()), strict=False))
        if locking or admin:
            self.epoch += admin  # as the catalog tells every pod before an administrator's commit
            self.lines.clear()
        records = [record for record in self.records(version) if record.action == "test"][version.applied :]
        version.applied += len(records)
        landed = [record.mutation_id for record in records]
        assert len(landed) == len(set(landed))
        refused = []
        for number, answer in answers.items():
            fails = known[number][1]
            if isinstance(answer, Deliberate):
                assert fails
            elif isinstance(answer, NotAllowed):
                assert version.locked
                refused.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            assert (number in landed) == (not isinstance(answer, BaseException))
        for number in landed:
            expected = [apply(version.contents, operation) for operation in known[number][0]]
            assert answers[number] == expected
        return refused

    def records(self, version: Version) -> list[log.Record]:
        async def read() -> list[log.Record]:
            snapshot = await self.pods[0].trees.head(FOLDER, self.line(0, version))
            return await log.records(snapshot, version.uuid)

        return self.runner.run(read())

    @precondition(lambda self: any(not version.locked for version in self.versions))
    @rule(data=st.data(), pod=pods, batch=mutations)
    def write_in_one_pod(self, data: st.DataObject, pod: int, batch: Any) -> None:
        assert not self.write(self.choose(data, False), [(pod, batch)])

    @precondition(lambda self: any(not version.locked for version in self.versions))
    @rule(data=st.data(), one=mutations, other=mutations)
    def write_in_two_pods(self, data: st.DataObject, one: Any, other: Any) -> None:
        assert not self.write(self.choose(data, False), [(0, one), (1, other)])

    @precondition(lambda self: any(not version.locked for version in self.versions))
    @rule(data=st.data(), one=mutations, other=mutations, by=pods)
    def write_while_it_is_locked(self, data: st.DataObject, one: Any, other: Any, by: int) -> None:
        self.write(self.choose(data, False), [(0, one), (1, other)], locking=True, by=by)

    @precondition(lambda self: any(version.locked for version in self.versions))
    @rule(data=st.data(), pod=pods, batch=mutations, stale=st.booleans())
    def nobody_writes_to_a_locked_version(self, data: st.DataObject, pod: int, batch: Any, stale: bool) -> None:
        version = self.choose(data, True)
        # The seal is what stops a pod that has not heard of the lock.
        line = self.line(pod, version, locked=False) if stale and version.is_sealed else None
        assert len(self.write(version, [(pod, batch)], line=line)) == len(batch)

    @precondition(lambda self: any(version.locked and not version.children for version in self.versions))
    @rule(data=st.data(), pod=pods, batch=mutations)
    def but_an_administrator(self, data: st.DataObject, pod: int, batch: Any) -> None:
        version = data.draw(st.sampled_from([each for each in self.versions if each.locked and not each.children]))
        assert not self.write(version, [(pod, batch)], admin=True)

    # -------------------------------------------------------------- the graph

    @precondition(lambda self: any(not version.locked for version in self.versions))
    @rule(data=st.data(), pod=pods, sealing=st.booleans())
    def lock(self, data: st.DataObject, pod: int, sealing: bool) -> None:
        """Lock a version; without sealing, as a pod does that dies half-way."""
        version = self.choose(data, False)
        version.locked, version.is_sealed = True, sealing
        self.lines.clear()
        if sealing:
            self.runner.run(self.pods[pod].trees.seal(FOLDER, version.uuid))

    @precondition(lambda self: any(version.locked for version in self.versions))
    @rule(data=st.data())
    def branch(self, data: st.DataObject) -> None:
        parent = self.choose(data, True)
        child = Version(uuid.uuid4().hex[:6], parent, dict(parent.contents))
        parent.children.append(child)
        self.versions.append(child)
        self.lines.clear()

    @rule(pod=pods)
    def reopen(self, pod: int) -> None:
        self.runner.run(self.pods[pod].trees.drain())
        self.pods[pod] = self.pod()

    # -------------------------------------------------------------- reading

    @rule(data=st.data(), pod=pods, first=keys, last=keys)
    def read(self, data: st.DataObject, pod: int, first: bytes, last: bytes) -> None:
        version = self.choose(data, None)
        snapshot = self.runner.run(self.pods[pod].trees.head(FOLDER, self.line(pod, version)))
        self.seen = [*self.seen[-20:], (version, snapshot, dict(version.contents))]
        self.runner.run(self.check(snapshot, version.contents, first, last))

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), pod=pods, first=keys, last=keys)
    def read_as_it_was(self, data: st.DataObject, pod: int, first: bytes, last: bytes) -> None:
        version, snapshot, contents = data.draw(st.sampled_from(self.seen))
        self.runner.run(self.check(snapshot, contents, first, last))
        if snapshot.generation:
            again = self.runner.run(self.pods[pod].trees.at(FOLDER, self.line(pod, version), snapshot.generation))
            self.runner.run(self.check(again, contents, first, last))
        with pytest.raises(Invalid):
            self.runner.run(self.pods[pod].trees.at(FOLDER, self.line(pod, version), 10**6))

    async def check(self, snapshot: Snapshot, contents: dict[bytes, bytes], first: bytes, last: bytes) -> None:
        between = sorted(key for key in contents if first <= key < last)
        assert await snapshot.keys(first, last) == between
        assert await snapshot.items(FIRST, LAST) == sorted(contents.items())
        asked = [first, last, *contents]
        assert await snapshot.get_many(asked) == [contents.get(key) for key in asked]
        for key in (first, last):
            assert await snapshot.get(key) == contents.get(key)
            assert snapshot.recall(key, "decoded") in (None, ("decoded", contents.get(key)))
            snapshot.remember(key, "decoded", ("decoded", contents.get(key)), 100)
        assert snapshot.cache.size_bytes <= self.cache_bytes

    @invariant()
    def nothing_waits(self) -> None:
        if hasattr(self, "pods"):
            for pod in self.pods:
                assert all(not tree._queue for tree in pod.trees._trees.values())


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def run(kind: str, examples: int, steps: int) -> None:
    machine = type(f"{kind.title()}Machine", (Machine,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=steps, **QUIET),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_trees_are_dictionaries(kind: str) -> None:
    run(kind, 40, 25)


@pytest.mark.usefixtures("small_journals")
def test_trees_with_small_journals_are_dictionaries() -> None:
    run("file", 40, 25)


@pytest.mark.torture
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_trees_are_dictionaries_for_long(kind: str) -> None:
    run(kind, 1500, 60)
