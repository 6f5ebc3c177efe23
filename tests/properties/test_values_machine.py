"""keyvalue and neuronjson against dictionaries: random graphs of versions, two pods, large values, old generations."""

from __future__ import annotations

import asyncio
import copy
import json
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from app.backends.bucket_catalog import BucketCatalog
from app.backends.store import Store
from app.core.errors import NotAllowed
from app.datatypes import DATATYPES, keyvalue, values
from app.datatypes.author import Author
from app.datatypes.neuronjson import documents, pages, queries, reading, writing
from app.datatypes.neuronjson.documents import Show
from app.datatypes.neuronjson.reading import View
from app.versioning.datastore import Data, Datastore
from app.versioning.graph import Instance
from app.versioning.merge import merge_versions
from app.versioning.snapshot import Snapshot
from tests.journals import store_options

PIECE = 64

pods = st.integers(0, 1)
keys = st.sampled_from(["a", "a\udcff", "b", "ba", "\u00fc", "\0", "z" * 50])
#: A letter and how often; some are as large as a piece, or several.
contents = st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 5, PIECE, PIECE + 1, 3 * PIECE, 5 * PIECE - 1])).map(
    lambda made: bytes([made[0]]) * made[1]
)
bodies = st.sampled_from([1, 2, 3, 5, 8, 13, 21, 34, (1 << 64) - 1])
names = st.sampled_from(["type", "n", "tags", "user", "type_user"])
items = st.sampled_from(["LC10", "LC12", "", 5, 5.0, 1, True, False, -1])
fields = st.dictionaries(names, st.one_of(st.none(), items, st.lists(items, max_size=3)), max_size=4)
wanted = st.one_of(
    items, st.lists(items, max_size=2), st.sampled_from(["re/^LC", "re/0$", "exists/0", "exists/1", ["re/2", 5]])
)
questions = st.lists(st.dictionaries(names, wanted, min_size=1, max_size=2), min_size=1, max_size=2)
ANN = writing.Author("ann", "test", by_admin=False)


@dataclass(repr=False, eq=False)
class Version:
    uuid: str
    values: dict[str, bytes] = field(default_factory=dict)
    annotations: dict[int, dict[str, Any]] = field(default_factory=dict)
    locked: bool = False
    parent: Version | None = None
    is_merged: bool = False

    def __repr__(self) -> str:
        return self.uuid[:4]

    def line(self) -> list[Version]:
        """The version and those before it, down to where versions were merged."""
        return [self, *(self.parent.line() if self.parent is not None and not self.is_merged else [])]


def untimed(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if not name.endswith("_time")}


def is_match(document: dict[str, Any], question: dict[str, Any]) -> bool:
    """What the query language means, said as plainly as possible."""

    def equal(one: Any, other: Any) -> bool:
        return type(one) is bool and one is other if type(other) is bool else type(one) is not bool and one == other

    def matches(name: str, value: Any) -> bool:
        there = document.get(name)
        if isinstance(value, str) and value.startswith("exists/"):
            return (there is not None) == (value == "exists/1")
        held = there if isinstance(there, list) else [] if there is None else [there]
        if isinstance(value, str) and value.startswith("re/"):
            pattern = {"^LC": lambda s: s[:2] == "LC", "0$": lambda s: s[-1:] == "0", "2": lambda s: "2" in s}[
                value[3:]
            ]
            return any(isinstance(each, str) and pattern(each) for each in held)
        return any(equal(each, value) for each in held)

    return all(
        any(matches(name, each) for each in (value if isinstance(value, list) else [value]))
        for name, value in question.items()
    )


def apart(versions: list[Version]) -> Iterator[tuple[Version, Version, Version]]:
    """Pairs of locked versions, neither of which comes from the other, and where they parted."""
    for ours, theirs in permutations([each for each in versions if each.locked], 2):
        line = ours.line()
        base = next((each for each in theirs.line() if each in line), None)
        if base is not None and base not in (ours, theirs):
            yield ours, theirs, base


def joined(base: dict[Any, Any], ours: dict[Any, Any], theirs: dict[Any, Any]) -> tuple[dict[Any, Any], set[Any]]:
    """What two sides make of what both came from, and the keys of which they made different things."""
    made, clashing = {}, set()
    for key in {**base, **ours, **theirs}:
        was, our, their = (side.get(key) for side in (base, ours, theirs))
        if was != our != their != was:
            clashing.add(key)
        value = their if our == was else our
        if value is not None:
            made[key] = value
    return made, clashing


async def in_pieces(value: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(value), 50):
        yield value[start : start + 50]


class Machine(RuleBasedStateMachine):
    @initialize(cache_bytes=st.sampled_from([3_000, 1 << 20]))
    def start(self, cache_bytes: int) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.cache_bytes = cache_bytes
        self.pods = [self.pod(), self.pod()]
        self.do(self.found())
        self.seen: list[tuple[str, int, Version, int]] = []

    def pod(self) -> Datastore:
        options = store_options(durability="process", cache_bytes=1 << 20)
        store = Store(self.folder.name, options)
        return Datastore(store, BucketCatalog(store), options, cache_bytes=self.cache_bytes)

    async def found(self) -> None:
        repo = await self.pods[0].repos.create("", "")
        for name in ("keyvalue", "neuronjson"):
            await self.pods[0].repos.add_instance(repo.root, Instance(uuid.uuid4().hex, name, name, repo.root))
        self.versions = [Version(repo.root)]

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            for pod in self.pods:
                self.do(pod.close())
            self.runner.close()
            self.folder.cleanup()

    def choose(self, draw: st.DataObject) -> Version:
        """Any version, most often one of those that can be written."""
        writable = [each for each in self.versions if not each.locked]
        return draw.draw(st.sampled_from([*self.versions, *writable * len(self.versions)]))

    async def data(self, pod: int, version: Version, name: str) -> Data:
        return await self.pods[pod].data(version.uuid, name)

    def write(self, pod: int, version: Version, name: str, change: Callable[[Data], Any]) -> bool:
        """Whether a write succeeded: it must unless its version is locked."""

        async def run() -> None:
            await change(await self.data(pod, version, name))

        if version.locked:
            with pytest.raises(NotAllowed):
                self.do(run())
            return False
        self.do(run())
        return True

    # -------------------------------------------------------------- the graph

    @precondition(lambda self: len(self.versions) < 10)
    @rule(draw=st.data(), pod=pods, children=st.integers(1, 2))
    def grow(self, draw: st.DataObject, pod: int, children: int) -> None:
        """Lock a version, if it is not locked yet, and go on from it."""
        parent = draw.draw(st.sampled_from(self.versions))

        async def run() -> list[str]:
            repos = self.pods[pod].repos
            repo, node = await repos.resolve(parent.uuid)
            if not parent.locked:
                await self.pods[pod].lock(repo, node.uuid, "", [])
            branches = [uuid.uuid4().hex for _ in range(children)]
            return [await repos.add_version(repo.root, [node.uuid], branch=branch) for branch in branches]

        made = self.do(run())
        parent.locked = True
        for child in made:
            made_of = dict(parent.values), copy.deepcopy(parent.annotations)
            self.versions.append(Version(child, *made_of, parent=parent))

    @precondition(lambda self: len(self.versions) < 12 and any(apart(self.versions)))
    @rule(draw=st.data(), pod=pods)
    def merge(self, draw: st.DataObject, pod: int) -> None:
        """Bring two versions together, or be told that they changed the same key in different ways."""
        ours, theirs, base = draw.draw(st.sampled_from(list(apart(self.versions))))
        bodies, clashing_bodies = joined(base.annotations, ours.annotations, theirs.annotations)
        if clashing_bodies:
            return  # some fields of a body may be in conflict and others not: other tests know which
        held, clashing = joined(base.values, ours.values, theirs.values)

        async def run() -> str:
            repo, _ = await self.pods[pod].repos.resolve(ours.uuid)
            return await merge_versions(
                self.pods[pod],
                repo,
                [ours.uuid, theirs.uuid],
                note="",
                merges=lambda instance: DATATYPES[instance.typename].merge,
            )

        if clashing:
            with pytest.raises(NotAllowed) as refusal:
                self.do(run())
            assert str(refusal.value).count("keyvalue: ") == len(clashing)
            return
        self.versions.append(Version(self.do(run()), held, copy.deepcopy(bodies), parent=ours, is_merged=True))

    # -------------------------------------------------------------- keyvalue

    @rule(draw=st.data(), pod=pods, key=keys, value=contents, by_stream=st.booleans())
    def put(self, draw: st.DataObject, pod: int, key: str, value: bytes, by_stream: bool) -> None:
        version = self.choose(draw)

        def change(data: Data) -> Any:
            if by_stream:
                return keyvalue.put_stream(data, key, in_pieces(value), Author("u", "a"))
            return keyvalue.put(data, [("other", b"first"), (key, b"first"), (key, value)], Author("u", "a"))

        if self.write(pod, version, "keyvalue", change):
            if not by_stream:
                version.values["other"] = b"first"
            version.values[key] = value

    @rule(draw=st.data(), pod=pods, key=keys)
    def delete(self, draw: st.DataObject, pod: int, key: str) -> None:
        version = self.choose(draw)
        if self.write(pod, version, "keyvalue", lambda data: keyvalue.delete(data, key, Author("u", "a"))):
            version.values.pop(key, None)

    @rule(draw=st.data(), pod=pods, first=keys, last=keys)
    def read_values(self, draw: st.DataObject, pod: int, first: str, last: str) -> None:
        version = self.choose(draw)

        async def run() -> None:
            snapshot = await (await self.data(pod, version, "keyvalue")).head()
            self.remember("keyvalue", version, snapshot)
            await self.check_values(snapshot, version, first, last)

        self.do(run())

    async def check_values(self, snapshot: Snapshot, version: Version, first: str, last: str) -> None:
        def order(key: str) -> bytes:
            return key.encode("utf-8", "surrogateescape")

        listed = sorted(version.values, key=order)
        assert await keyvalue.key_range(snapshot) == listed
        between = [key for key in listed if order(first) <= order(key) <= order(last)]
        assert await keyvalue.key_range(snapshot, first, last) == between
        asked = [*listed, "nosuch", first]
        found = [value async for value in keyvalue.get_many(snapshot, asked)]
        for key, value in zip(asked, found, strict=True):
            right = version.values.get(key)
            assert (value is None) == (right is None)
            if value is not None and right is not None:
                assert (await values.whole(value), value.size) == (right, len(right))
                start, stop = len(right) // 3, len(right) // 3 * 2 + 1
                assert await values.whole(values.cut(value, start, stop)) == right[start:stop]

    @rule(draw=st.data(), pod=pods)
    def no_piece_is_left_behind(self, draw: st.DataObject, pod: int) -> None:
        version = self.choose(draw)

        async def run() -> None:
            snapshot = await (await self.data(pod, version, "keyvalue")).head()
            pieces = await snapshot.keys(b"v/", b"v0")
            assert len(pieces) == sum(-(-len(each) // PIECE) for each in version.values.values() if len(each) > PIECE)

        self.do(run())

    # -------------------------------------------------------------- neuronjson

    @rule(
        draw=st.data(),
        pod=pods,
        given=st.lists(st.tuples(bodies, fields), min_size=1, max_size=4),
        replace=st.booleans(),
        conditionals=st.lists(names, max_size=1),
    )
    def annotate(
        self,
        draw: st.DataObject,
        pod: int,
        given: list[tuple[int, dict[str, Any]]],
        replace: bool,
        conditionals: list[str],
    ) -> None:
        version = self.choose(draw)
        posted = [writing.posted(str(body), json.dumps({"bodyid": body, **each}).encode()) for body, each in given]

        def change(data: Data) -> Any:
            return writing.put(data, posted, ANN, action=writing.INGEST, conditionals=conditionals, replace=replace)

        if self.write(pod, version, "neuronjson", change):
            for item in posted:
                version.annotations[item.body] = documents.updated(
                    version.annotations.get(item.body),
                    item.document,
                    "ann",
                    "2001-01-01T00:00:00Z",
                    conditionals=conditionals,
                    replace=replace,
                )

    @rule(draw=st.data(), pod=pods, body=bodies)
    def forget(self, draw: st.DataObject, pod: int, body: int) -> None:
        version = self.choose(draw)
        if self.write(pod, version, "neuronjson", lambda data: writing.delete(data, body, ANN)):
            version.annotations.pop(body, None)

    @rule(draw=st.data(), pod=pods, question=questions, limits=st.tuples(bodies, bodies))
    def ask(self, draw: st.DataObject, pod: int, question: list[dict[str, Any]], limits: tuple[int, int]) -> None:
        version = self.choose(draw)

        async def run() -> None:
            data = await self.data(pod, version, "neuronjson")
            snapshot = await data.head()
            self.remember("neuronjson", version, snapshot)
            await self.check_annotations(data, snapshot, version, question, limits)

        self.do(run())

    async def check_annotations(
        self,
        data: Data,
        snapshot: Snapshot,
        version: Version,
        question: list[dict[str, Any]],
        limits: tuple[int, int],
    ) -> None:
        right = {body: untimed(version.annotations[body]) for body in sorted(version.annotations)}
        view = View(Show.USER)
        shown = b",".join([piece async for piece in reading.everything(data, snapshot, view)])
        assert json.loads(b"[" + shown + b"]") == [each for each in right.values() if len(each) > 1]
        query = queries.parse(json.dumps(question).encode())
        found = [json.loads(piece) async for piece in reading.select(data, snapshot, query, view, False)]
        matching = [each for each in right.values() if any(is_match(each, one) for one in question)]
        assert found == matching
        ids = [int(piece) async for piece in reading.select(data, snapshot, query, view, True)]
        assert ids == [each["bodyid"] for each in matching]
        ranged = [body async for body, _ in reading.ranged(data, snapshot, *limits)]
        assert ranged == [body for body in right if limits[0] <= body <= limits[1]]
        assert (await reading.pages(data, snapshot)).bodies(*limits) == ranged
        counts = await reading.field_counts(data, snapshot)
        assert counts == Counter(name for each in version.annotations.values() for name in each)
        times = await reading.field_times(data, snapshot)
        assert times.keys() >= {name[:-5] for name in counts if name.endswith("_time")}
        one = await reading.get(snapshot, limits[0])
        assert (None if one is None else untimed(documents.decode(one))) == right.get(limits[0])

    # -------------------------------------------------------------- the past

    def remember(self, name: str, version: Version, snapshot: Snapshot) -> None:
        if snapshot.generation:
            self.seen.append(
                (
                    name,
                    self.versions.index(version),
                    replace(version, values=dict(version.values), annotations=copy.deepcopy(version.annotations)),
                    snapshot.generation,
                )
            )

    @precondition(lambda self: getattr(self, "seen", None))
    @rule(draw=st.data(), pod=pods, question=questions)
    def look_back(self, draw: st.DataObject, pod: int, question: list[dict[str, Any]]) -> None:
        name, place, version, generation = draw.draw(st.sampled_from(self.seen))

        async def run() -> None:
            data = await self.data(pod, self.versions[place], name)
            snapshot = await data.at(generation)
            if name == "keyvalue":
                await self.check_values(snapshot, version, "a", "b")
            else:
                await self.check_annotations(data, snapshot, version, question, (2, 13))

        self.do(run())


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and pieces so small that a few values need several."""
    monkeypatch.setattr(values, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(pages, "PAGE", 2)
    monkeypatch.setattr(pages, "TOGETHER", 2)


def test_values_and_annotations_are_dictionaries() -> None:
    run(40, 25)


@pytest.mark.usefixtures("small_journals")
def test_values_and_annotations_with_small_journals_are_dictionaries() -> None:
    run(40, 25)


@pytest.mark.torture
def test_values_and_annotations_are_dictionaries_for_long() -> None:
    run(1500, 60)
