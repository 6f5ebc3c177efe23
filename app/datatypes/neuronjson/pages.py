"""All annotations of a version, in pages: what lists and queries work on.

A page stands for some bodies whose ids follow each other. Its stored annotations, and what was made of them (JSON to
send, columns for queries, counts), are facets in the process's cache: they are made when they are first asked for,
given up when memory is short, and made again. A write replaces the pages that it touches and no others, so another
generation or version shares all the rest.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from app.datatypes.neuronjson import documents, keys
from app.datatypes.neuronjson.queries import Column
from app.versioning.cache import Cache
from app.versioning.snapshot import Snapshot

T = TypeVar("T")

#: Bodies of a page. Smaller ones make edits cheaper, larger ones make lists and queries cheaper.
PAGE = 256
#: Pages that are read from the store together.
TOGETHER = 16
#: Columns of a page that are carried on when annotations change; others are made again.
COLUMNS = 100
#: More pages than this times the number needed are rearranged.
SPARSE = 3


class Page:
    """Some bodies, ascending, and the place of their facets in the cache."""

    __slots__ = ("_cache", "_columns", "bodies", "scope")

    def __init__(self, bodies: Sequence[int], cache: Cache) -> None:
        self.bodies = array("Q", bodies)  # a fifth of the memory of a list
        self.scope = cache.new_scope()
        self._cache = cache
        self._columns: set[str] = set()

    @property
    def everything(self) -> int:
        """The set of all annotations of the page: a bit for each."""
        return (1 << len(self.bodies)) - 1

    def recall(self, facet: Hashable) -> Any:
        """A facet, or None if it is not there."""
        return self._cache.get(self.scope, b"", facet)

    def remember(self, facet: Hashable, value: Any, size_bytes: int) -> None:
        """Keep a facet for as long as there is room."""
        self._cache.put(self.scope, b"", facet, value, size_bytes)

    def column(self, name: str) -> Column | None:
        """The column of a field, if it is in memory."""
        found: Column | None = self.recall(("column", name))
        return found

    def keep_column(self, name: str, column: Column) -> None:
        """Remember a column."""
        if len(self._columns) < COLUMNS:
            self._columns.add(name)
        self.remember(("column", name), column, column.size_bytes)

    def take_columns(self, old: Page, changes: Mapping[int, bytes]) -> None:
        """Take over what another page of the same bodies has, with other annotations at some places."""
        known = {name: column for name in old._columns if (column := old.column(name)) is not None}
        if known:
            parsed = {1 << place: documents.decode(stored) for place, stored in changes.items()}
            for name, column in known.items():
                self.keep_column(name, column.replaced({bit: each.get(name) for bit, each in parsed.items()}))

    def stored(self) -> list[bytes] | None:
        """The stored annotations in the order of the bodies, if they are in memory."""
        found: list[bytes] | None = self.recall("stored")
        return found

    async def load(self, snapshot: Snapshot) -> list[bytes]:
        """The stored annotations, read from a snapshot that the page belongs to if they are not in memory."""
        found = self.stored()
        if found is None:
            values = await snapshot.read([keys.annotation(body) for body in self.bodies])
            found = [value for value in values if value is not None]
            if len(found) != len(self.bodies):
                raise AssertionError("a page does not belong to the snapshot that it was to be read from")
            self.keep(found)
        return found

    def keep(self, stored: list[bytes]) -> None:
        """Remember the stored annotations."""
        self.remember("stored", stored, sum(map(len, stored)) + 50 * len(stored))


class Pages:
    """The pages of one state, ascending."""

    def __init__(self, pages: Sequence[Page], cache: Cache) -> None:
        self.pages = pages
        self._firsts = [page.bodies[0] for page in pages]
        self._cache = cache
        self.count = sum(len(page.bodies) for page in pages)

    @classmethod
    async def build(cls, snapshot: Snapshot) -> Pages:
        """The pages of a snapshot; nothing but the ids is read."""
        bodies = [keys.body_of(key) for key in await snapshot.keys(*keys.all_annotations())]
        return cls.of(bodies, snapshot.cache)

    @classmethod
    def of(cls, bodies: Sequence[int], cache: Cache) -> Pages:
        """Pages for these bodies, which ascend."""
        return cls([Page(bodies[start : start + PAGE], cache) for start in range(0, len(bodies), PAGE)], cache)

    async def changed(self, snapshot: Snapshot, touched: Collection[int]) -> Pages:
        """The pages of another snapshot that differs by nothing but the annotations of these bodies."""
        wanted = sorted(touched)
        values = await snapshot.get_many([keys.annotation(body) for body in wanted])
        changes: dict[int, dict[int, bytes | None]] = {}
        for body, value in zip(wanted, values, strict=True):
            changes.setdefault(self._place(body), {})[body] = value
        pages: list[Page] = []
        done = 0
        for place in sorted(changes):
            pages += self.pages[done:place]
            pages += self._rewritten(place, changes[place])
            done = place + 1
        pages += self.pages[done:]
        made = Pages(pages, self._cache)
        if len(pages) > SPARSE * (-(-made.count // PAGE)) + TOGETHER:
            return Pages.of([body for page in pages for body in page.bodies], self._cache)
        return made

    def _place(self, body: int) -> int:
        return max(0, bisect_right(self._firsts, body) - 1)

    def _rewritten(self, place: int, changes: dict[int, bytes | None]) -> Iterator[Page]:
        """What becomes of a page; the annotations that did not change need not be read again."""
        old = self.pages[place] if place < len(self.pages) else None
        ids: Sequence[int] = old.bodies if old is not None else ()
        before = old.stored() if old is not None else []
        absent: list[bytes | None] = [None] * len(ids)
        merged: dict[int, bytes | None] = dict(zip(ids, before or absent, strict=True))
        gone = {body for body, value in changes.items() if value is None}
        merged.update(changes)
        bodies = sorted(body for body in merged if body not in gone)
        step = PAGE if len(bodies) > 2 * PAGE else max(1, len(bodies))
        for start in range(0, len(bodies), step):
            page = Page(bodies[start : start + step], self._cache)
            stored = [merged[body] for body in page.bodies]
            if before is not None:
                page.keep([value for value in stored if value is not None])
            if old is not None and page.bodies == ids:
                places = {bisect_left(ids, body): value for body, value in changes.items() if value is not None}
                page.take_columns(old, places)
            yield page

    def bodies(self, first: int, last: int) -> list[int]:
        """The ids from `first` to `last`, both included."""
        found: list[int] = []
        for page in self.overlapping(first, last):
            found += page.bodies[bisect_left(page.bodies, first) : bisect_right(page.bodies, last)]
        return found

    def overlapping(self, first: int, last: int) -> Sequence[Page]:
        """The pages that may hold bodies from `first` to `last`."""
        return self.pages[self._place(first) : bisect_right(self._firsts, last)]

    async def each(
        self,
        snapshot: Snapshot,
        known: Callable[[Page], T | None],
        make: Callable[[Page, list[bytes]], T],
        pages: Sequence[Page] | None = None,
    ) -> AsyncIterator[tuple[Page, T]]:
        """All pages (or some) in order, each with what is known of it, or with what is made of its annotations.

        Hands over to other requests now and then, as work on many pages takes long.
        """
        rest = iter(self.pages if pages is None else pages)
        while batch := list(islice(rest, TOGETHER)):
            found = [known(page) for page in batch]
            loads = [page.load(snapshot) for page, value in zip(batch, found, strict=True) if value is None]
            loaded = iter(await asyncio.gather(*loads) if loads else ())
            for page, value in zip(batch, found, strict=True):
                yield page, value if value is not None else make(page, next(loaded))
            await asyncio.sleep(0)
