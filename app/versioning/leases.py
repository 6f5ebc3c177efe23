"""Numbers that nobody else gets: a process leases a range from the catalog and hands it out one by one."""

from __future__ import annotations

import asyncio
import random

from app.backends.catalog import NEW, Catalog, Change, Document
from app.core.errors import Conflict

ATTEMPTS = 20


class Counter:
    """A counter in the catalog. `stride` numbers are leased at once: consecutive here, unique everywhere."""

    def __init__(self, catalog: Catalog, name: str, *, first: int, stride: int, collection: str = "counters") -> None:
        self._catalog = catalog
        self._path = f"{collection}/{name}"
        self._first = first
        self._stride = stride
        self._next = self._end = 0
        self._lock = asyncio.Lock()

    async def take(self, count: int = 1) -> int:
        """The first of `count` consecutive new numbers."""
        if self._next + count <= self._end:
            taken, self._next = self._next, self._next + count
            return taken
        async with self._lock:
            if self._next + count > self._end:
                await self._lease(max(count, self._stride))
            taken, self._next = self._next, self._next + count
            return taken

    async def next(self) -> tuple[int, Change]:
        """A new number, and the change that makes it taken, to be committed with what it is for. Without leases."""
        document = await self._look()
        number = int(document.data["next"]) if document is not None else self._first
        revision = document.revision if document is not None else NEW
        return number, Change(self._path, {"next": number + 1}, revision)

    async def _look(self) -> Document | None:
        (document,) = await self._catalog.get([self._path])
        return document

    @property
    def upcoming(self) -> int:
        """The number that this process hands out next, if it has any left."""
        return self._next or self._first

    async def _lease(self, count: int) -> None:
        for attempt in range(ATTEMPTS):
            try:
                async with self._catalog.alone(self._path):
                    document = await self._look()
                    start = int(document.data["next"]) if document is not None else self._first
                    revision = document.revision if document is not None else NEW
                    await self._catalog.commit([Change(self._path, {"next": start + count}, revision)])
            except Conflict:
                await asyncio.sleep(random.uniform(0, 0.005 * 2 ** min(attempt, 6)))
                continue
            if start != self._end:  # somebody else leased in between: leave a gap rather than go back
                self._next = start
            self._end = start + count
            return
        raise Conflict(f"the counter {self._path} is too busy")
