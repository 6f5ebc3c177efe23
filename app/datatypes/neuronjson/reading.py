"""Reads of annotations: one, some, all; fields and their times; queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import orjson

from app.datatypes.neuronjson import documents, keys, queries, writing
from app.datatypes.neuronjson.documents import ID, TIME, Show
from app.datatypes.neuronjson.pages import Page, Pages
from app.datatypes.neuronjson.queries import Column, Query
from app.versioning.datastore import Data
from app.versioning.log import Record
from app.versioning.snapshot import Snapshot


@dataclass(frozen=True)
class View:
    """What is shown of an annotation: all fields or some, and which companions."""

    show: Show = Show.NONE
    names: tuple[str, ...] = field(default=())

    def of(self, stored: bytes) -> bytes:
        """The JSON of a stored annotation."""
        return documents.selected(stored, self.names, self.show) if self.names else documents.shown(stored, self.show)


async def get(snapshot: Snapshot, body: int) -> bytes | None:
    """The stored annotation of a body, or None."""
    return await snapshot.get(keys.annotation(body))


async def get_many(snapshot: Snapshot, bodies: Sequence[int]) -> list[bytes | None]:
    """The stored annotations of bodies in the order asked."""
    return await snapshot.get_many([keys.annotation(body) for body in bodies])


async def metadata(snapshot: Snapshot, name: str) -> bytes | None:
    """A document about the annotations, or None."""
    return await snapshot.get(keys.metadata(name))


def limits(first: str, last: str) -> tuple[int, int]:
    """The limits of a range, both included: numbers, or words that come before or after all numbers."""
    return _limit(first), _limit(last)


def _limit(text: str) -> int:
    if text and not "0" <= text[0] <= "9":
        return 0 if text[0] < "0" else keys.MAX_BODY
    return writing.body_of(text)


async def pages(data: Data, snapshot: Snapshot) -> Pages:
    """All annotations of a snapshot of this instance, in pages."""
    return await data.datastore.derived.of("neuronjson", data.folder, snapshot, Pages.build, _advance)


async def _advance(known: Pages, snapshot: Snapshot, records: Sequence[Record]) -> Pages | None:
    touched = writing.touched(records)
    if touched is None:
        return None
    return await known.changed(snapshot, touched) if touched else known


async def ranged(data: Data, snapshot: Snapshot, first: int, last: int) -> AsyncIterator[tuple[int, bytes]]:
    """Bodies of a range, both ends included, and their stored annotations."""
    found = await pages(data, snapshot)
    overlapping = found.overlapping(first, last)
    async for page, stored in found.each(snapshot, Page.stored, lambda page, stored: stored, overlapping):
        for body, value in zip(page.bodies, stored, strict=True):
            if first <= body <= last:
                yield body, value


async def everything(data: Data, snapshot: Snapshot, view: View) -> AsyncIterator[bytes]:
    """JSON of all annotations, commas between, in pieces; those of which only the body id is shown are left out.

    Unless nothing else was asked for.
    """
    found = await pages(data, snapshot)
    if view.names == (ID,):
        for page in found.pages:
            yield b",".join(map(documents.bare, page.bodies))
        return

    def make(page: Page, stored: list[bytes]) -> bytes:
        shown = (view.of(value) for value in stored)
        # An annotation is longer than a bare one as soon as it shows anything else.
        rows = [row for row, body in zip(shown, page.bodies, strict=True) if len(row) > len(documents.bare(body))]
        joined = b",".join(rows)
        page.remember(view, joined, len(joined))
        return joined

    async for _, joined in found.each(snapshot, lambda page: page.recall(view), make):
        if joined:
            yield joined


async def select(data: Data, snapshot: Snapshot, query: Query, view: View, only_ids: bool) -> AsyncIterator[bytes]:
    """JSON of the annotations that match, or of their ids, in order of the ids.

    If nothing but ids is asked for, it is the annotations in the order asked.
    """
    if query.bodies is not None:
        for value in await get_many(snapshot, query.bodies):
            if value is not None:
                yield view.of(value)
        return
    found, names = await pages(data, snapshot), query.names
    async for page, columns in found.each(snapshot, _known(names), _columns(names)):
        mask = query.mask(columns, page.everything)
        if not mask:
            continue
        if only_ids:
            for place in _places(mask):
                yield str(page.bodies[place]).encode()
        else:
            stored = await page.load(snapshot)
            for place in _places(mask):
                yield view.of(stored[place])


def _places(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _known(names: Sequence[str]) -> Callable[[Page], dict[str, Column] | None]:
    def known(page: Page) -> dict[str, Column] | None:
        found: dict[str, Column] = {}
        for name in names:
            column = page.column(name)
            if column is None:
                return None
            found[name] = column
        return found

    return known


def _columns(names: Sequence[str]) -> Callable[[Page, list[bytes]], dict[str, Column]]:
    def make(page: Page, stored: list[bytes]) -> dict[str, Column]:
        made = queries.columns([documents.decode(value) for value in stored], names)
        for name, column in zip(names, made, strict=True):
            page.keep_column(name, column)
        return dict(zip(names, made, strict=True))

    return make


async def field_counts(data: Data, snapshot: Snapshot) -> dict[str, int]:
    """How many annotations have each field or companion."""

    def make(page: Page, stored: list[bytes]) -> Counter[str]:
        counts = Counter(name for value in stored for name in documents.decode(value))
        page.remember("counts", counts, 250 + 120 * len(counts))
        return counts

    total: Counter[str] = Counter()
    found = await pages(data, snapshot)
    async for _, counts in found.each(snapshot, lambda page: page.recall("counts"), make):
        total.update(counts)
    return dict(sorted(total.items()))


async def field_times(data: Data, snapshot: Snapshot) -> dict[str, str]:
    """When each field was changed last, in any annotation."""

    def make(page: Page, stored: list[bytes]) -> dict[str, str]:
        latest: dict[str, str] = {}
        for value in stored:
            for name, time in documents.decode(value).items():
                if name.endswith(TIME) and isinstance(time, str):
                    _take_later(latest, name[: -len(TIME)], time)
        page.remember("times", latest, 250 + 200 * len(latest))
        return latest

    total: dict[str, str] = orjson.loads(await snapshot.get(keys.TIMES) or b"{}")
    found = await pages(data, snapshot)
    async for _, latest in found.each(snapshot, lambda page: page.recall("times"), make):
        for name, time in latest.items():
            _take_later(total, name, time)
    return dict(sorted(total.items()))


def _take_later(latest: dict[str, str], name: str, time: str) -> None:
    known = latest.get(name)
    if known is None or (known != time and documents.moment_of(known) < documents.moment_of(time)):
        latest[name] = time


@lru_cache(256)
def view_of(show: str, names: str) -> View:
    """The view that a request asks for; an unknown `show` shows no companions."""
    shown = next((each for each in Show if each.value == show), Show.NONE)
    return View(shown, tuple(names.split(",")) if names else ())
