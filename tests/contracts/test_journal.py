"""The journal of a map in a folder: what is in it counts, whoever was stopped where, and every generation stays."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.backends import journal
from app.backends.journal import Journal
from app.backends.journal_entries import Stretch
from app.backends.ordered_map import OrderedMap
from app.backends.store import Store
from app.backends.view import View
from app.core.errors import Conflict, StoreUnavailable
from tests import journals

FIRST, LAST = b"", b"\xff" * 64
FOLDER = "d/t/a/"


@pytest.fixture(params=["looked at", "mapped"], autouse=True)
def often(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    journals.choose(monkeypatch, looks=1 if request.param == "mapped" else 16)


def opened(folder: Path, durability: str = "process", name: str = "a") -> OrderedMap:
    return OrderedMap(Store(str(folder), journals.store_options(durability=durability)), "d/", f"d/t/{name}/")


async def newest(found: OrderedMap) -> View:
    await asyncio.sleep(0)  # a process of its own would not be in the turn of its loop in which it last looked
    fingerprint = await found.fingerprint()
    assert fingerprint is not None
    return await found.at(await found.generation(fingerprint))


async def contents(view: View) -> dict[bytes, bytes]:
    keys = await view.keys(FIRST, LAST)
    values = await view.get_many(keys)
    assert None not in values
    assert [await view.get(key) for key in keys] == values
    return {key: value for key, value in zip(keys, values, strict=True) if value is not None}


def applied(held: Mapping[bytes, bytes], writes: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
    merged = {**held, **writes}
    return {key: value for key, value in merged.items() if value is not None}


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_small_commits_are_one_append_and_seen_by_everybody(tmp_path: Path, durability: str) -> None:
    here, there = opened(tmp_path, durability), opened(tmp_path, durability)
    await here.create_empty()
    manifest = (tmp_path / FOLDER / "manifest.ocdbt").read_bytes()
    for number in range(20):
        writer, reader = (here, there) if number % 3 else (there, here)
        await writer.commit({b"n": b"%d" % number, b"k%d" % number: b""}, unchanged={})
        assert await (await newest(reader)).get(b"n") == b"%d" % number
    assert (tmp_path / FOLDER / "manifest.ocdbt").read_bytes() == manifest
    assert len(await contents(await newest(opened(tmp_path)))) == 22
    with pytest.raises(Conflict):
        await here.commit({b"n": b"x"}, unchanged={b"n": b"18"})
    assert await (await newest(there)).get(b"n") == b"19"


async def test_an_entry_that_was_cut_short_is_none(tmp_path: Path) -> None:
    here = opened(tmp_path)
    await here.create_empty()
    await here.commit({b"a": b"1"}, unchanged={})
    path = tmp_path / FOLDER / "journal"
    whole = path.stat().st_size
    await here.commit({b"a": b"2", b"b": b"x" * 30}, unchanged={})
    entry = path.read_bytes()[whole:]
    for length in range(len(entry)):
        path.write_bytes(path.read_bytes()[:whole] + entry[:length])
        reader = opened(tmp_path)
        assert await contents(await newest(reader)) == {b"state/created": b"", b"a": b"1"}
        late = opened(tmp_path)
        await late.commit({b"c": b"%d" % length}, unchanged={b"a": b"1"})
        assert await (await newest(reader)).get(b"c") == b"%d" % length
        assert await (await newest(reader)).get(b"b") is None
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert await (await newest(opened(tmp_path))).get(b"c") is None


async def test_a_journal_cut_short_as_it_began_is_none(tmp_path: Path) -> None:
    here = opened(tmp_path)
    await here.create_empty()
    await here.commit({b"a": b"1"}, unchanged={})
    path = tmp_path / FOLDER / "journal"
    for length in (0, 3, 12, 20):
        path.write_bytes(path.read_bytes()[:length])
        late = opened(tmp_path)
        assert await (await newest(late)).get(b"a") is None
        await late.commit({b"a": b"1"}, unchanged={b"a": None})
        assert await (await newest(opened(tmp_path))).get(b"a") == b"1"


async def stopped(*_: object, **__: object) -> None:
    raise StoreUnavailable("stopped")


@pytest.mark.parametrize("is_last", [False, True])
async def test_stopped_between_storing_and_marking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_last: bool
) -> None:
    """The commit may count or not, for nobody knows its answer; it counts wholly, and for everybody, from then on."""
    journals.choose(monkeypatch, passed_bytes=0)
    here, reader = opened(tmp_path), opened(tmp_path)
    await here.create_empty()
    await here.commit({b"a": b"1"}, unchanged={})
    before = await newest(reader)

    large = b"x" * (journals.chosen().entry_bytes + 1)
    with monkeypatch.context() as broken:
        broken.setattr(Journal, "mark", stopped)
        with pytest.raises(StoreUnavailable):
            await here.commit({b"a": b"2", b"b": b"" if is_last else large}, unchanged={}, is_last=is_last)
    assert await (await newest(reader)).get(b"a") == b"1"
    late = opened(tmp_path)
    with pytest.raises(Conflict):
        await late.commit({b"a": b"3"}, unchanged={b"a": b"1"})
    for each in (here, reader, late):
        view = await newest(each)
        assert await view.get(b"a") == b"2"
        assert view.generation == before.generation + 1
    await late.commit({b"a": b"3"}, unchanged={b"a": b"2"})
    assert await (await newest(here)).get(b"a") == b"3"
    assert await before.get(b"a") == b"1"


async def mapped(found: OrderedMap) -> Journal:
    while not (known := found._journal) or not known.is_settled:
        await newest(found)
    return known


async def test_who_has_a_journal_mapped_sees_what_a_stopped_process_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, reader = (opened(tmp_path) for _ in range(3))
    await here.create_empty()
    await here.commit({b"a": b"1"}, unchanged={})
    seen = await mapped(reader)
    await here.commit({b"a": b"2"}, unchanged={})
    assert not seen.is_settled
    assert await (await newest(reader)).get(b"a") == b"2"
    assert seen.is_settled
    tell = journal._tell

    def told_too_late(file: int, end: int) -> None:
        if end:
            raise OSError("stopped")
        tell(file, end)

    with monkeypatch.context() as broken:
        broken.setattr(journal, "_tell", told_too_late)
        with pytest.raises(StoreUnavailable):
            await here.commit({b"a": b"3"}, unchanged={})
    assert not seen.is_settled
    for each in (reader, opened(tmp_path), here):
        assert await (await newest(each)).get(b"a") == b"3"
    await there.commit({b"a": b"4"}, unchanged={b"a": b"3"})
    assert await (await newest(reader)).get(b"a") == b"4"
    assert seen.is_settled


async def test_who_has_a_journal_mapped_sees_that_it_has_a_successor(tmp_path: Path) -> None:
    here, reader = opened(tmp_path), opened(tmp_path)
    await here.create_empty()
    await here.commit({b"a": b"1"}, unchanged={})
    seen = await mapped(reader)
    async with here.turn():
        assert here._journal is not None
        newest_stretch = here._journal.stretch
        assert newest_stretch is not None
        await here._journal.mark(newest_stretch.newest, newest_stretch.stored, anew=True)
    assert not seen.is_settled
    assert await (await newest(reader)).get(b"a") is None  # the mark says that OCDBT has all there is


async def test_who_has_a_journal_mapped_is_told_of_a_commit_that_was_stored_but_not_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = opened(tmp_path), opened(tmp_path)
    await here.create_empty()
    await there.commit({b"a": b"1"}, unchanged={})
    seen = await mapped(there)

    with monkeypatch.context() as broken:
        broken.setattr(Journal, "mark", stopped)
        with pytest.raises(StoreUnavailable):
            await here.commit({b"a": b"2", b"b": b"x" * (journals.chosen().entry_bytes + 1)}, unchanged={})
    assert not seen.is_settled
    with pytest.raises(Conflict):
        await there.commit({b"a": b"3"}, unchanged={b"a": b"1"})
    assert await (await newest(there)).get(b"a") == b"2"
    await there.commit({b"a": b"3"}, unchanged={b"a": b"2"})
    await mapped(there)


async def test_a_journal_of_another_release_is_refused(tmp_path: Path) -> None:
    here = opened(tmp_path)
    await here.create_empty()
    await here.commit({b"a": b"1"}, unchanged={})
    path = tmp_path / FOLDER / "journal"
    path.write_bytes(b"DVIDjnl1" + path.read_bytes()[len(journal.MAGIC) :])
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="release"):
            await newest(opened(tmp_path))
        with pytest.raises(StoreUnavailable, match="release"):
            await opened(tmp_path).commit({b"a": b"2"}, unchanged={})


async def test_a_large_commit_begins_a_journal_and_one_that_changes_nothing_stays_readable(tmp_path: Path) -> None:
    here = opened(tmp_path)
    await here.create_empty()
    large = b"x" * (journals.chosen().entry_bytes + 1)
    await here.commit({b"large": large}, unchanged={})
    assert (tmp_path / FOLDER / "journal").exists()
    before = (await newest(here)).generation
    await here.commit({}, [(b"m", b"m"), (b"y", b"n"), (b"a", b"b")], unchanged={})
    for each in (here, opened(tmp_path)):
        view = await newest(each)
        assert view.generation == before + 1
        assert await contents(view) == {b"state/created": b"", b"large": large}
    await here.commit({b"small": b"y"}, unchanged={})
    assert await (await newest(opened(tmp_path))).get(b"small") == b"y"


async def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = opened(tmp_path)
    await here.create_empty()
    await here.commit({b"a": b"1"}, unchanged={})
    real = os.pwrite

    def half(file: int, data: bytes, at: int) -> int:
        return real(file, data[: len(data) // 2], at)

    with monkeypatch.context() as broken:
        broken.setattr(journal.os, "pwrite", half)
        with pytest.raises(StoreUnavailable, match="space"):
            await here.commit({b"a": b"2"}, unchanged={})
    assert await (await newest(here)).get(b"a") == b"1"
    await here.commit({b"b": b"3"}, unchanged={b"a": b"1"})
    assert await contents(await newest(opened(tmp_path))) == {b"state/created": b"", b"a": b"1", b"b": b"3"}


async def test_what_was_written_is_known_across_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journals.choose(monkeypatch, waiting_keys=3, file_bytes=200)
    writer, reader = opened(tmp_path), opened(tmp_path)
    await writer.create_empty()
    await writer.commit({b"n": b"0"}, unchanged={})
    generation = (await newest(reader)).generation
    for number in range(40):
        await writer.commit({b"k%d" % number: b""}, unchanged={})
        view = await newest(reader)
        assert view.since(generation) == [b"k%d" % number]
        generation = view.generation
    assert len([*(tmp_path / FOLDER).glob("journal.*")]) > 3


async def test_commits_at_once_without_the_common_lock(tmp_path: Path) -> None:
    pods = [opened(tmp_path) for _ in range(4)]
    await pods[0].create_empty()

    async def work(pod: OrderedMap) -> None:
        done = 0
        while done < 25:
            view = await newest(pod)
            value = await view.get(b"n")
            count = int(value or b"0") + 1
            try:
                await pod.commit({b"n": b"%d" % count, b"k/%d" % count: b""}, unchanged={b"n": value})
                done += 1
            except Conflict:
                await asyncio.sleep(0)

    await asyncio.gather(*[work(pod) for pod in pods])
    assert await (await newest(opened(tmp_path))).get(b"n") == b"100"
    assert len(await (await newest(opened(tmp_path))).keys(b"k/", b"k0")) == 100


KEYS = st.sampled_from([b"a", b"a\0", b"b", b"b/c", b"c", b"d" * 50])
VALUES = st.one_of(st.none(), st.binary(max_size=8), st.just(b"L" * 300), st.just(b"M" * 2000))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.dictionaries(KEYS, VALUES, min_size=1, max_size=4),
            st.one_of(st.none(), st.none(), st.none(), st.tuples(KEYS, KEYS)),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=25,
    )
)
async def test_every_generation_of_a_map_and_of_its_copy_is_there(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, dict[bytes, bytes | None], tuple[bytes, bytes] | None, int]],
) -> None:
    """Two processes write by turns, in journals so small that all seams are met; now and then a copy goes on."""
    folder = tmp_path_factory.mktemp("journal")
    with pytest.MonkeyPatch.context() as small:
        journals.choose(small, entry_bytes=1000, waiting_keys=4, file_bytes=600, passed_bytes=250)
        pods = [opened(folder), opened(folder)]
        await pods[0].create_empty()
        view = await newest(pods[1])
        states = {view.generation: await contents(view)}
        others: list[tuple[OrderedMap, dict[int, dict[bytes, bytes]]]] = []
        for number, (pod, writes, range_, chance) in enumerate(steps):
            held = states[max(states)]
            ranges = [] if range_ is None else [range_]
            if range_ is not None:
                held = {key: value for key, value in held.items() if not range_[0] <= key < range_[1]}
            await pods[pod].commit(writes, ranges, unchanged={}, is_last=chance == 0)
            states[max(states) + 1] = applied(held, writes)
            for each in pods:
                view = await newest(each)
                assert view.generation == max(states)
                assert await contents(view) == states[max(states)]
            since = min(states)
            changed = (await pods[pod].at(max(states))).since(since)
            if changed is not None:
                old, new = states[since], states[max(states)]
                differ = {key for key in {*old, *new} if old.get(key) != new.get(key)}
                assert differ <= {*changed}
            if chance in (1, 2):
                child = opened(folder, name=f"child{number}")
                await child.branch_from(pods[pod])
                if chance == 2:  # what is written from now on is not the child's
                    others.append((child, dict(states)))
                    continue
                others.append((pods[pod], dict(states)))
                pods = [child, opened(folder, name=f"child{number}")]
        fresh = OrderedMap(pods[0].store, "d/", pods[0]._folder)
        for each in (*pods, fresh):
            for generation, state in states.items():
                assert await contents(await each.at(generation)) == state
        for other, known in others:
            for each in (other, OrderedMap(other.store, "d/", other._folder)):
                assert (await newest(each)).generation == max(known)
                for generation, state in known.items():
                    assert await contents(await each.at(generation)) == state


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_a_copy_begins_with_what_waits_in_the_other(tmp_path: Path, durability: str) -> None:
    here = opened(tmp_path, durability)
    await here.create_empty()
    await here.commit({b"a": b"1"}, unchanged={})
    await here.commit({b"b": b"1"}, unchanged={b"a": b"1"}, is_last=True)
    manifest = (tmp_path / FOLDER / "manifest.ocdbt").read_bytes()
    children = [opened(tmp_path, durability, name=f"child{number}") for number in range(3)]
    for child in children:
        await child.branch_from(here)
    for number, child in enumerate(children):
        await child.commit({b"a": b"child%d" % number}, unchanged={b"a": b"1", b"b": b"1"})
    await here.commit({b"b": b"2"}, unchanged={b"a": b"1"})
    await here.commit({b"c": b"x" * journals.chosen().entry_bytes}, unchanged={})  # is stored, with what waited
    for number in range(3):
        path = tmp_path / f"d/t/child{number}/manifest.ocdbt"
        assert path.read_bytes() == manifest
        elsewhere = opened(tmp_path, durability, name=f"child{number}")
        for child in (children[number], elsewhere):
            assert await contents(await newest(child)) == {
                b"state/created": b"",
                b"a": b"child%d" % number,
                b"b": b"1",
            }
            assert (await newest(child)).generation == (await newest(here)).generation - 1
        await elsewhere.commit({b"c": b"y" * journals.chosen().entry_bytes}, unchanged={})
        assert path.read_bytes() != manifest
        assert await (await newest(children[number])).get(b"b") == b"1"
    assert await (await newest(opened(tmp_path))).get(b"a") == b"1"


@pytest.mark.parametrize("passed", [0, 2000])
async def test_a_long_chain_of_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passed: int) -> None:
    """Opening one reads one file that is no longer than what may be passed on, and every generation is there."""
    journals.choose(monkeypatch, passed_bytes=passed)
    count, parent = 1100 if passed else 300, opened(tmp_path, name="0")
    await parent.create_empty()
    for number in range(1, count):
        await parent.commit({b"n": b"%d" % number}, unchanged={})
        await parent.commit({b"sealed": b"%d" % number}, unchanged={b"n": b"%d" % number}, is_last=True)
        child = opened(tmp_path, name=str(number))
        await child.branch_from(parent)
        parent = child
    files = {(tmp_path / f"d/t/{number}/manifest.ocdbt").stat().st_ino for number in range(count)}
    if passed:
        assert len(files) < count // 20
        assert max((tmp_path / f"d/t/{number}/journal").stat().st_size for number in range(1, count)) < passed + 200
    last = opened(tmp_path, name=str(count - 1))
    view = await newest(last)
    assert await contents(view) == {
        b"state/created": b"",
        b"n": b"%d" % (count - 1),
        b"sealed": b"%d" % (count - 1),
    }
    total = 2 * (count - 1)  # commits, two of each map but the last
    for back in [*range(5), *range(5, total, 83), total - 1]:
        expected = b"%d" % (count - 1 - back // 2)
        for each in (last, opened(tmp_path, name=str(count - 1))):
            assert await (await each.at(view.generation - back)).get(b"n") == expected


async def test_lists_are_forgotten_while_others_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.backends.view.LISTS", 3)
    here, guard = opened(tmp_path), Store.guard

    async def slow(self: Store, answer: Awaitable[Any]) -> Any:
        await asyncio.sleep(0)
        return await guard(self, answer)

    monkeypatch.setattr(Store, "guard", slow)
    await here.commit({b"k%03d" % number: b"" for number in range(300)}, unchanged={})
    await here.commit({b"late": b""}, unchanged={})
    view = await newest(here)

    async def ask(first: int) -> None:
        for start in range(first, 290, 7):
            ranges = [(b"k%03d" % number, b"k%03d\0" % number) for number in (first, start, start + 1)]
            assert await view.keys_of(ranges) == [[key] for key, _ in ranges]

    await asyncio.gather(*[ask(first) for first in range(7)])


async def test_a_copy_that_failed_is_none_and_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, child = opened(tmp_path), opened(tmp_path, name="child")
    await here.create_empty()
    await here.commit({b"a": b"1"}, unchanged={})

    async def fails(*_: object) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as broken:
        broken.setattr("app.backends.ocdbt.OcdbtMap.branch_from", fails)
        with pytest.raises(StoreUnavailable):
            await child.branch_from(here)
    assert await child.fingerprint() is None
    await child.branch_from(here)
    assert await (await newest(child)).get(b"a") == b"1"
    assert (await newest(child)).generation == (await newest(here)).generation


async def test_a_manifest_is_whole_after_a_kill_as_the_one_before_was_written(tmp_path: Path) -> None:
    found = opened(tmp_path)
    await found.create_empty()
    (tmp_path / FOLDER / "manifest.ocdbt.__lock").write_bytes(b"half of a longer manifest" * 100)
    await found.commit({b"large": b"x" * (journals.chosen().entry_bytes + 1)}, unchanged={})
    again = opened(tmp_path)
    assert len((await contents(await newest(again)))[b"large"]) == journals.chosen().entry_bytes + 1
    await again.commit({b"small": b"y"}, unchanged={})
    assert (await contents(await newest(opened(tmp_path))))[b"small"] == b"y"


@pytest.mark.parametrize("name", ["a", "b"])
async def test_an_earlier_generation_as_another_process_begins_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    journals.choose(monkeypatch, file_bytes=150)
    large = b"x" * (journals.chosen().entry_bytes + 1)

    async def files(writer: OrderedMap, number: int) -> None:
        for _ in range(number):
            await writer.commit({b"n": os.urandom(4)}, unchanged={})
            await writer.commit({b"large": large, b"m": os.urandom(4)}, unchanged={})

    writer = opened(tmp_path)
    await writer.create_empty()
    await files(writer, 5)
    if name == "b":  # whose generations so far are those of the other map
        other, writer = writer, opened(tmp_path, name="b")
        await writer.branch_from(other)
    await writer.commit({b"n": b"before"}, unchanged={})
    numbers = range(1, (await newest(writer)).generation + 1)
    right = [await contents(await writer.at(number)) for number in numbers]
    readers = [opened(tmp_path, name=name) for _ in numbers]
    for reader in readers:
        await newest(reader)
    await files(writer, 2)
    look, seen = Journal.look, set[Journal]()

    def look_too_early(journal: Journal) -> Stretch | None:
        if journal in seen or journal.stretch is None:
            return look(journal)
        seen.add(journal)  # what has come since is only seen the next time
        return journal.stretch

    monkeypatch.setattr(Journal, "look", look_too_early)
    found = [await contents(await reader.at(number)) for reader, number in zip(readers, numbers, strict=True)]
    assert found == right
    assert len(seen) >= len(readers)
