"""Which slabs of an ingest are done, so that one that was interrupted goes on where it stopped.

The record is a small JSON document: `ingest/{key}.json` in the store itself, or in the user's state folder when the
data go over HTTP. It is written after the slabs that it names. What a kill loses of it is written a second time, which
changes nothing: a write replaces a block and its counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from typing import Any

from app.backends.store import Store

#: The record is written no more often than this.
INTERVAL_SECONDS = 0.25

Extents = tuple[list[int], list[int]]


def user_store() -> Store:
    """Where this user's records lie when the data go to a server."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Store(os.path.join(home, "dvid-cloud"))


def key_of(parts: Sequence[Any]) -> str:
    """The name of a record: what is written where, and how it is cut."""
    return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=12).hexdigest()


class Progress:
    """The record of one ingest."""

    def __init__(self, store: Store, key: str, slabs: int, title: str) -> None:
        self._store = store
        self._name = f"{key}.json"
        self.slabs = slabs
        self._title = title
        self._saved = 0.0
        self.done: set[int] = set()
        #: The extents of the instance before the first slab was written.
        self.before: Extents | None = None
        self.is_new = True

    async def load(self) -> None:
        """Take up what an earlier run recorded."""
        folder = await self._store.folder("ingest/")
        answer = await self._store.guard(folder.read(self._name))
        if answer.state != "value":
            return
        try:
            stored = json.loads(answer.value)
            done = {index for first, last in stored["done"] for index in range(first, last + 1)}
            before = stored["before"]
            is_ours = stored["slabs"] == self.slabs
        except (ValueError, KeyError, TypeError):
            return  # a damaged record is no record
        if is_ours:
            self.done, self.is_new = done, False
            self.before = (before[0], before[1]) if before else None

    async def begin(self, before: Extents | None) -> None:
        """Start a new record."""
        self.done, self.before, self.is_new = set(), before, False
        await self.save()

    async def finished(self, slab: int) -> None:
        """Note that a slab was written."""
        self.done.add(slab)
        if time.monotonic() - self._saved > INTERVAL_SECONDS:
            await self.save()

    async def save(self) -> None:
        """Write the record."""
        self._saved = time.monotonic()
        record = {"title": self._title, "slabs": self.slabs, "before": self.before, "done": ranges(self.done)}
        await self._store.write(f"ingest/{self._name}", json.dumps(record).encode())


def ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """Numbers as ranges, first and last included."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found
