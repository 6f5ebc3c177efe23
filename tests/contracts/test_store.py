"""What a `Store` and an `OrderedMap` promise, on every kind of store."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import tensorstore as ts

from app.backends.ordered_map import OrderedMap
from app.backends.store import Store, StoreOptions, classify
from app.core.errors import Conflict, Invalid, StoreUnavailable

ODD_KEYS = [b"", b"\0", b"a\0b", b"\xff" * 20, "ключ/%2f?#&".encode(), b"x" * 2000]


def new_map(store: Store, name: str = "v") -> OrderedMap:
    return OrderedMap(store, "data/", f"data/trees/{name}/")


async def contents(found: OrderedMap) -> dict[bytes, bytes]:
    fingerprint = await found.fingerprint()
    assert fingerprint is not None
    snapshot = await found.at(await found.generation(fingerprint))
    keys = await snapshot.keys(b"", b"\xff" * 64)
    values = await snapshot.get_many(keys)
    return {key: value for key, value in zip(keys, values, strict=True) if value is not None}


# ------------------------------------------------------------------ objects


@pytest.mark.parametrize("path", ["a", "a/b c/ü", "deep/er/and/deeper", "percent%2F", "ques?tion#&=+"])
async def test_an_object_is_created_once_and_read_back(store: Store, path: str) -> None:
    assert await store.read(path) is None
    assert await store.create(path, b"first")
    assert not await store.create(path, b"second")
    assert await store.read(path) == b"first"


async def test_of_many_creators_one_wins(store: Store) -> None:
    won = await asyncio.gather(*[store.create("race", b"%d" % number) for number in range(16)])
    assert won.count(True) == 1
    assert await store.read("race") == b"%d" % won.index(True)


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_what_a_killed_writer_left_is_in_no_object(tmp_path: Path, durability: str) -> None:
    store = Store(str(tmp_path), StoreOptions(durability=durability))
    for name in ("made", "replaced", "written"):
        (tmp_path / f"{name}.__lock").write_bytes(b"half of something longer")
    assert await store.create("made", b"1")
    assert await store.create("replaced", b"22")
    assert await store.read("replaced") == b"22"
    (tmp_path / "replaced.__lock").write_bytes(b"half of something longer")
    assert await store.replace("replaced", b"3", b"22")
    await store.write("written", b"4")
    assert [await store.read(name) for name in ("made", "replaced", "written")] == [b"1", b"3", b"4"]
    await store.write("written", b"5")
    assert await store.read("written") == b"5"


async def test_what_a_killed_writer_left_is_in_no_chunk(tmp_path: Path) -> None:
    store = Store(str(tmp_path), StoreOptions())
    spec = {"driver": "zarr", "kvstore": store.spec("v/"), "metadata": {"compressor": None}}
    array = await ts.open(spec, create=True, dtype=ts.uint8, shape=[64], context=store.unlocked)
    (tmp_path / "v/0.__lock").write_bytes(b"half of something longer" * 10)
    await array.write(7)
    assert (tmp_path / "v/0").read_bytes() == bytes([7]) * 64


def test_urls() -> None:
    assert Store("s3://b/p/q?endpoint=http://h:1&region=r").spec("x")["endpoint"] == "http://h:1"
    assert Store("gs://b").spec("x") == {"driver": "gcs", "bucket": "b", "path": "x"}
    assert Store("some/folder").prefix == os.path.abspath("some/folder") + "/"
    for bad in ("http://h/p", "gs:///p"):
        with pytest.raises(Invalid):
            Store(bad)


def test_errors_are_told_apart() -> None:
    assert isinstance(classify(ValueError("ABORTED: somebody")), Conflict)
    given_up = "ABORTED: All 4 retry attempts failed: Unknown [http_response_code='503']"
    for text in (given_up, "FAILED_PRECONDITION: not a directory", "UNAVAILABLE: x", "PERMISSION_DENIED: x", "what"):
        assert isinstance(classify(ValueError(text)), StoreUnavailable)


async def test_a_folder_that_cannot_be_is_an_unavailable_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for bad in (tmp_path / "file", tmp_path / ("n" * 300)):
        store = Store(str(bad))
        with pytest.raises(StoreUnavailable):
            await new_map(store).create_empty()
        with pytest.raises(StoreUnavailable):
            async with store.exclusively("a/b.lock"):
                pass


async def test_a_damaged_manifest_is_an_unavailable_store(tmp_path: Path) -> None:
    found = new_map(Store(str(tmp_path)))
    await found.create_empty()
    for junk in (b"", b"junk" * 10):
        (tmp_path / "data/trees/v/manifest.ocdbt").write_bytes(junk)
        found.store.changed()
        with pytest.raises(StoreUnavailable):
            await found.fingerprint()
        with pytest.raises(StoreUnavailable):
            await found.commit({b"a": b"1"}, unchanged={})


@pytest.mark.parametrize("can_watch", [True, False])
async def test_locks_exclude_and_survive_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_watch: bool
) -> None:
    if not can_watch:
        monkeypatch.setattr("app.backends.locks._Watch.closed", lambda watch, name: None)
    store, inside = Store(str(tmp_path)), [0, 0]

    async def work(place: int = 0) -> None:
        async with store.exclusively("x/.lock", place):
            inside[place] += 1
            try:
                assert inside[place] == 1
                await asyncio.sleep(0.002)
            finally:
                inside[place] -= 1

    async with store.exclusively("x/.lock", 1):
        await asyncio.wait_for(work(0), 5)  # places of one file are apart
    tasks = [asyncio.create_task(work(number % 2)) for number in range(50)]
    await asyncio.sleep(0.01)
    for task in tasks[::3]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(each is None or isinstance(each, asyncio.CancelledError) for each in done)
    await asyncio.wait_for(work(), 5)


# ------------------------------------------------------------------ ordered maps


async def test_a_map_exists_after_it_was_made_and_only_once(store: Store) -> None:
    found = new_map(store)
    assert await found.fingerprint() is None
    await found.create_empty()
    assert await found.fingerprint() is not None
    with pytest.raises(Conflict):
        await new_map(store).create_empty()


async def test_commits_are_generations_and_old_ones_stay(store: Store) -> None:
    found = new_map(store)
    await found.create_empty()
    fingerprint = await found.fingerprint()
    assert fingerprint is not None
    first = await found.generation(fingerprint)
    seen = {fingerprint}
    for number in range(1, 11):
        await found.commit({b"n": b"%d" % number, b"k%d" % number: b""}, unchanged={})
        fingerprint = await found.fingerprint()
        assert fingerprint is not None
        assert fingerprint not in seen
        assert found.fingerprint_of(first + number) in (None, fingerprint)
        seen.add(fingerprint)
        assert await found.generation(fingerprint) == first + number
    for number in range(1, 11):
        snapshot = await found.at(first + number)
        assert await snapshot.get_many([b"n", b"k%d" % number, b"k%d" % (number + 1)]) == [
            b"%d" % number,
            b"",
            None,
        ]


async def test_odd_keys_and_sizes(store: Store) -> None:
    found = new_map(store)
    sizes = [0, 1, 1023, 1024, 1025, 65536, 1 << 20]
    values = {b"size/%08d" % size: os.urandom(size) for size in sizes}
    values |= dict.fromkeys(ODD_KEYS, b"odd")
    await found.commit(values, unchanged={})
    assert await contents(found) == dict(sorted(values.items()))


async def test_ranges_go_first_and_odd_ranges_do_nothing(store: Store) -> None:
    found = new_map(store)
    await found.commit({b"a%d" % number: b"old" for number in range(10)}, unchanged={})
    await found.commit({b"a3": b"new"}, [(b"a2", b"a5")], unchanged={})
    await found.commit({}, [(b"a8", b""), (b"b", b"a"), (b"a1", b"a1")], unchanged={})
    assert sorted(await contents(found)) == [b"a0", b"a1", b"a3", b"a5", b"a6", b"a7", b"a8", b"a9"]


async def test_what_was_expected_must_still_be_there(store: Store) -> None:
    one, other = new_map(store), new_map(store)
    await one.commit({b"x": b"1", b"y": b"1"}, unchanged={b"x": None})
    await other.commit({b"x": b"2"}, unchanged={b"x": b"1"})
    with pytest.raises(Conflict):
        await one.commit({b"x": b"3", b"z": b"3"}, unchanged={b"x": b"1"})
    with pytest.raises(Conflict):
        await one.commit({b"z": b"3"}, unchanged={b"y": None})
    assert await contents(other) == {b"x": b"2", b"y": b"1"}


async def test_of_racing_commits_one_wins_and_no_update_is_lost(store: Store) -> None:
    maps = [new_map(store) for _ in range(4)]
    await maps[0].commit({b"n": b"0"}, unchanged={})

    async def count(each: OrderedMap, times: int) -> None:
        while times:
            value = (await contents(each))[b"n"]
            try:
                await each.commit({b"n": b"%d" % (int(value) + 1)}, unchanged={b"n": value})
                times -= 1
            except Conflict:
                await asyncio.sleep(0)

    await asyncio.gather(*[count(each, 5) for each in maps])
    assert await contents(maps[0]) == {b"n": b"20"}


async def test_a_branch_is_a_copy_and_both_sides_go_on(store: Store) -> None:
    parent = new_map(store)
    await parent.commit({b"k%d" % number: os.urandom(2000) for number in range(50)}, unchanged={})
    await parent.commit({b"x": b"1"}, unchanged={})
    before = await contents(parent)
    children = [new_map(store, "child") for _ in range(4)]
    await asyncio.gather(*[child.branch_from(parent) for child in children])
    assert await contents(children[0]) == before
    await children[0].commit({b"x": b"child"}, unchanged={b"x": b"1"})
    await children[1].branch_from(parent)  # too late: the child is there
    assert await contents(children[2]) == before | {b"x": b"child"}
    assert await contents(parent) == before


async def test_looking_for_the_newest_generation_stays_cheap(gcs_server: str) -> None:
    store = Store("gs://dvid/many", StoreOptions())
    found, late = new_map(store), new_map(store)
    for number in range(150):
        await found.commit({b"n": b"%d" % number}, unchanged={})
        if number % 40 == 0:
            await late.fingerprint()
    assert len(await new_map(store)._ocdbt._manifests()) < 140  # TensorStore keeps 128 and clears the others away
    await found.fingerprint()
    assert len(await found._ocdbt._manifests()) == 2
    assert await late.fingerprint() == await found.fingerprint()
