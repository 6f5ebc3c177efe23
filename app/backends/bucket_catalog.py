"""The catalog as one ordered map in the object store: nothing to run, and atomic across processes."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence

import orjson
import tensorstore as ts

from app.backends.catalog import NEW, Change, Document
from app.backends.ocdbt import OrderedMap, read_many
from app.backends.store import Store
from app.core.errors import Conflict, StoreUnavailable

#: How often a commit that met another one is tried again before the caller hears of it.
ATTEMPTS = 12


class BucketCatalog:
    """Documents under `doc/{collection}\\0{name}`, each with the nonce of the commit that wrote it."""

    def __init__(self, store: Store, folder: str = "catalog/") -> None:
        self._store = store
        self._map = OrderedMap(store, folder, folder)
        self._seen: tuple[bytes, ts.KvStore] | None = None

    async def token(self) -> bytes | None:
        """Bytes that change with every commit."""
        return await self._map.fingerprint() or b""

    async def get(self, paths: Sequence[str]) -> list[Document | None]:
        """The documents at these paths, all of one moment."""
        snapshot = await self._snapshot()
        if snapshot is None:
            return [None] * len(paths)
        values = await read_many(self._store, snapshot, [_key(path) for path in paths])
        return [_document(path, value) for path, value in zip(paths, values, strict=True)]

    async def list(self, collection: str) -> list[Document]:
        """All documents directly in a collection."""
        snapshot = await self._snapshot()
        if snapshot is None:
            return []
        prefix = _key(collection + "/")
        keys = await self._store.guard(snapshot.list(ts.KvStore.KeyRange(prefix, prefix[:-1] + b"\1")))
        keys = sorted(bytes(key) for key in keys)
        values = await read_many(self._store, snapshot, keys)
        names = [key[len(prefix) :].decode() for key in keys]
        found = [_document(f"{collection}/{name}", value) for name, value in zip(names, values, strict=True)]
        return [document for document in found if document is not None]

    async def commit(self, changes: Sequence[Change]) -> None:
        """Apply all changes, or none."""
        nonce = uuid.uuid4().hex
        writes = {
            _key(change.path): None if change.data is None else orjson.dumps({"r": nonce, "d": change.data})
            for change in changes
        }
        for attempt in range(ATTEMPTS):
            present = dict(zip(writes, await self._read(list(writes)), strict=True))
            if attempt and any(_revision(present[key]) == nonce for key, value in writes.items() if value is not None):
                return  # the reply of an earlier attempt was lost, not the commit
            for change in changes:
                if change.revision is not None and _revision(present[_key(change.path)]) != change.revision:
                    raise Conflict(f"catalog document {change.path} was changed by somebody else")
            try:
                async with self._store.exclusively(self._map.lock_path):
                    await self._map.commit(writes, unchanged=present)
                return
            except (Conflict, StoreUnavailable) as error:
                if attempt == ATTEMPTS - 1 or (isinstance(error, StoreUnavailable) and attempt > 1):
                    raise
                await asyncio.sleep(random.uniform(0, 0.01 * 2 ** min(attempt, 6)))

    async def close(self) -> None:
        """Nothing is held open."""

    async def _read(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        snapshot = await self._snapshot()
        return await read_many(self._store, snapshot, keys) if snapshot is not None else [None] * len(keys)

    async def _snapshot(self) -> ts.KvStore | None:
        fingerprint = await self._map.fingerprint()
        if fingerprint is None:
            return None
        if self._seen is None or self._seen[0] != fingerprint:
            self._seen = fingerprint, await self._map.at(await self._map.generation())
        return self._seen[1]


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
