"""A writing process is killed: what it acknowledged is there, and nothing is there by halves."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from app.versioning import log
from tests.conftest import url_of
from tests.properties import worker
from tests.properties.pods import pods


async def storms(url: str, durability: str) -> tuple[dict[str, dict[int, int]], list[log.Record]]:
    """What is in the tree of every storm: the sizes of its parts."""
    trees = worker.open_trees(url, durability)
    # The tree can be written to at once; what had been stored and not told to anybody is there from then on.
    await worker.mutate(trees, worker.increment)
    snapshot = await trees.head(worker.FOLDER, worker.LINE)
    found: dict[str, dict[int, int]] = {}
    for key, value in await snapshot.items(b"storm/", b"storm0"):
        _, name, part = key.decode().split("/")
        assert value == name.encode() * (worker.SIZES[int(part)] // len(name))
        found.setdefault(name, {})[int(part)] = len(value)
    return found, await log.records(snapshot, "root")


def run(url: str, durability: str, rounds: int) -> None:
    acknowledged: list[str] = []
    for number in range(rounds):
        # Numbers of pods differ from round to round, so that each storm has names of its own.
        with pods(url, [("storm", 4), ("storm", 4)], durability, first=2 * number) as children:
            time.sleep(random.uniform(0.1, 0.7))
            for child in children:
                child.kill()
            for child in children:
                acknowledged += [line for line in child.communicate()[0].splitlines(keepends=True) if line[-1:] == "\n"]
    names = [name.strip() for name in acknowledged]
    assert names
    assert not [name for name in names if name.startswith("failed")]
    found, records = asyncio.run(storms(url, durability))
    assert set(names) <= set(found)
    assert all(set(parts) == set(range(len(worker.SIZES))) for parts in found.values())
    # Number 0 is the increment at the end; each other record belongs to one storm that is there.
    assert sorted(record.mutation_id for record in records) == [
        0,
        *sorted(int(name.split(".")[0]) * 10**6 + int(name.split(".")[1]) for name in found),
    ]


async def histories(url: str, durability: str, acknowledged: list[tuple[int, int, int]], parts: int) -> None:
    """Every version holds what was acknowledged in it and before it, perhaps one more mutation, and nothing else."""
    trees = worker.open_trees(url, durability)
    for number in {number for number, _, _ in acknowledged}:
        own = [(step, part) for each, step, part in acknowledged if each == number]
        assert own == [(step, part) for step in range(own[-1][0] + 1) for part in range(parts)][: len(own)]
        steps = own[-1][0] + 1
        for step in {*range(0, steps, steps // 10 + 1), *range(max(steps - 3, 0), steps)}:
            snapshot = await trees.head(worker.FOLDER, worker.chain_line(number, step))
            there = [key.decode() for key, _ in await snapshot.items(b"chain/", b"chain0")]
            wanted = sorted(f"chain/{number}.{earlier}.{part}" for earlier, part in own if earlier <= step)
            last = f"chain/{number}.{step}.{len([1 for earlier, _ in own if earlier == step])}"
            assert there in (wanted, sorted([*wanted, last]))
            records = await log.records(snapshot, f"{number}.{step}")
            assert len([1 for record in records if record.action == "test"]) == len(
                [1 for key in there if key.startswith(f"chain/{number}.{step}.")]
            )


@pytest.mark.parametrize(("kind", "durability"), [("file", "power"), ("file", "process"), ("small", "process")])
def test_killed_processes_leave_whole_versions(
    kind: str, durability: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Versions begin with what waits in their parents' journals; two processes branch off the same root."""
    url, acknowledged = url_of(kind, request, tmp_path), list[tuple[int, int, int]]()
    asyncio.run(_begin(url, durability))
    for number in range(2):
        with pods(url, [("chain", 3), ("chain", 3)], durability, first=2 * number) as children:
            time.sleep(random.uniform(0.3, 1.0))
            for child in children:
                child.kill()
            for child in children:
                lines = [line for line in child.communicate()[0].splitlines(keepends=True) if line[-1:] == "\n"]
                names = [line.strip().split(".") for line in lines]
                acknowledged += [(int(pod), int(step), int(part)) for pod, step, part in names]
    assert len({number for number, _, _ in acknowledged}) == 4
    asyncio.run(histories(url, durability, acknowledged, 3))


async def _begin(url: str, durability: str) -> None:
    await worker.mutate(worker.open_trees(url, durability), worker.increment)


@pytest.mark.parametrize(
    ("kind", "durability"), [("file", "power"), ("file", "process"), ("small", "process"), ("gcs", "process")]
)
def test_a_killed_process_leaves_whole_mutations(
    kind: str, durability: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run(url_of(kind, request, tmp_path), durability, 2)


@pytest.mark.torture
@pytest.mark.parametrize(
    ("kind", "durability"), [("file", "power"), ("file", "process"), ("gcs", "process"), ("s3", "process")]
)
def test_killed_processes_leave_whole_mutations(
    kind: str, durability: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run(url_of(kind, request, tmp_path), durability, 25)
