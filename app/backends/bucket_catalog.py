"""The catalog as one ordered map in the object store: nothing to run, and atomic across processes."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.backends.catalog import NEW, Change, Document, Receipt
from app.backends.ordered_map import OrderedMap
from app.backends.store import Store
from app.backends.view import View
from app.core.errors import Conflict, StoreUnavailable

#: Documents are small and change one by one: a commit rewrites one node of each level.
NODE_BYTES = 8 << 10
#: Documents that are known without reading, before all are forgotten.
KNOWN_KEYS = 1000
#: How often a commit that met another one is tried again before the caller hears of it.
ATTEMPTS = 12
#: A store that fails is asked so often, and not again once its time-out has passed since the first attempt.
FAILURES = 3
#: A commit leaves a mark, by which it is known if its answer was lost; marks of the hours before the last one go.
MARK = b"commit/"
MARK_SECONDS = 3600
COUNTERS = "counters/"


class _Stale(Conflict):
    """A revision is not the one given: trying again is of no use."""


@dataclass(frozen=True)
class _Seen:
    """The catalog at one moment, and what is known of its keys without reading them again."""

    fingerprint: bytes
    view: View
    values: dict[bytes, bytes | None] = field(default_factory=dict)

    def after(self, fingerprint: bytes, view: View, writes: Mapping[bytes, bytes | None]) -> _Seen:
        """The next moment: nothing but these writes has changed."""
        values = self.values if len(self.values) < KNOWN_KEYS else {}
        return _Seen(fingerprint, view, {**values, **writes})


class BucketCatalog:
    """Documents under `doc/{collection}\\0{name}`, each with the nonce of the commit that wrote it as its revision.

    Those of the collection `counters` change often and alone: each is an object of its own, written with a condition,
    or in a folder, where a small commit costs less than that, a key of a map of their own.
    """

    def __init__(self, store: Store, folder: str = "catalog/") -> None:
        self._store = store
        self._folder = folder
        self._map = OrderedMap(store, folder, folder, NODE_BYTES)
        counts = f"{folder}{COUNTERS}"
        self._counts = OrderedMap(store, counts, counts, NODE_BYTES) if store.scheme == "file" else None
        #: The task that has the counters for itself.
        self._alone: asyncio.Task[Any] | None = None
        self._seen: _Seen | None = None
        #: The hour in which this process last removed the marks of earlier ones.
        self._swept = 0

    async def token(self) -> bytes | None:
        """Bytes that change with every commit, but for those of counters."""
        return await self._map.fingerprint() or b""

    async def counters_token(self) -> bytes | None:
        """Bytes that change with every change of a counter; None where that cannot be told cheaply."""
        return None if self._counts is None else await self._counts.fingerprint() or b""

    async def get(self, paths: Sequence[str]) -> list[Document | None]:
        """The documents at these paths, all of one moment."""
        if len(paths) == 1 and _is_counter(paths[0]):
            return [_document(paths[0], await self._counter(paths[0]))]
        values = await self._read(await self._look(), [_key(path) for path in paths])
        return [_document(path, value) for path, value in zip(paths, values, strict=True)]

    async def list(self, collection: str) -> list[Document]:
        """All documents directly in a collection."""
        seen = await self._look()
        if seen is None:
            return []
        prefix = _key(collection + "/")
        keys = await seen.view.keys(prefix, prefix[:-1] + b"\1")
        values = await seen.view.get_many(keys)
        names = [key[len(prefix) :].decode() for key in keys]
        found = [_document(f"{collection}/{name}", value) for name, value in zip(names, values, strict=True)]
        return [document for document in found if document is not None]

    async def commit(self, changes: Sequence[Change]) -> Receipt:
        """Apply all changes, or none."""
        if not changes:
            return Receipt()
        if len(changes) == 1 and _is_counter(changes[0].path):
            return await self._count(changes[0])
        nonce = uuid.uuid4().hex
        hour = int(time.time()) // MARK_SECONDS
        mark = MARK + hour.to_bytes(8, "big") + nonce.encode()
        old = [] if hour == self._swept else [(MARK, MARK + (hour - 1).to_bytes(8, "big"))]
        writes = {
            _key(change.path): None if change.data is None else orjson.dumps({"r": nonce, "d": change.data})
            for change in changes
        }
        failures, begun = 0, time.monotonic()
        for attempt in range(ATTEMPTS):
            try:
                async with self._map.turn():
                    seen = await self._look()
                    if attempt and (await self._read(seen, [mark]))[0] is not None:
                        return Receipt(nonce)  # the answer of an earlier attempt was lost, not the commit
                    asked = {_key(change.path): change for change in changes if change.revision is not None}
                    unchanged = dict(zip(asked, await self._read(seen, [*asked]), strict=True))
                    for key, change in asked.items():
                        if _revision(unchanged[key]) != change.revision:
                            raise _Stale(f"catalog document {change.path} was changed by somebody else")
                    await self._map.commit({**writes, mark: b""}, old, unchanged=unchanged, in_turn=True)
                    self._swept = hour
                    return await self._succeed(nonce, seen, writes)
            except _Stale:
                raise
            except Conflict:
                if attempt == ATTEMPTS - 1:
                    raise
            except StoreUnavailable:
                failures += 1
                if failures == FAILURES or time.monotonic() - begun > self._store.options.timeout_seconds:
                    raise
            await asyncio.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))
        raise AssertionError("the last attempt raises")

    @asynccontextmanager
    async def alone(self, path: str) -> AsyncIterator[None]:
        """In a folder, keep other processes and tasks from changing counters meanwhile."""
        if self._counts is None:
            yield
            return
        async with self._counts.turn():
            self._alone = asyncio.current_task()
            try:
                yield
            finally:
                self._alone = None

    async def _counter(self, path: str) -> bytes | None:
        if self._counts is None:
            return await self._store.read(self._folder + path)
        fingerprint = await self._counts.fingerprint()
        if fingerprint is None:
            return None
        return await (await self._counts.at(await self._counts.generation(fingerprint))).get(path.encode())

    async def _count(self, change: Change) -> Receipt:
        """Replace a counter."""
        path, nonce = change.path, uuid.uuid4().hex
        if change.data is None:
            raise AssertionError("counters are never removed")
        value = orjson.dumps({"r": nonce, "d": change.data})
        for _ in range(FAILURES):
            present = await self._counter(path)
            if present is not None and _revision(present) == nonce:
                return Receipt(nonce)  # the answer of an earlier attempt was lost
            if change.revision is not None and _revision(present) != change.revision:
                break
            with suppress(StoreUnavailable, Conflict):
                if await self._replace(path, value, present):
                    return Receipt(nonce)
        raise Conflict(f"catalog document {path} was changed by somebody else, or its store does not answer")

    async def _replace(self, path: str, value: bytes, present: bytes | None) -> bool:
        if self._counts is None:
            return await self._store.replace(self._folder + path, value, present)
        key, in_turn = path.encode(), self._alone is not None and self._alone is asyncio.current_task()
        await self._counts.commit({key: value}, unchanged={key: present}, in_turn=in_turn)
        return True

    async def close(self) -> None:
        """Nothing is held open."""

    async def _succeed(self, nonce: str, seen: _Seen | None, writes: Mapping[bytes, bytes | None]) -> Receipt:
        """After a commit on what was seen: whoever holds the lock of a folder is alone, and knows the outcome."""
        if self._store.scheme != "file" or seen is None:
            return Receipt(nonce)
        with suppress(StoreUnavailable):  # what has been committed is committed
            fingerprint = await self._map.fingerprint()
            if fingerprint is not None:
                self._seen = seen.after(fingerprint, await self._map.at(seen.view.generation + 1), writes)
                return Receipt(nonce, seen.fingerprint, fingerprint)
        return Receipt(nonce)

    async def _read(self, seen: _Seen | None, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        if seen is None:
            return [None] * len(keys)
        unknown = [key for key in keys if key not in seen.values]
        if unknown:
            values = await seen.view.get_many(unknown)
            seen.values.update((key, value) for key, value in zip(unknown, values, strict=True) if key[:4] == b"doc/")
            found = dict(zip(unknown, values, strict=True))
            return [found[key] if key in found else seen.values[key] for key in keys]
        return [seen.values[key] for key in keys]

    async def _look(self) -> _Seen | None:
        fingerprint = await self._map.fingerprint()
        if fingerprint is None:
            return None
        if self._seen is None or self._seen.fingerprint != fingerprint:
            generation = await self._map.generation(fingerprint)
            self._seen = _Seen(fingerprint, await self._map.at(generation))
        return self._seen


def _is_counter(path: str) -> bool:
    return path.startswith(COUNTERS)


def _key(path: str) -> bytes:
    collection, _, name = path.rpartition("/")
    return b"doc/" + collection.encode() + b"\0" + name.encode()


def _revision(value: bytes | None) -> str:
    return NEW if value is None else str(orjson.loads(value)["r"])


def _document(path: str, value: bytes | None) -> Document | None:
    if value is None:
        return None
    stored = orjson.loads(value)
    return Document(path, stored["d"], stored["r"])
