"""A pod of the tests: a process that writes to or reads from a tree of a shared store, as `python -m` with arguments.

    worker.py URL DURABILITY ROLE NUMBER COUNT

It prints a line when it is ready and waits for one on its input. Lines on its output say what was acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from app.backends.store import Store
from app.core.errors import Conflict, DvidError
from app.versioning import log
from app.versioning.cache import Cache
from app.versioning.line import Line
from app.versioning.mutations import Mutation
from app.versioning.trees import Trees
from tests.journals import store_options

FOLDER = "repos/r/d/"
LINE = Line(("root",), False)
COUNTERS = [b"counter/%d" % number for number in range(3)]
PAIR = b"pair/a", b"pair/b"
ROWS = 20
#: Values of a storm: some inside the nodes of the tree, some in files of their own.
SIZES = (10, 900, 5000)


async def still_open() -> bool:
    return True


def open_trees(url: str, durability: str = "process", timeout_seconds: float = 10.0) -> Trees:
    options = store_options(
        durability=durability, cache_bytes=32 << 20, max_staleness_seconds=0.0, timeout_seconds=timeout_seconds
    )
    return Trees(Store(url, options), Cache(8 << 20))


async def mutate(trees: Trees, change: object, number: int = 0) -> object:
    async def recorded(mutation: Mutation) -> object:
        mutation.record(log.Record("test", "root", number))
        return await change(mutation)  # type: ignore[operator]

    return await trees.mutate(FOLDER, LINE, recorded, still_open=still_open)


async def increment(mutation: Mutation) -> None:
    """Count, and keep two keys equal."""
    for key in (*COUNTERS, *PAIR):
        mutation.put(key, b"%d" % (int(await mutation.get(key) or b"0") + 1))


async def count(trees: Trees, number: int, times: int) -> None:
    """Increments, three at a time."""

    async def some(start: int) -> None:
        for _ in range(start, times, 3):
            while True:
                try:
                    await mutate(trees, increment, number)
                    break
                except Conflict:
                    await asyncio.sleep(random.uniform(0, 0.1))

    await asyncio.gather(*[some(start) for start in range(3)])


async def fill(trees: Trees, number: int, times: int) -> None:
    """Keys of this process's own, interleaved with those of others."""
    for step in range(times):

        async def change(mutation: Mutation, step: int = step) -> None:
            mutation.put(b"own/%04d/%d" % (step, number), bytes([number]) * random.choice(SIZES))

        await mutate(trees, change, number)


async def overwrite(trees: Trees, number: int, times: int) -> None:
    """Replace a whole range at once, so that its rows always agree."""
    for step in range(times):

        async def change(mutation: Mutation, step: int = step) -> None:
            present = await mutation.keys(b"row/", b"row0")
            assert len({key.rpartition(b"=")[2] for key in present}) <= 1, present
            mutation.delete_range(b"row/", b"row0")
            for row in range(ROWS):
                mutation.put(b"row/%02d=%d.%d" % (row, number, step), b"x" * random.choice(SIZES))

        await mutate(trees, change, number)


async def watch(trees: Trees, number: int, times: int) -> None:
    """Read until the pair has reached a number; every snapshot must be whole, and none older than the last."""
    reached, generation = 0, 0
    while reached < times:
        snapshot = await trees.head(FOLDER, LINE)
        assert snapshot.generation >= generation
        generation = snapshot.generation
        first, *others = await snapshot.get_many([*PAIR, *COUNTERS])
        assert all(other == first for other in others), (first, others)
        rows = await snapshot.keys(b"row/", b"row0")
        assert len(rows) in (0, ROWS), rows
        assert len({key.rpartition(b"=")[2] for key in rows}) <= 1, rows
        assert int(first or b"0") >= reached
        reached = int(first or b"0")
        await asyncio.sleep(0.002)


async def storm(trees: Trees, number: int, times: int) -> None:
    """Write without an end: mutations of several keys each, and say which were acknowledged."""

    async def some(start: int) -> None:
        step = start
        while True:
            name = f"{number + 1}.{step}"

            async def change(mutation: Mutation, name: str = name) -> None:
                for part, size in enumerate(SIZES):
                    mutation.put(f"storm/{name}/{part}".encode(), name.encode() * (size // len(name)))

            try:
                await mutate(trees, change, (number + 1) * 10**6 + step)
            except Conflict:
                continue
            sys.stdout.write(name + "\n")
            sys.stdout.flush()
            step += times

    await asyncio.gather(*[some(start) for start in range(times)])


def chain_line(number: int, step: int) -> Line:
    """A version of the history that a process makes of its own, and those before it."""
    return Line((*[f"{number}.{earlier}" for earlier in range(step, -1, -1)], *LINE.versions), False)


async def chain(trees: Trees, number: int, times: int) -> None:
    """Write one version after another without an end, so many mutations in each, and say what was acknowledged."""
    step = 0
    while True:
        for part in range(times):

            async def change(mutation: Mutation, name: str = f"{number}.{step}.{part}") -> None:
                mutation.put(f"chain/{name}".encode(), name.encode())
                mutation.record(log.Record("test", name.rpartition(".")[0]))

            await trees.mutate(FOLDER, chain_line(number, step), change, still_open=still_open)
            sys.stdout.write(f"{number}.{step}.{part}\n")
            sys.stdout.flush()
        await trees.seal(FOLDER, f"{number}.{step}")
        step += 1


ROLES = {role.__name__: role for role in (count, fill, overwrite, watch, storm, chain)}


async def main(url: str, durability: str, role: str, number: int, times: int) -> None:
    trees = open_trees(url, durability)
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.monotonic()
    try:
        await ROLES[role](trees, number, times)
    except DvidError as error:
        print(f"failed: {error!r}", flush=True)
        raise
    await trees.drain()
    print(f"done in {time.monotonic() - begun:.2f} s", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], *map(int, sys.argv[4:6])))  # type: ignore[arg-type,call-arg]
