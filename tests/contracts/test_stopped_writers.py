"""A writer is stopped at each of the calls by which it changes files: others go on from what it was answered.

Nobody knows whether the commit that had no answer counts. It may, but then wholly, and for everybody.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.backends.ocdbt import OcdbtMap
from app.core.errors import Conflict
from tests import journals
from tests.contracts.test_journal import applied, contents, newest, opened

NUMBER = b"number"
Writes = Mapping[bytes, bytes | None]
Range = tuple[bytes, bytes]


@dataclass(frozen=True)
class Step:
    """A commit; in a copy of the map that is made for it, if it is the first of one."""

    writes: Writes
    ranges: tuple[Range, ...] = ()
    is_last: bool = False
    is_first: bool = False


#: Everything that can become of a commit under the limits below.
STEPS = [
    *(Step({b"a": b"%d" % number, b"k%d" % number: b"x" * 40}) for number in range(3)),
    Step({b"a": b"large", b"b": b"x" * 400}),
    *(Step({b"a": b"%d" % number, b"l%d" % number: b"y" * 40}) for number in range(4)),  # the last stores what waits
    Step({b"k1": None}),
    Step({b"a": b"gone"}, ((b"l", b"l2"), (b"m", b"m"))),
    Step({b"m": b"z" * 30}),
    Step({b"sealed": b"1"}, is_last=True),
    Step({b"a": b"child"}, is_first=True),
    *(Step({b"a": b"%d" % number, b"n%d" % number: b"x" * 60}) for number in range(3)),
    Step({b"sealed": b"2"}, is_last=True),
    Step({b"sealed": b"3"}, is_last=True),
    Step({b"a": b"grandchild"}, is_first=True),
    Step({b"a": b"end", b"b": None}),
]


def states() -> list[dict[bytes, bytes]]:
    """What there is before each step, and at the end."""
    found = [dict[bytes, bytes]()]
    for step in STEPS:
        held = {
            key: value
            for key, value in found[-1].items()
            if not any(first <= key < last for first, last in step.ranges)
        }
        found.append(applied(held, step.writes))
    return found


STATES = states()


class Stopped(BaseException):
    """Nothing of the writer runs after this."""


class Calls:
    """The calls that change files; one of them stops who makes it, before, after, or half-way."""

    def __init__(self, patched: pytest.MonkeyPatch, stop_at: int, how: str) -> None:
        self.made: list[str] = []
        self.are_counted = True
        self._stop_at, self._how = stop_at, how
        for name in ("pwrite", "ftruncate", "rename", "link"):
            patched.setattr(os, name, self._watched(getattr(os, name)))
        for name in ("commit", "branch_from"):
            patched.setattr(OcdbtMap, name, self._awaited(getattr(OcdbtMap, name)))

    def _is_here(self, name: str) -> bool:
        if self.are_counted:
            self.made.append(name)
        return self.are_counted and len(self.made) - 1 == self._stop_at

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            if not self._is_here(call.__name__):
                return call(*arguments)
            if self._how == "after":
                call(*arguments)
            elif self._how == "half-way":
                file, data, at = arguments
                call(file, data[: len(data) // 2], at)
            raise Stopped

        return watched

    def _awaited(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def awaited(*arguments: Any, **named: Any) -> Any:
            is_here = self._is_here(call.__name__)
            if not is_here or self._how == "after":
                await call(*arguments, **named)
            if is_here:
                raise Stopped

        return awaited


@dataclass
class Process:
    """A process with all the maps; it knows which generations it has seen (map, generation, steps done)."""

    folder: Path
    seen: set[tuple[int, int, int]] = field(default_factory=set)
    number: bytes | None = None

    def __post_init__(self) -> None:
        self.maps = [opened(self.folder, name=str(number)) for number in range(3)]

    async def look(self) -> tuple[int, int]:
        """The newest map there is, and how many steps are done in it, which is read wholly."""
        place = max([place for place, each in enumerate(self.maps) if await each.fingerprint() is not None], default=-1)
        if place < 0:
            return 0, 0
        view = await newest(self.maps[place])
        found = await contents(view)
        self.number = found.pop(NUMBER)
        done = int(self.number.split()[0])
        assert found == STATES[done]
        self.seen.add((place, view.generation, done))
        return place, done

    async def work(self) -> None:
        """Do all that is left to do."""
        while (await self.look())[1] < len(STEPS):
            await self.do()

    async def do(self) -> None:
        """Do a step. How many copies have been begun tells which map it belongs to."""
        place, done = await self.look()
        step = STEPS[done]
        begun = sum(each.is_first for each in STEPS[: done + 1])
        if begun > place:
            await self.maps[begun].branch_from(self.maps[place])
        await self._commit(begun, step.writes, done + 1, ranges=step.ranges, is_last=step.is_last)

    async def do_otherwise(self) -> None:
        """Write something else than the next step would, and store it: nothing of that step may come to light."""
        place, done = await self.look()
        await self._commit(place, {}, done, ranges=((b"x", b"y"),))
        assert await self.look() == (place, done)

    async def _commit(self, place: int, writes: Writes, done: int, **how: Any) -> None:
        number = b"%d %s" % (done, os.urandom(4).hex().encode())
        await self.maps[place].commit({**writes, NUMBER: number}, unchanged={NUMBER: self.number}, **how)

    async def recall(self, seen: set[tuple[int, int, int]]) -> None:
        for place, generation, done in seen:
            found = await contents(await self.maps[place].at(generation))
            assert int(found.pop(NUMBER).split()[0]) == done
            assert found == STATES[done]


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    journals.choose(
        monkeypatch, entry_bytes=300, waiting_bytes=1000, waiting_keys=5, file_bytes=300, passed_bytes=400, looks=1
    )


async def run_until(folder: Path, stop_at: int, how: str) -> tuple[list[str], int, Process]:
    """Let a process write, and another one read and now and then write; the first's calls, the steps, the other one."""
    writer, reader = Process(folder), Process(folder)
    done = 0
    with pytest.MonkeyPatch.context() as patched:
        calls = Calls(patched, stop_at, how)
        try:
            while done < len(STEPS):
                calls.are_counted = done % 3 != 2
                await (writer if calls.are_counted else reader).do()
                done += 1
                for _ in range(2):
                    assert (await reader.look())[1] == done
        except Stopped:
            pass
    return calls.made, done, reader


def earlier_files(folder: Path) -> int:
    return len([*folder.rglob("journal.*")])


@pytest.mark.parametrize("how", ["before", "half-way", "after"])
@pytest.mark.parametrize("which", [0, pytest.param(1, marks=pytest.mark.torture)])
async def test_others_go_on_where_a_writer_was_stopped(tmp_path: Path, how: str, which: int) -> None:
    """By turns it is a new process, or the one that has been reading, that goes on."""
    calls, done, _ = await run_until(tmp_path / "whole", -1, how)
    assert done == len(STEPS)
    assert earlier_files(tmp_path) >= 2
    assert len(calls) > 2 * len(STEPS)
    stops = [at for at, name in enumerate(calls) if name == "pwrite" or how != "half-way"]
    for stop_at in stops:
        folder = tmp_path / str(stop_at)
        _, done, reader = await run_until(folder, stop_at, how)
        fresh = Process(folder)
        for each in (reader, fresh):
            assert (await each.look())[1] in (done, done + 1)
        worker = (fresh, reader)[(stop_at + which) % 2]
        try:
            await worker.do_otherwise()
        except Conflict:  # it had been stored, and nobody had been told
            for each in (reader, fresh):
                assert (await each.look())[1] == done + 1
        await worker.work()
        for each in (reader, fresh, Process(folder)):
            assert (await each.look())[1] == len(STEPS)
            await each.recall(reader.seen | fresh.seen)
