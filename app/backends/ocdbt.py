"""An ordered, transactional, copy-on-write key-value map in an object store: TensorStore's OCDBT driver.

Format: https://google.github.io/tensorstore/kvstore/ocdbt. The manifest names the newest generation; a map opened at
one generation is a snapshot that never changes. Manifests and nodes may live in different folders, so that several
maps (the versions of an instance) share nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorstore as ts

from app.backends.store import Store
from app.core.errors import Conflict, StoreUnavailable

MANIFEST = "manifest.ocdbt"

#: Values up to this size live inside B+tree nodes, larger ones in data files of their own.
MAX_INLINE_VALUE_BYTES = 1024
#: Small nodes make small commits: see docs/decisions/0003.
MAX_NODE_BYTES = 64 << 10


class OrderedMap:
    """One OCDBT database: nodes below `base`, manifest below `manifest` (both end with a slash)."""

    def __init__(self, store: Store, base: str, manifest: str) -> None:
        self.store = store
        self._base = base
        self._manifest = manifest
        # Google takes about one update a second of one object: there every generation gets a manifest of its own.
        self._numbered = store.scheme == "gs"
        self._newest = "manifest."
        self._spec: dict[str, Any] = {
            "driver": "ocdbt",
            "base": store.spec(base),
            "manifest": store.spec(manifest),
            "config": {
                "max_inline_value_bytes": MAX_INLINE_VALUE_BYTES,
                "max_decoded_node_bytes": MAX_NODE_BYTES,
                "manifest_kind": "numbered" if self._numbered else "single",
            },
        }
        self._writable: ts.KvStore | None = None

    @property
    def lock_path(self) -> str:
        """Where processes of one machine meet before they commit."""
        return self._manifest + ".lock"

    async def fingerprint(self) -> bytes | None:
        """Bytes that change with every commit; None while the map does not exist."""
        if self._numbered:
            names = await self._manifests()
            # The first object alone is a map whose making was cut short.
            return names[-1].encode() if len(names) > 1 and names[0] == MANIFEST else None
        return await self.store.read(self._manifest + MANIFEST)

    async def _manifests(self) -> list[str]:
        """Names of the manifest objects; the newest generation last."""
        folder = await self.store.folder(self._manifest)
        found = await self.store.guard(folder.list(ts.KvStore.KeyRange(self._newest, "manifest/")))
        names = sorted((name.decode() for name in found), key=lambda name: (name != MANIFEST, name))
        if len(names) > 1:
            self._newest = names[-1]  # the next look begins here, not at the first generation
        return names

    def fingerprint_of(self, generation: int) -> bytes | None:
        """The fingerprint of a generation while it is the newest; None where only the manifest can tell."""
        return f"manifest.{generation:016x}".encode() if self._numbered else None

    async def generation(self, fingerprint: bytes) -> int:
        """The newest generation; not older than this fingerprint, which was just taken."""
        if self._numbered:
            return int(fingerprint.rpartition(b".")[2], 16)
        folder = await self.store.folder(self._manifest)
        manifest = await self.store.guard(ts.ocdbt.dump(folder, context=self.store.context))
        return int(manifest["versions"][-1]["generation_number"])

    async def at(self, generation: int) -> ts.KvStore:
        """The map as it was at a generation; reads of it never look at the manifest again."""
        spec = {**self._spec, "version": generation}
        return await self.store.guard(ts.KvStore.open(spec, context=self.store.context))

    async def commit(
        self,
        writes: Mapping[bytes, bytes | None],
        ranges: Sequence[tuple[bytes, bytes]] = (),
        *,
        unchanged: Mapping[bytes, bytes | None],
    ) -> None:
        """Apply writes (None deletes) after removing key ranges, all or nothing.

        Refused with `Conflict` unless every key of `unchanged` still has the value given at the moment of the commit.
        """
        if self._writable is None:
            self._writable = await self.store.guard(ts.KvStore.open(self._spec, context=self.store.context))
        transaction = ts.Transaction(atomic=True, repeatable_read=True)
        try:
            staged = self._writable.with_transaction(transaction)
            values = await read_many(self.store, staged, unchanged)
            for (key, expected), value in zip(unchanged.items(), values, strict=True):
                if value != expected:
                    raise Conflict(f"{key!r} was changed by another writer")
            for first, last in ranges:
                if first < last:  # for TensorStore a range to the empty key is one without an end
                    await self.store.guard(staged.delete_range(ts.KvStore.KeyRange(first, last)))
            for key, value in writes.items():
                # Staging is synchronous; the answers of one atomic transaction come with its commit.
                staged.write(key, value)
            await self.store.guard(transaction.commit_async())
        finally:
            transaction.abort()

    async def branch_from(self, other: OrderedMap) -> None:
        """Start this map as a copy of another: one small manifest, create-only, so racing branches agree."""
        # The first object makes a map exist, so it comes last.
        names = (await other._manifests())[-1:] if self._numbered else []
        for name in [*names, MANIFEST]:
            manifest = await self.store.read(other._manifest + name)
            if manifest is None:
                raise StoreUnavailable(f"{other._manifest}{name} is gone")
            await self.store.create(self._manifest + name, manifest)

    async def create_empty(self) -> None:
        """Start this map without keys of anybody's; `Conflict` if it is there already."""
        await self.commit({b"state/created": b""}, unchanged={b"state/created": None})


async def _all(answers: Sequence[Any]) -> list[Any]:
    """Answers under way, waited for from the last: most of the others have then come without an await of their own."""
    for answer in reversed(answers):
        if not answer.done():
            await answer
    return [answer.result() for answer in answers]


async def read_many(store: Store, kvstore: ts.KvStore, keys: Iterable[bytes]) -> list[bytes | None]:
    """The values of several keys of one snapshot, None where absent, read at once."""
    answers = await store.guard(_all([kvstore.read(key) for key in keys]))
    return [bytes(answer.value) if answer.state == "value" else None for answer in answers]
