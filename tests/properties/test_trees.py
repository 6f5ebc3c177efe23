"""Scenes from the life of trees that chance would seldom play: locks, cancellation, failing stores, late pods."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.backends.bucket_catalog import BucketCatalog
from app.backends.ordered_map import OrderedMap
from app.backends.store import Store
from app.core.errors import Conflict, Invalid, NotAllowed, StoreUnavailable
from app.versioning import log, tree
from app.versioning.cache import ENTRY_BYTES, Cache
from app.versioning.datastore import Data, Datastore
from app.versioning.graph import Instance
from app.versioning.line import Line
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Snapshot
from app.versioning.trees import Trees
from tests.conftest import options

FOLDER = "repos/r/d/"
ROOT = Line(("root",), False)


async def still_open() -> bool:
    return True


def pod(store: Store, staleness: float = 0.0) -> Trees:
    """A pod of its own on the same store; `staleness` as the settings have it for buckets."""
    if store.scheme != "memory":
        store = Store(store.url, replace(store.options, max_staleness_seconds=staleness))
    return Trees(store, Cache(1 << 20))


async def put(trees: Trees, key: bytes, value: bytes, line: Line = ROOT, **how: Any) -> None:
    async def change(mutation: Mutation) -> None:
        mutation.put(key, value)
        mutation.record(log.Record("put", line.version))

    await trees.mutate(FOLDER, line, change, **{"still_open": still_open, **how})


async def get(trees: Trees, key: bytes, line: Line = ROOT) -> bytes | None:
    return await (await trees.head(FOLDER, line)).get(key)


# ------------------------------------------------------------------ the committer


async def test_a_batch_is_one_generation_and_a_failure_leaves_nothing(store: Store) -> None:
    trees = pod(store)
    await put(trees, b"start", b"")
    before = (await trees.head(FOLDER, ROOT)).generation

    async def change(mutation: Mutation, number: int) -> int:
        count = int(await mutation.get(b"n") or b"0")
        mutation.put(b"n", b"%d" % (count + 1))
        mutation.put(b"k%02d" % number, b"x")
        mutation.delete_range(b"start", b"start\0") if number == 7 else None
        mutation.record(log.Record("count", "root", number))
        if number % 3 == 1:
            raise Invalid(f"no {number}")
        return count

    work = [trees.mutate(FOLDER, ROOT, lambda m, n=n: change(m, n), still_open=still_open) for n in range(12)]  # type: ignore[misc]
    answers = await asyncio.gather(*work, return_exceptions=True)
    assert [str(answer) for answer in answers[1::3]] == ["no 1", "no 4", "no 7", "no 10"]
    assert sorted(answer for answer in answers if isinstance(answer, int)) == list(range(8))
    snapshot = await trees.head(FOLDER, ROOT)
    assert snapshot.generation - before <= (8 if store.is_remote else 2)
    assert await snapshot.get(b"n") == b"8"
    assert await snapshot.get(b"start") == b""
    assert len(await snapshot.keys(b"k", b"l")) == 8
    assert len(await log.records(snapshot, "root")) == 9


async def test_what_a_mutation_may_do_wrong_is_its_own_failure() -> None:
    trees = pod(Store(f"memory://{uuid.uuid4().hex}"))

    async def forgets(mutation: Mutation) -> None:
        mutation.put(b"x", b"1")

    async def is_cancelled(mutation: Mutation) -> None:
        raise asyncio.CancelledError

    async def hits_a_bug(mutation: Mutation) -> None:
        raise ZeroDivisionError

    work = [trees.mutate(FOLDER, ROOT, change, still_open=still_open) for change in (forgets, is_cancelled, hits_a_bug)]
    answers = await asyncio.gather(*work, put(trees, b"y", b"2"), return_exceptions=True)
    assert list(map(type, answers)) == [AssertionError, StoreUnavailable, ZeroDivisionError, type(None)]
    assert [await get(trees, key) for key in (b"x", b"y")] == [None, b"2"]


async def test_clients_that_leave_do_not_disturb_those_who_stay(store: Store) -> None:
    trees = pod(store)
    tasks = [asyncio.create_task(put(trees, b"k%02d" % number, b"x")) for number in range(30)]
    for number, task in enumerate(tasks):
        if number % 3:
            task.cancel()
        await asyncio.sleep(0.001 if number % 5 == 0 else 0)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(answer is None for answer in answers[::3])
    found = await (await trees.head(FOLDER, ROOT)).keys(b"k", b"l")
    assert {b"k%02d" % number for number in range(0, 30, 3)} <= set(found)
    await put(trees, b"k", b"still works")


async def test_drain_waits_for_what_is_queued(store: Store) -> None:
    trees = pod(store)
    tasks = [asyncio.create_task(put(trees, b"k%02d" % number, b"x")) for number in range(20)]
    await put(trees, b"k", b"x")
    for task in tasks:
        task.cancel()  # the server stops, its clients are gone
    await trees.drain()
    assert not any(each._queue for each in trees._trees.values())
    found = await (await pod(store).head(FOLDER, ROOT)).keys(b"k", b"l")
    assert b"k" in found or store.scheme == "memory"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_store_that_fails_in_a_batch(store: Store, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    trees, real, plan = pod(store), OrderedMap.commit, list[str]()
    await put(trees, b"start", b"")

    async def commit(*args: Any, **kwargs: Any) -> None:
        fault = plan.pop(0) if plan else ""
        if fault == "before":
            raise StoreUnavailable("gone")
        await real(*args, **kwargs)
        if fault == "after":
            raise StoreUnavailable("gone")

    monkeypatch.setattr(OrderedMap, "commit", commit)
    plan += [when]
    await asyncio.gather(*[put(trees, b"a%d" % number, b"x") for number in range(5)])
    plan += ["before"] * 5 * tree.FAILURES
    answers = await asyncio.gather(*[put(trees, b"b%d" % number, b"x") for number in range(5)], return_exceptions=True)
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    plan.clear()
    await put(trees, b"c", b"x")
    snapshot = await trees.head(FOLDER, ROOT)
    assert await snapshot.keys(b"a", b"d") == [*[b"a%d" % number for number in range(5)], b"c"]
    assert len(await log.records(snapshot, "root")) == 7


async def test_a_head_that_cannot_be_had_is_looked_for_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit is done, but not the reading of the new generation: the next reader must not see the old one."""
    trees = pod(store, staleness=60.0)
    await put(trees, b"x", b"1")

    async def fail(self: OrderedMap, generation: int) -> Any:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as broken:
        broken.setattr(OrderedMap, "at", fail)
        await put(trees, b"x", b"2")
    assert await get(trees, b"x") == b"2"


# ------------------------------------------------------------------ several pods


async def test_each_pod_sees_its_own_commits_at_once_and_others_in_time(store: Store) -> None:
    here, there = pod(store, staleness=0.2), pod(store, staleness=0.2)
    for number in range(5):
        await put(here, b"x", b"%d" % number)
        assert await get(here, b"x") == b"%d" % number
        if store.is_remote:
            await asyncio.sleep(0.21)
        assert await get(there, b"x") == b"%d" % number
        await put(there, b"y", b"%d" % number)
        assert [await get(there, key) for key in (b"x", b"y")] == [b"%d" % number] * 2


async def test_nothing_stale_is_remembered_when_pods_take_turns(store: Store) -> None:
    pods, model = [pod(store) for _ in range(3)], dict[bytes, bytes]()
    chance = random.Random(3)
    for step in range(60):
        if chance.random() < 0.5:
            key, value = b"k%d" % chance.randrange(5), b"%d" % step
            await put(chance.choice(pods), key, value)
            model[key] = value
        reader = chance.choice(pods)
        snapshot = await reader.head(FOLDER, ROOT)
        for key in (b"k%d" % number for number in range(5)):
            assert await snapshot.get(key) == model.get(key)
            assert snapshot.recall(key, "twice") in (None, (model.get(key), 2))
            snapshot.remember(key, "twice", (model.get(key), 2), 10)


async def test_a_foreign_commit_behind_ones_own_is_not_taken_for_it(
    memory: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this pod makes its new generation the head, another pod commits one more."""
    here, there = pod(memory), pod(memory)
    await put(here, b"x", b"0")
    real, once = Trees.tree(here, FOLDER, "root").map.commit, [True]

    async def commit(*args: Any, **kwargs: Any) -> None:
        await real(*args, **kwargs)
        if once:
            once.clear()
            assert await get(here, b"x") == b"0"  # a reader of this pod remembers the value in the new state
            await put(there, b"x", b"theirs")

    monkeypatch.setattr(here.tree(FOLDER, "root").map, "commit", commit)
    await put(here, b"y", b"mine")
    assert await get(here, b"x") == b"theirs"


@pytest.fixture
def memory() -> Store:
    return Store(f"memory://{uuid.uuid4().hex}")


# ------------------------------------------------------------------ locks


def root_called(version: str) -> Line:
    return Line((version,), False)


async def lock_race(store: Store, line: Line, *, first_write: bool, delay: float) -> None:
    here, there, locked = pod(store), pod(store), False
    if not first_write:
        await put(here, b"start", b"", line)

    async def is_open() -> bool:
        if locked:
            raise NotAllowed("locked")
        return True

    async def write(trees: Trees, name: bytes) -> list[bytes]:
        good = []
        for number in range(100):
            try:
                await put(trees, name + b"%d" % number, b"x", line, still_open=is_open)
            except NotAllowed:
                break
            good.append(name + b"%d" % number)
        return good

    async def lock() -> tuple[bytes, ...]:
        nonlocal locked
        await asyncio.sleep(delay)
        locked = True
        await there.seal(FOLDER, line.version)
        return tuple(await (await pod(store).head(FOLDER, line)).keys(b"a", b"c"))

    a, b, final = await asyncio.gather(write(here, b"a"), write(there, b"b"), lock())
    assert sorted([*a, *b]) == list(final)
    assert await (await pod(store).head(FOLDER, line)).keys(b"a", b"c") == list(final)


@pytest.mark.parametrize("first_write", [True, False])
async def test_a_mutation_that_races_with_a_lock_is_in_or_fails(store: Store, first_write: bool) -> None:
    for delay in (0.0, 0.003, 0.015):
        await lock_race(store, root_called(uuid.uuid4().hex), first_write=first_write, delay=delay)


async def test_a_refused_first_write_opens_no_door(store: Store) -> None:
    """The lock found no tree. The first mutation makes one and is refused, and so is every other."""

    async def is_locked() -> bool:
        raise NotAllowed("locked")

    for trees in (pod(store), pod(store)):
        for _ in range(2):
            with pytest.raises(NotAllowed):
                await put(trees, b"x", b"1", still_open=is_locked)
    assert await get(pod(store), b"x") is None


async def test_an_administrators_write_shuts_the_door(store: Store) -> None:
    async def passes() -> bool:
        return False

    await put(pod(store), b"x", b"1", still_open=passes, by_admin=True)
    with pytest.raises(NotAllowed):
        await put(pod(store), b"x", b"2")
    await put(pod(store), b"x", b"3", still_open=passes, by_admin=True)
    assert await get(pod(store), b"x") == b"3"


async def test_a_child_starts_from_a_sealed_parent(store: Store) -> None:
    """The pod that locked the parent died before it sealed; a late mutation must not fall between the two."""
    late, child = pod(store), Line(("child", "root"), False)
    await put(late, b"x", b"1")
    await put(pod(store), b"y", b"2", child)
    with pytest.raises(NotAllowed):
        await put(late, b"x", b"late")
    assert await get(pod(store), b"x", child) == b"1"


async def test_a_child_never_misses_its_parents_tree(store: Store) -> None:
    """This pod looked at the parent when it had no tree; then others wrote to it, locked it and made a child."""
    here, there = pod(store, staleness=60.0), pod(store)
    parent = Line(("parent", "root"), False)
    await put(there, b"x", b"root")
    await there.seal(FOLDER, "root")
    assert await get(here, b"x", parent) == b"root"
    await put(there, b"x", b"parent", parent)
    await there.seal(FOLDER, "parent")
    child = Line(("child", "parent", "root"), False)
    assert await get(here, b"x", child) == b"parent"
    await put(here, b"y", b"child", child)
    assert await get(there, b"x", child) == b"parent"


async def test_a_locked_version_is_final_only_when_it_is_sealed(store: Store) -> None:
    here, there = pod(store, staleness=0.05), pod(store)
    await put(there, b"x", b"1")
    assert await get(here, b"x") == b"1"
    await put(there, b"x", b"2")  # acknowledged before the lock
    await there.seal(FOLDER, "root")
    await asyncio.sleep(0.06)
    assert await get(here, b"x", Line(("root",), True)) == b"2"


async def test_deep_histories_are_searched(store: Store) -> None:
    trees = pod(store)
    await put(trees, b"x", b"1")
    line = Line((*(f"v{number}" for number in range(100)), "root"), False)
    assert await get(trees, b"x", line) == b"1"
    owner = await trees.owner(FOLDER, line)
    assert owner is not None
    assert owner.version == "root"
    assert await get(pod(store), b"x", Line(line.versions[:-1], True)) is None
    assert len(trees._trees) <= 3


async def test_a_history_of_many_versions_with_little_in_each(tmp_path: Path) -> None:
    """It is stored now and then, not once for each version; other pods find all versions and generations."""
    store = Store(str(tmp_path), options())
    here, there = pod(store), pod(store)
    versions, generations = ["root"], []
    for number in range(150):
        line = Line(tuple(reversed(versions)), False)
        writer, reader = (here, there) if number % 40 else (there, here)
        await put(writer, b"last", b"%d" % number, line)
        await put(writer, b"k%03d" % number, b"", line)
        generations.append((await reader.head(FOLDER, line)).generation)
        await writer.seal(FOLDER, versions[-1])
        with pytest.raises(NotAllowed):
            await put(reader, b"last", b"late", line)
        versions.append(f"v{number}")
    manifests = {(tmp_path / FOLDER / f"trees/{version}/manifest.ocdbt").stat().st_ino for version in versions[:-1]}
    assert len(manifests) < len(versions) // 5
    await put(here, b"side", b"", Line(("side", *reversed(versions[:76])), False))  # a version with two children
    for trees in (here, there, pod(store)):
        for number, generation in enumerate(generations):
            line = Line(tuple(reversed(versions[: number + 1])), True)
            snapshot = await trees.head(FOLDER, line)
            assert await snapshot.get(b"last") == b"%d" % number
            assert await snapshot.keys(b"k", b"l") == [b"k%03d" % earlier for earlier in range(number + 1)]
            assert [record.action for record in await log.records(snapshot, line.version)] == ["put", "put", "seal"]
            assert snapshot.generation == generation + 1
            earlier = await trees.at(FOLDER, line, generation - 1)
            assert await earlier.get(b"k%03d" % number) is None
            assert await earlier.get(b"last") == b"%d" % number
        beside = await trees.head(FOLDER, Line(("side", *reversed(versions[:76])), False))
        assert [await beside.get(key) for key in (b"last", b"side", b"k076")] == [b"75", b"", None]


async def test_racing_first_writes_of_a_child_share_one_branch(store: Store) -> None:
    await put(pod(store), b"x", b"1")
    line = Line(("child", "root"), False)
    pods = [pod(store) for _ in range(3)]
    await asyncio.gather(*[put(pods[n % 3], b"k%d" % n, b"x", line) for n in range(9)])
    snapshot = await pod(store).head(FOLDER, line)
    assert await snapshot.keys(b"k", b"l") == [b"k%d" % n for n in range(9)]
    assert await snapshot.get(b"x") == b"1"
    assert await get(pod(store), b"k0") is None
    assert len(await log.records(snapshot, "child")) == 9


# ------------------------------------------------------------------ with a catalog


async def new_datastore(store: Store) -> Datastore:
    return Datastore(store, BucketCatalog(store), store.options)


async def write(data: Data, key: bytes, **how: Any) -> None:
    async def change(mutation: Mutation) -> None:
        mutation.put(key, b"x")
        mutation.record(log.Record("put", data.version.uuid))

    await data.mutate(change, **how)


async def test_datastores_lock_branch_and_write(store: Store) -> None:
    here = await new_datastore(store)
    there = await new_datastore(store if store.scheme == "memory" else Store(store.url, store.options))
    root = (await here.repos.create("r", "")).root
    await here.repos.add_instance(root, Instance(uuid.uuid4().hex, "data", "keyvalue", root))
    await here.repos.add_instance(root, Instance(uuid.uuid4().hex, "one", "keyvalue", root, versioned=False))
    stale = await there.data(root, "data")
    await write(stale, b"a")
    await here.lock((await here.repos.forest()).repos[root], root, "", [])
    for how, allowed in (({}, False), ({"by_admin": True}, True)):
        if allowed:
            await write(stale, b"b", **how)
        else:
            with pytest.raises(NotAllowed):
                await write(stale, b"b", **how)
    child = await there.repos.add_version(root, [root])
    data = await here.data(child, "data")
    await write(data, b"c")
    assert await (await (await there.data(child, "data")).head()).keys(b"a", b"d") == [b"a", b"b", b"c"]
    assert await (await (await there.data(root, "data")).head()).keys(b"a", b"d") == [b"a", b"b"]
    await write(await here.data(root, "one"), b"u")
    assert await (await (await there.data(child, "one")).head()).keys(b"u", b"z") == [b"u"]
    for datastore in (here, there):
        await datastore.close()


async def test_locking_again_finishes_what_a_dead_pod_began(store: Store) -> None:
    datastore = await new_datastore(store)
    repo = await datastore.repos.create("r", "")
    await datastore.repos.add_instance(repo.root, Instance(uuid.uuid4().hex, "data", "keyvalue", repo.root))
    stale = await datastore.data(repo.root, "data")
    await write(stale, b"a")
    await datastore.repos.lock(repo.root, repo.root, "", [])  # and the pod is gone
    with pytest.raises(NotAllowed):
        await datastore.lock(repo, repo.root, "", [])
    with pytest.raises(NotAllowed):
        await write(stale, b"b")


# ------------------------------------------------------------------ memory


def test_a_cache_counts_what_it_holds() -> None:
    cache, chance = Cache(50_000), random.Random(1)
    for _ in range(5000):
        scope, key = chance.randrange(3), b"k%d" % chance.randrange(200)
        if chance.random() < 0.2:
            cache.drop(scope, key)
        else:
            cache.put(scope, key, chance.choice("abc"), "v", chance.choice([0, 10, 3000, 12_000, 10**6]))
        held = sum(
            ENTRY_BYTES + len(key) + sum(size for _, size in entry.facets.values())
            for (_, key), entry in cache._entries.items()
        )
        assert cache.size_bytes == held <= 50_000


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(10 * (ENTRY_BYTES + 2 + 100))
    for number in range(10):
        cache.put(0, b"k%d" % number, "v", number, 100)
    assert cache.get(0, b"k0", "v") == 0
    cache.put(0, b"kx", "v", "x", 100)
    assert [cache.get(0, key, "v") for key in (b"k0", b"k1", b"k2", b"kx")] == [0, None, 2, "x"]


async def test_old_snapshots_put_nothing_in_the_cache_of_new_ones(store: Store) -> None:
    trees = pod(store)
    await put(trees, b"x", b"1")
    old = await trees.head(FOLDER, ROOT)
    await put(trees, b"x", b"2")
    new = await trees.head(FOLDER, ROOT)
    assert old.scope is None
    old.remember(b"x", "f", "old", 1)
    assert [await each.get(b"x") for each in (old, new, old)] == [b"1", b"2", b"1"]
    assert new.recall(b"x", "f") is None
    assert isinstance(new, Snapshot)


async def test_large_values_are_read_but_not_kept(store: Store) -> None:
    trees, value = pod(store), os.urandom(700 << 10)
    await put(trees, b"x", value)
    for _ in range(2):
        assert await get(trees, b"x") == value
    assert trees._cache.size_bytes < 100 << 10


# ------------------------------------------------------------------ Google Cloud Storage


async def test_a_pod_that_slept_through_many_generations_loses(
    gcs_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest's name is free again, since TensorStore clears old ones away; the write must not count."""
    from tests.fakes import faults
    from tests.fakes.faults import Fault

    url, patient = f"gs://dvid/{uuid.uuid4().hex}", replace(options(), timeout_seconds=20.0)
    fast = OrderedMap(Store(url, patient), "d/", "d/t/")
    await fast.commit({b"x": b"0"}, unchanged={})
    with faults.proxy(gcs_server) as proxy:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", proxy.url)
        slow = OrderedMap(Store(url, patient), "d/", "d/t/")
        await slow.commit({b"x": b"1"}, unchanged={b"x": b"0"})
        proxy.only = lambda method, target: method == "POST" and "manifest." in target
        proxy.delay_seconds = (6.0, 6.0)
        proxy.plan(Fault.DELAY)
        task = asyncio.create_task(slow.commit({b"x": b"slow"}, unchanged={b"x": b"1"}))
        while not proxy.injected.total():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        written = 0
        while not task.done():
            if written < 160:
                await fast.commit({b"x": b"fast%d" % written}, unchanged={})
                written += 1
            else:
                await asyncio.sleep(0.05)
        if written > 135:
            with pytest.raises(Conflict):
                await task
        else:
            task.exception()
            pytest.skip("this machine was too busy to write 135 generations in time")
        fingerprint = await fast.fingerprint()
        assert fingerprint is not None
        view = await fast.at(await fast.generation(fingerprint))
        assert await view.get(b"x") == b"fast%d" % (written - 1)


async def test_trees_are_forgotten_but_never_one_with_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.versioning.trees.REMEMBERED_TREES", 3)
    trees = pod(store)
    lines = [Line((f"v{number}",), False) for number in range(12)]
    started, hold = asyncio.Event(), asyncio.Event()

    async def slow(mutation: Mutation) -> None:
        started.set()
        await hold.wait()
        mutation.put(b"slow", b"1")
        mutation.record(log.Record("put", ROOT.version))

    waiting = asyncio.ensure_future(trees.mutate(FOLDER, ROOT, slow, still_open=still_open))
    busy = trees.tree(FOLDER, ROOT.version)
    async with asyncio.timeout(10):
        await started.wait()
    for line in lines:
        await put(trees, b"key", line.version.encode(), line)
    assert len(trees._recent) == 3
    assert trees.tree(FOLDER, ROOT.version) is busy  # forgotten among those looked at last, and yet the same
    del busy
    hold.set()
    await waiting
    assert await get(trees, b"slow") == b"1"
    for line in lines:
        assert await get(trees, b"key", line) == line.version.encode()
    assert len(trees._recent) == 3
    gc.collect()
    assert len(trees._trees) <= 4
    await trees.drain()


async def test_trees_of_an_earlier_node_size_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"file://{tmp_path}", options())
    with monkeypatch.context() as earlier:
        earlier.setattr("app.backends.ocdbt.LOCAL_NODE_BYTES", 128 << 10)
        await put(pod(store), b"a", b"1")
    trees = pod(store)
    await put(trees, b"b", b"2")
    line = Line(("child", "root"), False)
    await put(trees, b"c", b"3", line)
    assert [await get(pod(store), key, line) for key in (b"a", b"b", b"c")] == [b"1", b"2", b"3"]


async def test_a_process_with_much_to_commit_leaves_others_their_turn(tmp_path: Path) -> None:
    """Two pods on one folder, each with writers that never pause: both go on, and nothing is lost."""
    url = f"file://{tmp_path}"
    pods = [pod(Store(url, options())) for _ in range(2)]
    done = [0, 0]
    end = asyncio.get_running_loop().time() + 1.5

    async def writer(place: int, lane: int) -> None:
        number = 0
        while asyncio.get_running_loop().time() < end:
            await put(pods[place], b"%d/%d/%05d" % (place, lane, number), b"x")
            number += 1
            done[place] += 1

    await asyncio.gather(*[writer(place, lane) for place in range(2) for lane in range(4)])
    assert min(done) * 4 > max(done)
    snapshot = await pod(Store(url, options())).head(FOLDER, ROOT)
    assert len(await snapshot.keys(b"0", b"2")) == sum(done)
