"""Label ids: the largest that a version and its ancestors hold, and those that the repo's instance hands out.

The largest label of a version is part of its tree, so children inherit it. New ids must be unique over all versions and
branches: they come from one document of the catalog, which every label beyond its largest raises.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.backends.catalog import NEW, Change
from app.core.errors import Conflict, DvidError, Invalid
from app.datatypes.labelmap import keys
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader

ATTEMPTS = 20
#: The highest id is never handed out.
LIMIT = (1 << 64) - 1


@dataclass(frozen=True)
class Counters:
    """The counters of an instance: largest label seen anywhere, last id given (0: never set), highest id to give."""

    largest: int = 0
    last_given: int = 0
    ceiling: int = 0

    @property
    def next_label(self) -> int:
        """The id that would be given next."""
        return (self.last_given or self.largest) + 1


def _path(data: Data) -> str:
    return f"counters/labels-{data.instance.uuid}"


async def max_label(reader: Reader) -> int | None:
    """The largest label of a version and its ancestors; None before the first."""
    value = await reader.get(keys.MAX_LABEL)
    return None if value is None else int.from_bytes(value, "big")


async def raise_max_label(mutation: Mutation, label: int) -> bool:
    """Let the version's largest label be at least this; whether that changed it."""
    present = await max_label(mutation)
    if present is not None and present >= label:
        return False
    mutation.put(keys.MAX_LABEL, keys.number(label))
    return True


async def load(data: Data) -> Counters:
    """The counters as they are now."""
    (document,) = await data.datastore.catalog.get([_path(data)])
    return Counters() if document is None else Counters(**document.data)


async def see(data: Data, label: int) -> None:
    """Make sure that no label up to this one is handed out as new."""
    known, name = data.datastore.kept, f"label-seen/{data.instance.uuid}"
    if label <= known.get(name, 0):
        return

    def raised(counters: Counters) -> Counters:
        return replace(counters, largest=max(counters.largest, label))

    await _change(data, raised)
    known[name] = max(label, known.get(name, 0))


async def give(data: Data, count: int) -> tuple[int, int]:
    """Reserve `count` new ids: the first and the last of them."""
    if count < 1:
        raise Invalid("the number of new labels must be at least 1")
    desk: _Desk = data.datastore.kept.setdefault(f"label-desk/{data.instance.uuid}", _Desk())
    return await desk.give(data, count)


class _Desk:
    """Where the requests of this process get ids of one instance: those that wait together share one change."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, asyncio.Future[tuple[int, int]]]] = []
        self._clerk: asyncio.Task[None] | None = None

    async def give(self, data: Data, count: int) -> tuple[int, int]:
        answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, answer))
        if self._clerk is None or self._clerk.done():
            self._clerk = asyncio.create_task(self._work(data))
        return await answer

    async def _work(self, data: Data) -> None:
        while self._waiting:
            served, self._waiting = self._waiting, []
            try:
                outcomes = await _give_all(data, [count for count, _ in served])
            except DvidError as error:
                outcomes = [error] * len(served)
            for (_, answer), outcome in zip(served, outcomes, strict=True):
                if answer.done():
                    continue
                if isinstance(outcome, DvidError):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)


async def _give_all(data: Data, counts: list[int]) -> list[tuple[int, int] | DvidError]:
    """Reserve ids for several requests in their order: what each gets, or why it gets none."""
    outcomes: list[tuple[int, int] | DvidError] = []

    def taken(counters: Counters) -> Counters:
        outcomes.clear()
        for count in counts:
            counters, outcome = _taken(counters, count)
            outcomes.append(outcome)
        return counters

    await _change(data, taken)
    return outcomes


def _taken(counters: Counters, count: int) -> tuple[Counters, tuple[int, int] | DvidError]:
    """The counters after `count` ids were given, and these; or why they cannot be."""
    first = counters.next_label
    last = first + count - 1
    if last >= LIMIT or (counters.ceiling and counters.last_given and last > counters.ceiling):
        return counters, Invalid(f"{count} new labels from {first} on exceed the highest one allowed")
    if counters.last_given:
        return replace(counters, last_given=last), (first, last)
    return replace(counters, largest=last), (first, last)


async def set_next(data: Data, label: int, ceiling: int | None) -> Counters:
    """Set the last id given, and the highest to give (None keeps it, 0 lifts it)."""
    if not 0 < label < LIMIT:
        raise Invalid(f"label {label} cannot be the last one given")

    def changed(counters: Counters) -> Counters:
        highest = counters.ceiling if ceiling is None else ceiling
        if highest and highest < label:
            raise Invalid(f"the ceiling {highest} lies below {label}")
        return replace(counters, last_given=label, ceiling=highest)

    return await _change(data, changed)


async def _change(data: Data, change: Callable[[Counters], Counters]) -> Counters:
    catalog, path = data.datastore.catalog, _path(data)
    for attempt in range(ATTEMPTS):
        try:
            async with catalog.alone(path):
                (document,) = await catalog.get([path])
                present = Counters() if document is None else Counters(**document.data)
                changed = change(present)
                if changed != present:
                    await catalog.commit([Change(path, vars(changed), NEW if document is None else document.revision)])
                return changed
        except Conflict:
            await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))
    raise Conflict("the label counters are too busy")
