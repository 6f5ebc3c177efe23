"""Numbers from a `Counter`: consecutive in one process, unique over all."""

from __future__ import annotations

import asyncio
import multiprocessing
import uuid
from itertools import pairwise
from pathlib import Path

import pytest

from app.backends.bucket_catalog import BucketCatalog
from app.backends.catalog import Catalog, Change
from app.backends.firestore_catalog import FirestoreCatalog
from app.backends.store import Store
from app.core.errors import StoreUnavailable
from app.versioning.leases import Counter
from tests.journals import store_options


async def test_numbers_are_consecutive_in_one_process(catalog: Catalog) -> None:
    counter = Counter(catalog, "c", first=1000, stride=7)
    assert counter.upcoming == 1000
    assert [await counter.take() for _ in range(25)] == list(range(1000, 1025))
    assert await counter.take(20) == 1025
    assert await counter.take() == 1045
    assert counter.upcoming == 1046


async def test_tasks_of_one_process_share_without_gaps(catalog: Catalog) -> None:
    counter = Counter(catalog, "c", first=1, stride=10)
    taken = await asyncio.gather(*[counter.take(1 + number % 3) for number in range(60)])
    spans = sorted((first, 1 + number % 3) for number, first in enumerate(taken))
    assert spans[0][0] == 1
    assert all(first + count == after for (first, count), (after, _) in pairwise(spans))


async def test_pods_never_share_a_number(catalog: Catalog) -> None:
    counters = [Counter(catalog, "c", first=2**63, stride=stride) for stride in (1, 3, 5)]

    async def take(counter: Counter) -> list[int]:
        return [await counter.take() for _ in range(12)]

    taken = await asyncio.gather(*map(take, counters))
    assert all(numbers == sorted(numbers) for numbers in taken)
    everything = [number for numbers in taken for number in numbers]
    assert len(everything) == len(set(everything)) == 36
    assert min(everything) == 2**63


async def test_counters_are_apart(catalog: Catalog) -> None:
    assert await Counter(catalog, "a", first=1, stride=5).take() == 1
    assert await Counter(catalog, "b", first=1, stride=5).take() == 1
    assert await Counter(catalog, "a", first=1, stride=5).take() == 6


async def test_a_failed_lease_gives_nothing_away(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = Counter(catalog, "c", first=1, stride=2)
    assert await counter.take() == 1

    async def fail(changes: list[Change]) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as broken:
        broken.setattr(catalog, "commit", fail)
        assert await counter.take() == 2
        with pytest.raises(StoreUnavailable):
            await counter.take()
    assert await counter.take() == 3


def take_in_a_process(place: str, root: str, answers: multiprocessing.Queue[list[int]]) -> None:
    async def run() -> list[int]:
        if root:
            catalog: Catalog = FirestoreCatalog("demo-p", root=root)
        else:
            catalog = BucketCatalog(Store(place, store_options(durability="process")))
        counter = Counter(catalog, "c", first=1, stride=3)
        taken = [await counter.take() for _ in range(30)]
        await catalog.close()
        return taken

    answers.put(asyncio.run(run()))


@pytest.mark.parametrize("kind", ["file", "firestore"])
def test_processes_never_share_a_number(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    root = ""
    with pytest.MonkeyPatch.context() as environment:
        if kind == "firestore":
            environment.setenv("FIRESTORE_EMULATOR_HOST", request.getfixturevalue("firestore_server"))
            root = f"dvid/{uuid.uuid4().hex}"
        spawn = multiprocessing.get_context("spawn")
        answers: multiprocessing.Queue[list[int]] = spawn.Queue()
        children = [spawn.Process(target=take_in_a_process, args=(str(tmp_path), root, answers)) for _ in range(3)]
        for child in children:
            child.start()
        taken = [answers.get(timeout=60) for _ in children]
        for child in children:
            child.join(30)
    assert all(numbers == sorted(numbers) for numbers in taken)
    everything = [number for numbers in taken for number in numbers]
    assert len(everything) == len(set(everything)) == 90
