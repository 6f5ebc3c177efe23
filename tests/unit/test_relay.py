"""Messages about mutations: DVID's topics and fields, made from the log, at least once and in order."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.backends.bus import Message
from app.backends.store import Store
from app.bootstrap import open_datastore
from app.core.errors import NotAllowed, StoreUnavailable
from app.core.work import Workers
from app.datatypes import events, keyvalue
from app.datatypes.author import Author
from app.datatypes.labelmap import counters, edits, splits, write
from app.datatypes.neuronjson import writing
from app.ingest.direct import add_instance
from app.ingest.target import Wanted
from app.settings import Settings
from app.versioning import blobs, curation, relay
from app.versioning.datastore import Data, Datastore
from app.versioning.graph import Instance
from app.versioning.log import Record
from app.versioning.merge import by_key, merge_versions
from app.versioning.mutations import Mutation
from app.versioning.relay import Relay
from tests.fakes.bus import MemoryBus
from tests.properties.label_model import runs_of

SIDE = 32


async def opened(store: str) -> Datastore:
    return await open_datastore(Settings(store=store, durability="process"))


async def with_labels(datastore: Datastore) -> Data:
    repo = await datastore.repos.create("test", "")
    await add_instance(datastore, repo, Wanted(repo.root, "seg", "", "labelmap", (8.0, 8.0, 8.0), 16, 0))
    data = await datastore.data(repo.root, "seg")
    workers = Workers(1)
    prepared = await write.prepare_volume(data, volume(), (0, 0, 0), 0, workers)
    await write.store(data, prepared, action="ingest-raw", workers=workers, author=Author())
    workers.close()
    return data


def volume() -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Slabs of supervoxels 1 to 8, each 4 planes thick."""
    return np.ascontiguousarray(np.broadcast_to((np.arange(SIDE) // 4 + 1)[:, None, None], (SIDE,) * 3), np.uint64)


async def with_keys(datastore: Datastore, name: str = "kv", typename: str = "keyvalue") -> Data:
    repos = list((await datastore.repos.forest()).repos.values())
    repo = repos[0] if repos else await datastore.repos.create("test", "")
    await datastore.repos.add_instance(repo.root, Instance(name.ljust(32, "0"), name, typename, repo.root))
    return await datastore.data(repo.root, name)


def told(bus: MemoryBus, topic: str) -> list[dict[str, Any]]:
    return [json.loads(message.value) for message in bus.topics[topic]]


def of_data(bus: MemoryBus) -> list[Message]:
    """All messages about mutations, where these are of one instance only."""
    (messages,) = [messages for topic, messages in bus.topics.items() if "-data-" in topic]
    return messages


# ------------------------------------------------------------------ what is said


async def test_edits_are_told_as_dvid_tells_them(tmp_path: Path) -> None:
    data = await with_labels(datastore := await opened(str(tmp_path)))
    author, workers = Author("ann", "neutu"), Workers(1)
    ids = [await edits.merge(data, 1, [2, 3], author)]
    new, mutation_id = await edits.cleave(data, 1, [3], author)
    ids += [mutation_id, await edits.renumber(data, 4, 40, Author())]
    runs = runs_of(np.concatenate([np.zeros((16, SIDE, SIDE), bool), np.ones((2, SIDE, SIDE), bool)]))
    part, mutation_id = await splits.split_supervoxel(data, 5, runs, author, workers)
    ids.append(mutation_id)
    bus = MemoryBus()
    mine = Relay(datastore, bus, events, prefix="lab-")
    assert await mine.round() == 5 + 2  # the ingest too, of which nothing is told; repo and instance
    topic = f"lab-dvidrepo-{data.repo.root}-data-{data.instance.uuid}"
    assert list(bus.topics) == [f"lab-dvidrepo-{data.repo.root}-repo-ops", topic]
    messages = told(bus, topic)
    common = {"UUID": data.version.uuid, "User": "ann", "App": "neutu"}
    for message in messages:
        assert message.pop("Timestamp")
    plane = 4 * SIDE * SIDE
    cleaved = {"OrigLabel": 1, "CleavedLabel": new, "CleavedSupervoxels": [3]}
    renumbered = {"NewLabel": 40, "OrigLabel": 4, "UUID": data.version.uuid}
    cut = {"Supervoxel": 5, "Body": 5, "SplitSupervoxel": part.split, "RemainSupervoxel": part.remain}
    cut["Split"] = messages[6]["Split"]
    expected = [
        {"Action": "merge", "Target": 1, "Labels": [2, 3], "MutationID": ids[0], **common},
        {"Action": "cleave", **cleaved, "MutationID": ids[1], **common},
        {"Action": "renumber", **renumbered, "MutationID": ids[2]},
        {"Action": "split-supervoxel", **cut, "MutationID": ids[3], **common},
    ]
    sizes: list[dict[str, int]] = [
        {},
        {"CleavedSize": plane, "RemainSize": 2 * plane},
        {},
        {"SplitSize": plane // 2, "RemainSize": plane // 2},
    ]
    assert messages[::2] == expected
    assert messages[1::2] == [
        {**start, **size, "Action": f"{start['Action']}-complete"} for start, size in zip(expected, sizes, strict=True)
    ]
    assert (np.frombuffer(await blobs.get(datastore.store, cut["Split"]), "<i4").reshape(-1, 4) == runs).all()
    keys = [int(message.key) for message in bus.topics[topic]]
    assert len(set(keys)) == len(keys)
    assert keys == sorted(keys)
    assert await mine.round() == 0
    assert len(bus.topics[topic]) == 8


async def test_counters_keys_and_annotations_are_told_without_who(tmp_path: Path) -> None:
    datastore = await opened(str(tmp_path))
    labels, values = await with_labels(datastore), await with_keys(datastore)
    notes = await with_keys(datastore, "notes", "neuronjson")

    async def raised(mutation: Mutation) -> None:
        await counters.raise_max_label(mutation, 99)
        mutation.record(Record("post-maxlabel", labels.home.uuid, 0, "ann", "", {"MaxLabel": 99}))

    await labels.mutate(raised)
    await keyvalue.put(values, [("a", b"12"), ("b", b"345")], Author("ann", "x"))
    await keyvalue.delete(values, "a", Author("ann", "x"))
    author = Author("ann", "x", False)
    some = [writing.Posted(body, {"bodyid": body, "type": "KC"}, 20) for body in (7, 8)]
    for posted in (some[:1], some):
        await writing.put(notes, posted, author, action=writing.POST, conditionals=(), replace=False)
    bus = MemoryBus()
    await Relay(datastore, bus, events, suffixes={values.instance.uuid: "kv"}).round()
    said = {topic.rpartition("-data-")[2]: told(bus, topic) for topic in bus.topics if "-data-" in topic}
    for messages in said.values():
        for message in messages:
            assert message.pop("Timestamp")
            assert message.pop("UUID") == values.version.uuid
    assert said == {
        labels.instance.uuid: [{"Action": "post-maxlabel", "MaxLabel": 99}],
        f"{values.instance.uuid}-kv": [
            {"Action": "postkv", "Key": "a", "Bytes": 2},
            {"Action": "postkv", "Key": "b", "Bytes": 3},
            {"Action": "delete", "Key": "a"},
        ],
        notes.instance.uuid: [
            {"Action": "postneuronjson", "Key": "7", "Bytes": 20},
            {"Action": "postneuronjson", "Key": "7"},
            {"Action": "postneuronjson", "Key": "8"},
        ],
    }


async def test_what_is_too_large_is_a_reference(tmp_path: Path) -> None:
    data = await with_keys(datastore := await opened(str(tmp_path)), "seg", "labelmap")
    supervoxels = list(range(10**15, 10**15 + 70_000))
    arguments = {
        "OrigLabel": 1,
        "CleavedLabel": 2,
        "CleavedSupervoxels": supervoxels,
        "CleavedSize": 5,
        "RemainSize": 6,
    }

    async def change(mutation: Mutation) -> None:
        mutation.record(Record("cleave", data.home.uuid, 7, "ann", "", arguments))

    await data.mutate(change)
    bus = MemoryBus()
    await Relay(datastore, bus, events).round()
    messages = of_data(bus)
    assert all(len(message.value) < relay.MOST_BYTES for message in messages)
    start, complete = map(json.loads, [message.value for message in messages])
    assert "CleavedSupervoxels" not in start
    assert (complete["OrigLabel"], complete["CleavedSize"], complete["MutationID"]) == (1, 5, 7)
    for message in (start, complete):
        whole = json.loads(await blobs.get(datastore.store, message.pop("DataRef")))
        assert whole.pop("CleavedSupervoxels") == supervoxels
        assert whole == message


async def test_versions_are_told_once_each(tmp_path: Path) -> None:
    data = await with_keys(datastore := await opened(str(tmp_path)))
    await keyvalue.put(data, [("a", b"1")], Author())
    await datastore.lock(data.repo, data.version.uuid, "", [])
    child = await datastore.repos.add_version(data.repo.root, [data.version.uuid])
    bus = MemoryBus()
    passing = Relay(datastore, bus, events)
    await passing.round()
    later = await datastore.data(child, "kv")
    await keyvalue.put(later, [("b", b"1")], Author())
    await passing.round()
    said = [json.loads(message.value) for message in of_data(bus)]
    assert [(message["Key"], message["UUID"]) for message in said] == [
        ("a", data.version.uuid),
        ("b", later.version.uuid),
    ]


# ------------------------------------------------------------------ repos


async def test_operations_on_repos_are_told(tmp_path: Path) -> None:
    datastore = await opened(str(tmp_path))
    repos = datastore.repos
    root = (await repos.create("mb", "mushroom body")).root
    await repos.add_instance(root, Instance("1" * 32, "kv", "keyvalue", root))
    await repos.edit_version(root, root, note="begun")
    await repos.edit_version(root, root, log=["one", "two"])
    with pytest.raises(NotAllowed):
        await repos.add_version(root, [root])  # what is refused is not told
    await datastore.lock((await repos.forest()).repos[root], root, "done", ["three"])
    main = await repos.add_version(root, [root], note="on")
    side = await repos.add_version(root, [root], branch="side")
    for version in (main, side):
        await datastore.lock((await repos.forest()).repos[root], version, "", [])
    await repos.add_version(root, [main], branch="tag-v1", uuid_="v1", locked=True, note="Tag")
    merged = await merge_versions(
        datastore, (await repos.forest()).repos[root], [main, side], note="both", merges=lambda _: by_key(repr)
    )
    await curation.rename_instance(repos, root, "1" * 32, "values")
    await curation.remove_instance(datastore, root, "values")
    other = await repos.add_version(root, [side], branch="other")
    await curation.hide_branch(repos, root, "other")
    with pytest.raises(NotAllowed):
        await curation.make_master(repos, root, side, "side")
    bus = MemoryBus()
    passing = Relay(datastore, bus, events)
    await passing.round()
    assert list(bus.topics) == [f"dvidrepo-{root}-repo-ops"]
    messages = bus.topics[f"dvidrepo-{root}-repo-ops"]
    assert told(bus, f"dvidrepo-{root}-repo-ops") == [
        {"Action": "newrepo", "UUID": root, "Alias": "mb", "Description": "mushroom body"},
        {"Action": "newinstance", "UUID": root, "Typename": "keyvalue", "Dataname": "kv"},
        {"Action": "nodenote", "UUID": root, "Note": "begun"},
        {"Action": "nodelog", "UUID": root, "Log": ["one", "two"]},
        {"Action": "commit", "UUID": root, "Note": "done", "Log": ["three"]},
        {"Action": "newversion", "Parent": root, "Child": main, "Note": "on"},
        {"Action": "branch", "Parent": root, "Child": side, "Branch": "side", "Note": ""},
        {"Action": "commit", "UUID": main, "Note": "", "Log": []},
        {"Action": "commit", "UUID": side, "Note": "", "Log": []},
        {"Action": "tag", "Parent": main, "Child": "v1", "Branch": "tag-v1", "Tag": "v1", "Note": "Tag"},
        {"Action": "merge", "Parents": [main, side], "Child": merged, "Note": "both"},
        {"Action": "renameinstance", "DataUUID": "1" * 32, "OldName": "kv", "Dataname": "values"},
        {"Action": "deleteinstance", "DataUUID": "1" * 32, "Dataname": "values"},
        {"Action": "branch", "Parent": side, "Child": other, "Branch": "other", "Note": ""},
        {"Action": "hidebranch", "Branch": "other", "Versions": [other]},
    ]
    keys = [int(message.key) for message in messages]
    assert keys == sorted(set(keys))
    assert await passing.round() == 0
    await curation.make_master(repos, root, side, "old")
    await passing.round()
    assert [json.loads(message.value)["Action"] for message in messages[15:]] == ["makemaster"]
    await curation.remove_repo(datastore, root)
    async for _ in curation.empty_trash(datastore):
        pass
    assert await datastore.catalog.list(f"repos/{root}/operations") == []


async def test_two_pods_leave_no_gap(tmp_path: Path) -> None:
    pods = [await opened(str(tmp_path)) for _ in range(2)]
    root = (await pods[0].repos.create("r", "")).root
    await asyncio.gather(*[pods[n % 2].repos.edit_version(root, root, note=str(n)) for n in range(10)])
    bus = MemoryBus()
    await Relay(pods[0], bus, events).round()
    said = told(bus, f"dvidrepo-{root}-repo-ops")
    assert sorted(int(each["Note"]) for each in said[1:]) == list(range(10))
    await pods[1].repos.refresh()
    repo = (await pods[1].repos.forest()).repos[root]
    assert (repo.operations, repo.versions[root].note) == (11, said[-1]["Note"])


# ------------------------------------------------------------------ where it begins


async def test_a_relay_begins_from_now(tmp_path: Path) -> None:
    data = await with_keys(datastore := await opened(str(tmp_path)))
    untouched = await with_keys(datastore, "untouched")
    await keyvalue.put(data, [("old", b"")], Author())
    bus = MemoryBus()
    await Relay(datastore, bus, events, from_now=True).begin()
    # It ends before its first round; one that comes later, of either kind, tells what came meanwhile.
    later = await with_keys(datastore, "later")
    for each in (data, untouched, later):
        await keyvalue.put(each, [("new", b"")], Author())
    for from_now in (True, False):
        await Relay(datastore, bus, events, from_now=from_now).round()
    keys = {topic.rpartition("-")[2]: [each.get("Key") for each in told(bus, topic)] for topic in bus.topics}
    assert keys == {"ops": [None], **{each.instance.uuid: ["new"] for each in (data, untouched, later)}}
    assert told(bus, f"dvidrepo-{data.repo.root}-repo-ops")[0]["Dataname"] == "later"


async def test_one_that_has_begun_leaves_nothing_out(tmp_path: Path) -> None:
    data = await with_keys(datastore := await opened(str(tmp_path)))
    await keyvalue.put(data, [("old", b"")], Author())
    await Relay(datastore, MemoryBus(), events).begin()
    bus = MemoryBus()
    await Relay(datastore, bus, events, from_now=True).round()
    assert [json.loads(message.value)["Key"] for message in of_data(bus)] == ["old"]


# ------------------------------------------------------------------ at least once, in order


class Killed(BaseException):
    """The process ends here."""


class MortalRelay(Relay):
    """A relay whose process is killed at a moment: before or after its position is noted."""

    moment = ""

    async def _note(self, store: Store, path: str, after: int) -> None:
        if self.moment == "before":
            raise Killed
        await super()._note(store, path, after)
        if self.moment == "after":
            raise Killed


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(1, 7)),
            st.tuples(st.just("note"), st.integers(1, 7)),
            st.tuples(st.just("fail"), st.integers(0, 9)),
            st.tuples(st.just("kill"), st.sampled_from(["before", "after"])),
            st.tuples(st.just("pass"), st.integers(0, 1)),
        ),
        min_size=3,
        max_size=25,
    )
)
def test_nothing_is_lost_and_the_order_stays(steps: list[tuple[str, Any]], tmp_path_factory: Any) -> None:
    asyncio.run(_relayed(str(tmp_path_factory.mktemp("store")), steps))


async def _relayed(store: str, steps: list[tuple[str, Any]]) -> None:
    datastore, bus = await opened(store), MemoryBus()
    data = await with_keys(datastore)
    number = notes = 0
    # Two relays at work on the same store; a killed one is made anew and knows nothing.
    relays = [MortalRelay(datastore, bus, events) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "BATCH", 3)
        for step, value in [*steps, ("pass", 0)]:
            if step == "write":
                items = [(str(number + offset), b"") for offset in range(value)]
                await keyvalue.put(data, items, Author())
                number += value
            elif step == "note":
                for _ in range(value):
                    notes += 1
                    await datastore.repos.edit_version(data.repo.root, data.version.uuid, note=f"note {notes}")
            elif step == "fail":
                bus.taken_before_failure = value
                with suppress(StoreUnavailable):
                    await relays[0].round()
                bus.taken_before_failure = None
            elif step == "kill":
                relays[1].moment = value
                try:
                    await relays[1].round()
                except Killed:
                    relays[1] = MortalRelay(datastore, bus, events)
                relays[1].moment = ""
            else:
                await relays[value].round()
    assert _first_told(bus, "data", "Key") == [str(place) for place in range(number)]
    assert _first_told(bus, "ops", "Note") == [f"note {place}" for place in range(1, notes + 1)]


def _first_told(bus: MemoryBus, kind: str, field: str) -> list[str]:
    """What the messages of a kind say, each when it came first; the same message always has the same key."""
    first: dict[str, None] = {}
    keys: dict[bytes, str] = {}
    for message in [message for topic in bus.topics if kind in topic.split("-") for message in bus.topics[topic]]:
        name = json.loads(message.value).get(field)
        assert keys.setdefault(message.key, name) == name, "two messages share a key"
        if name is not None:
            first.setdefault(name)
    return list(first)


async def test_a_loop_outlives_failures(tmp_path: Path) -> None:
    data = await with_keys(datastore := await opened(str(tmp_path)))
    bus = MemoryBus()
    bus.taken_before_failure = 1
    running = asyncio.create_task(Relay(datastore, bus, events).run(0.01))
    await keyvalue.put(data, [(str(n), b"") for n in range(3)], Author())
    while len(_first_told(bus, "data", "Key")) < 3:
        assert not running.done()
        await asyncio.sleep(0.01)
    running.cancel()
