"""verify finds every kind of damage and reports it; repair and reindex mend it, also beside writers."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from app.bootstrap import open_datastore
from app.cli import main
from app.core.geometry import Box
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.author import Author
from app.datatypes.labelmap import counters, deltas, edits, groups, index, keys, mapping, posted, read, write
from app.datatypes.labelmap.checks import recount
from app.datatypes.labelmap.checks.repair import repair
from app.datatypes.labelmap.checks.report import Report
from app.datatypes.labelmap.checks.verify import Silent, verify
from app.ingest.direct import add_instance
from app.ingest.target import Wanted
from app.settings import Settings
from app.versioning.datastore import Data
from app.versioning.log import Record
from app.versioning.mutations import Mutation

EDGE = 16
SIDE = 4 * EDGE
WORKERS = Workers(2)
Damage = Callable[[Mutation], Awaitable[None]]


def labels(seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Sixty supervoxels in lumps of five voxels, with background between."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 60, [-(-SIDE // 5)] * 3).astype(np.uint64)
    coarse[coarse > 50] = 0
    return np.ascontiguousarray(coarse.repeat(5, 0).repeat(5, 1).repeat(5, 2)[:SIDE, :SIDE, :SIDE])


async def opened(store: str, *, max_downres: int = 1) -> Data:
    datastore = await open_datastore(Settings(store=store, durability="process"))
    repo = await datastore.repos.create("test", "")
    wanted = Wanted(repo.root, "seg", "", "labelmap", (8.0, 8.0, 8.0), EDGE, max_downres)
    await add_instance(datastore, repo, wanted)
    return await datastore.data(f"{repo.root}:master", "seg")


async def filled(store: str) -> Data:
    """A small volume with some history of edits."""
    data = await opened(store)
    prepared = await write.prepare_volume(data, labels(), (0, 0, 0), 1, WORKERS)
    await write.store(data, prepared, action="ingest-raw", workers=WORKERS, author=Author(), scales=1)
    await edits.merge(data, 1, [2, 3, 4], Author())
    await edits.merge(data, 5, [6, 7], Author())
    await edits.merge(data, 5, [1], Author())
    await edits.cleave(data, 5, [2, 6], Author())
    await edits.renumber(data, 8, 1000, Author())
    return data


async def changed(data: Data, damage: Damage) -> None:
    async def change(mutation: Mutation) -> None:
        await damage(mutation)
        mutation.record(Record("test", data.home.uuid))

    await data.mutate(change)


async def checked(data: Data) -> Report:
    return await verify(data, WORKERS, Silent())


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


# ------------------------------------------------------------------ every kind of damage


async def folded(mutation: Mutation) -> list[bytes]:
    """Bring waiting rows into `sv/` and give its keys."""
    rows = deltas.latest((await deltas.load(mutation)).all())
    listed = await mutation.keys(*keys.supervoxels(0, (1 << 64) - 1))
    deltas.replace(mutation, listed, rows)
    await deltas.restart(mutation, without=rows)
    return await mutation.keys(*keys.supervoxels(0, (1 << 64) - 1))


async def entries_lost(mutation: Mutation) -> None:
    for key in (await folded(mutation))[10:60]:
        mutation.delete(key)


async def entries_miscounted(mutation: Mutation) -> None:
    for key in (await folded(mutation))[100:120]:
        mutation.delete(key)
        mutation.put(key[:-4] + b"\0\0\x01\x07", b"")


async def entries_doubled(mutation: Mutation) -> None:
    for key in (await folded(mutation))[5:8]:
        mutation.put(key[:-4] + b"\0\0\0\x01", b"")


async def entries_of_nothing(mutation: Mutation) -> None:
    mutation.put(keys.supervoxel(777)[0] + b"\x80\0\0\0" * 3 + b"\0\0\0\x05", b"")


async def waiting_rows_wrong(mutation: Mutation) -> None:
    rows = deltas.latest((await deltas.load(mutation)).all())[np.arange(7)]
    await deltas.add(mutation, keys.Counts(rows.supervoxels, rows.blocks, rows.voxels + np.uint32(1)))


async def waiting_rows_lost(mutation: Mutation) -> None:
    first, end, _ = await deltas.mark(mutation)
    assert end > first
    mutation.delete(keys.delta(first))


async def members_lost(mutation: Mutation) -> None:
    root = await groups.root_of(mutation, 5)
    assert root is not None
    for key in await mutation.keys(*keys.children(root, keys.SUPERVOXEL)):
        mutation.delete(key)


async def members_invented(mutation: Mutation) -> None:
    root = await groups.root_of(mutation, 5)
    assert root is not None
    mutation.put(keys.child(root, keys.SUPERVOXEL, 40), b"")
    mutation.put(keys.child(root, keys.GROUP, 12345), b"")


async def members_miscounted(mutation: Mutation) -> None:
    root = await groups.root_of(mutation, 5)
    assert root is not None
    found = await groups.group(mutation, root)
    mutation.delete(keys.group(root, found.kind, found.of, found.members))
    mutation.put(keys.group(root, found.kind, found.of, found.members + 4), b"")


async def roots_wrong(mutation: Mutation) -> None:
    for key in await mutation.keys(*keys.ROOT.range_of(5)):
        mutation.delete(key)
    mutation.put(keys.ROOT.key(9, 4711), b"")


async def posted_miscounted(mutation: Mutation) -> None:
    mutation.put(keys.FIXED_COUNT, keys.number(3))


async def turns_lost(mutation: Mutation) -> None:
    mutation.delete(keys.turn(2))


async def retired_is_painted(mutation: Mutation) -> None:
    mutation.put(keys.MAP.key(30, groups.RETIRED), b"")
    await groups.stage_turn(mutation, {})


async def largest_forgotten(mutation: Mutation) -> None:
    mutation.put(keys.MAX_LABEL, keys.number(17))


async def extents_too_small(mutation: Mutation) -> None:
    mutation.put(b"state/extents", b"[[0,0,0],[5,5,5]]")


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (entries_lost, {"index": 50}),
        (entries_miscounted, {"index": 20}),
        (entries_doubled, {"index": 3}),
        (entries_of_nothing, {"index": 1}),
        (waiting_rows_wrong, {"index": 7}),
        (waiting_rows_lost, {"deltas": 1, "index": None}),
        (members_lost, {"members": None}),
        (members_invented, {"members": 2}),
        (members_miscounted, {"groups": 1}),
        (roots_wrong, {"bodies": 2}),
        (posted_miscounted, {"mapping": 1}),
        (turns_lost, {"turns": 1}),
        (retired_is_painted, {"retired": 1}),
        (largest_forgotten, {"max-label": 1}),
        (extents_too_small, {"extents": 1}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_damage_is_found_and_mended(store: str, damage: Damage, kinds: dict[str, int | None]) -> None:
    data = await filled(store)
    before = await checked(data)
    assert before.is_clean, before.summary()
    assert not before.notes
    sizes = await sizes_of(data)
    await changed(data, damage)
    tool = await elsewhere(store, data)
    report = await checked(tool)
    assert set(report.faults) == set(kinds), report.summary()
    for kind, count in kinds.items():
        assert count in (None, report.faults[kind].count)
    await repair(tool, WORKERS, Silent())
    after = await checked(tool)
    assert after.is_clean, after.summary()
    # A reader that knew the data before the damage, and one that did not, both see what the voxels say.
    if damage is not retired_is_painted:
        assert await sizes_of(data) == sizes
    assert await sizes_of(await elsewhere(store, data)) == await sizes_of(data)


async def elsewhere(store: str, data: Data) -> Data:
    """The same data as a process of its own sees them, which remembers nothing."""
    datastore = await open_datastore(Settings(store=store, durability="process"))
    return await datastore.data(data.version.uuid, "seg")


async def sizes_of(data: Data) -> dict[int, int]:
    """The sizes of all bodies, as the list of bodies and the bodies themselves say."""
    snapshot = await data.head()
    listed, sizes = await index.bodies(snapshot, 0, 1 << 30)
    found = dict(zip(listed.tolist(), sizes.tolist(), strict=True))
    assert {body: await index.size(snapshot, body, False) for body in found} == found
    return found


async def test_unmendable_groups_are_reported(store: str) -> None:
    data = await filled(store)

    async def damage(mutation: Mutation) -> None:
        mutation.put(keys.group(50, keys.OF_GROUP, 51, 1), b"")
        mutation.put(keys.group(51, keys.OF_GROUP, 50, 1), b"")
        mutation.put(keys.group(52, keys.OF_GROUP, 99, 0), b"")
        mutation.put(keys.MAP.key(45, 1 << 40), b"")
        mutation.put(keys.MAP.key(2, groups.RETIRED), b"")

    await changed(data, damage)
    report = await checked(data)
    problems = {
        example["problem"] for found in report.faults.values() for example in found.examples if "problem" in example
    }
    assert {
        "the group is on or above a cycle",
        "the group is part of one that is not there",
        "the supervoxel is in a group that is not there",
        "the supervoxel is in several groups",
    } <= problems


async def test_damaged_blocks_and_wrong_scales_are_reported(store: str) -> None:
    data = await filled(store)

    async def damage(mutation: Mutation) -> None:
        mutation.put(keys.block(0, (1, 1, 1)), b"no gzip")
        other = await mutation.get(keys.block(1, (0, 0, 0)))
        assert other is not None
        mutation.put(keys.block(1, (1, 1, 1)), other)
        mutation.delete(keys.block(1, (0, 0, 0)))

    await changed(data, damage)
    report = await checked(data)
    assert report.faults["blocks"].examples[0]["block"] == [1, 1, 1]
    assert {tuple(example["block"]) for example in report.notes["scales"].examples} == {(0, 0, 0), (1, 1, 1)}


# ------------------------------------------------------------------ reindex


async def test_reindex_makes_the_index_of_ingested_supervoxels(store: str) -> None:
    data, twin = await opened(store, max_downres=0), await filled(store + "2")
    volume = labels()
    prepared = await write.prepare_volume(data, volume, (0, 0, 0), 0, WORKERS)
    await write.store(data, prepared, action="ingest-supervoxels", workers=WORKERS, author=Author())

    async def mapped(mutation: Mutation) -> None:
        await posted.put_mapping(mutation, np.array([2, 3, 9], np.uint64), np.array([1, 1, 200], np.uint64))

    await changed(data, mapped)
    assert not await index.size(await data.head(), 10, False)
    done = await repair(data, WORKERS, Silent())
    assert done.entries == (await checked(data)).seen["entries"]
    assert (await checked(data)).is_clean
    snapshot, other = await data.head(), await twin.head()
    for supervoxel in (1, 9, 33):
        label = np.array([supervoxel], np.uint64)
        assert (await index.counts(snapshot, label)).to_keys() == (await index.counts(other, label)).to_keys()
    # Bodies follow the posted mapping, as they do when such voxels are written with an index.
    assert (await index.members(snapshot, 1)).tolist() == [1, 2, 3]
    assert await index.size(snapshot, 200, False) == int((volume == 9).sum())
    assert await counters.max_label(snapshot) == 200
    assert await voxels.extents(data, snapshot) == ([0, 0, 0], [SIDE - 1] * 3)


async def test_reindex_beside_writers(store: str) -> None:
    data = await opened(store, max_downres=0)
    prepared = await write.prepare_volume(data, labels(), (0, 0, 0), 0, WORKERS)
    await write.store(data, prepared, action="ingest-supervoxels", workers=WORKERS, author=Author())
    rest = asyncio.Event()

    async def paint() -> None:
        """Blocks that change while they are counted, one after another."""
        random = np.random.default_rng(5)
        while not rest.is_set():
            corner = tuple((random.integers(0, 4, 3) * EDGE).tolist())
            volume = labels(int(random.integers(1 << 30)))[:EDGE, :EDGE, :EDGE]
            written = await write.prepare_volume(data, np.ascontiguousarray(volume), corner, 0, WORKERS)  # type: ignore[arg-type]
            await write.store(data, written, action="post-blocks", workers=WORKERS, author=Author())
            await asyncio.sleep(0.002)

    painting = asyncio.create_task(paint())
    try:
        for _ in range(3):
            await repair(data, WORKERS, Silent())
    finally:
        rest.set()
        await painting
    report = await checked(data)
    assert report.is_clean, report.summary()
    whole = await read.volume(
        data, await data.head(), 0, Box((0, 0, 0), (SIDE,) * 3), mapping.IDENTITY, WORKERS, 1 << 30
    )
    found, sizes = np.unique(whole, return_counts=True)
    listed = await sizes_of(data)
    assert listed == {int(label): int(size) for label, size in zip(found, sizes, strict=True) if label}


async def test_small_parts_and_ranges_give_the_same(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = await filled(store)
    await changed(data, entries_lost)
    whole = await checked(data)
    monkeypatch.setattr(recount, "PART_ROWS", 300)
    monkeypatch.setattr(recount, "SAMPLE", 4)
    monkeypatch.setattr(recount, "TOGETHER", 3)
    monkeypatch.setattr("app.datatypes.labelmap.checks.verify.RANGE_ROWS", 100)
    monkeypatch.setattr("app.datatypes.labelmap.checks.repair.MUTATION_ROWS", 7)
    cut = await checked(data)
    assert cut.faults == whole.faults
    assert cut.seen == whole.seen
    await repair(data, WORKERS, Silent())
    assert (await checked(data)).is_clean


# ------------------------------------------------------------------ the commands


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_commands(store: str, tmp_path: Path) -> None:
    data = asyncio.run(filled(store))
    clean = run("verify", "test/seg", "--store", store, "--quiet")
    assert clean.exit_code == 0, clean.output
    assert "nothing is wrong" in clean.output

    async def damage() -> None:
        await changed(await elsewhere(store, data), entries_lost)

    asyncio.run(damage())
    lines = tmp_path / "found.jsonl"
    found = run("verify", f"{data.version.uuid[:8]}/seg", "--store", store, "--quiet", "--json", str(lines))
    assert found.exit_code == 1
    assert "wrong: 50 index entries" in found.output
    assert "... and 30 more" in found.output
    *differences, summary = map(json.loads, lines.read_text().splitlines())
    assert len(differences) == 50
    assert {"kind", "supervoxel", "block", "indexed", "voxels"} == set(differences[0])
    assert summary["faults"] == {"index": 50}
    mended = run("verify", "test/seg", "--store", store, "--quiet", "--repair")
    assert mended.exit_code == 0, mended.output
    assert "rewrote 50 index entries" in mended.output
    again = run("reindex", "test/seg", "--store", store, "--quiet")
    assert again.exit_code == 0
    assert "rewrote 0 index entries and 0 other things" in again.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["verify", "test"], "REPO_OR_VERSION/INSTANCE"),
        (["verify", "other/seg"], "other"),
        (["verify", "test/none"], "none"),
        (["reindex", "test/none"], "none"),
    ],
)
def test_commands_say_what_is_wrong(store: str, arguments: list[str], reason: str) -> None:
    asyncio.run(opened(store))
    answer = run(*arguments, "--store", store, "--quiet")
    assert answer.exit_code != 0
    assert reason in answer.output
    assert "Traceback" not in answer.output


def test_a_locked_version_is_verified_but_not_changed(store: str) -> None:
    async def lock() -> str:
        data = await filled(store)
        await changed(data, entries_lost)
        await data.datastore.lock(data.repo, data.version.uuid, "", [])
        return data.version.uuid

    version = asyncio.run(lock())
    refused = run("reindex", f"{version}/seg", "--store", store, "--quiet")
    assert refused.exit_code == 1
    assert "locked" in refused.output
    assert run("verify", f"{version}/seg", "--store", store, "--quiet").exit_code == 1
    assert run("verify", f"{version}/seg", "--store", store, "--quiet", "--repair", "--locked").exit_code == 0
    assert uuid.UUID(version)
