"""An ordered, transactional, copy-on-write key-value map in an object store: TensorStore's OCDBT driver.

Format: https://google.github.io/tensorstore/kvstore/ocdbt. The manifest names the newest generation; a map opened at
one generation is a snapshot that never changes. Manifests and nodes may live in different folders, so that several
maps (the versions of an instance) share nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorstore as ts

from app.backends import files
from app.backends.store import Store
from app.backends.view import read_many, together
from app.core.errors import Conflict, StoreUnavailable

MANIFEST = "manifest.ocdbt"

#: Values up to this size live inside B+tree nodes, larger ones in data files of their own.
MAX_INLINE_VALUE_BYTES = 1024
#: Small nodes make quick commits, large ones fewer requests: see docs/decisions/0003.
LOCAL_NODE_BYTES, REMOTE_NODE_BYTES = 8 << 10, 64 << 10


#: What a key holds, as far as a node tells: the bytes of a small value, or the place of a large one.
Held = bytes | str


@dataclass(frozen=True)
class Node:
    """A node of a map's B+tree. Two maps that share it agree on all that is below it.

    `location` is where its bytes lie, `height` how far it stands above the leaves, `prefix` what all keys in it begin
    with and do not repeat, `first` and `last` (exclusive; None: no end) the keys that it may hold.
    """

    location: str
    height: int
    prefix: bytes = b""
    first: bytes = b""
    last: bytes | None = None


class OcdbtMap:
    """One OCDBT database: nodes below `base`, manifest below `manifest` (both end with a slash)."""

    def __init__(self, store: Store, base: str, manifest: str, node_bytes: int = 0) -> None:
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
        }
        #: What a new map is made with; later, and in branches, its manifest tells.
        self._config = {
            "max_inline_value_bytes": MAX_INLINE_VALUE_BYTES,
            "max_decoded_node_bytes": node_bytes or (REMOTE_NODE_BYTES if store.is_remote else LOCAL_NODE_BYTES),
            "manifest_kind": "numbered" if self._numbered else "single",
        }
        self._writable: ts.KvStore | None = None

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

    async def root(self, generation: int) -> Node | None:
        """The root of a generation that is among the newest ones; None if it has no keys."""
        folder = await self.store.folder(self._manifest)
        manifest = await self.store.guard(ts.ocdbt.dump(folder, context=self.store.context))
        for version in manifest["versions"]:
            if version["generation_number"] == generation:
                location = version["root"].get("location")
                return None if location is None else Node(location, version["root_height"])
        raise StoreUnavailable(f"generation {generation} of {self._manifest} is not among the newest")

    async def figures(self) -> dict[str, int]:
        """How much the newest generation holds: keys, bytes of nodes, bytes of values outside of nodes."""
        folder = await self.store.folder(self._manifest)
        manifest = await self.store.guard(ts.ocdbt.dump(folder, context=self.store.context))
        counted = manifest["versions"][-1]["root"]["statistics"]
        return {
            "Keys": counted["num_keys"],
            "NodeBytes": counted["num_tree_bytes"],
            "ValueBytes": counted["num_indirect_value_bytes"],
        }

    async def children(self, node: Node) -> list[Node]:
        """The nodes below one that is not a leaf, in order."""
        entries = await self._entries(node)
        firsts = [node.first, *[node.prefix + entry["key"] for entry in entries[1:]]]
        return [
            Node(entry["location"], node.height - 1, node.prefix + entry["subtree_common_prefix"], first, last)
            for entry, first, last in zip(entries, firsts, [*firsts[1:], node.last], strict=True)
        ]

    async def leaf(self, node: Node) -> list[tuple[bytes, Held]]:
        """The keys of a leaf and what they hold, in order."""
        return [
            (node.prefix + entry["key"], entry["inline_value"] if "inline_value" in entry else entry["indirect_value"])
            for entry in await self._entries(node)
        ]

    async def _entries(self, node: Node) -> list[dict[str, Any]]:
        folder = await self.store.folder(self._base)
        dumped = await self.store.guard(ts.ocdbt.dump(folder, node.location, context=self.store.context))
        return list(dumped["entries"])

    async def at(self, generation: int) -> ts.KvStore:
        """The map as it was at a generation; reads of it never look at the manifest again."""
        spec = {**self._spec, "version": generation}
        return await self.store.guard(ts.KvStore.open(spec, context=self.store.context))

    async def commit(
        self,
        writes: Mapping[bytes, bytes | None],
        ranges: Sequence[tuple[bytes, bytes]] = (),
        copies: Mapping[bytes, ts.KvStore] | None = None,
        *,
        unchanged: Mapping[bytes, bytes | None],
    ) -> None:
        """Apply writes (None deletes) after removing key ranges, all or nothing.

        `copies` are keys that get what they hold in other maps with the same base, by reference.
        Refused with `Conflict` unless every key of `unchanged` still has the value given at the moment of the commit.
        """
        if self.store.scheme == "file":
            files.empty_unfinished(self.store.prefix + self._manifest + MANIFEST)
        if self._writable is None:
            is_new = await self.fingerprint() is None
            spec = {**self._spec, "config": self._config} if is_new else self._spec
            self._writable = await self.store.guard(ts.KvStore.open(spec, context=self.store.context))
        transaction = ts.Transaction(atomic=True, repeatable_read=True)
        try:
            staged = self._writable.with_transaction(transaction)
            values = await read_many(self.store, staged, list(unchanged))
            for (key, expected), value in zip(unchanged.items(), values, strict=True):
                if value != expected:
                    raise Conflict(f"{key!r} was changed by another writer")
            for first, last in ranges:
                if first < last:  # for TensorStore a range to the empty key is one without an end
                    await self.store.guard(staged.delete_range(ts.KvStore.KeyRange(first, last)))
            if copies:
                await self.store.guard(together([_copy(source, staged, key) for key, source in copies.items()]))
            for key, value in writes.items():
                # Staging is synchronous; the answers of one atomic transaction come with its commit.
                staged.write(key, value)
            await self.store.guard(transaction.commit_async())
            self.store.traffic.written(writes, writes.values())
        finally:
            transaction.abort()
            self.store.changed()

    async def branch_from(self, other: OcdbtMap) -> None:
        """Start this map as a copy of another: one small manifest, create-only, so racing branches agree."""
        # The first object makes a map exist, so it comes last.
        names = (await other._manifests())[-1:] if self._numbered else []
        for name in [*names, MANIFEST]:
            await self.store.copy(other._manifest + name, self._manifest + name)

    async def create_empty(self) -> None:
        """Start this map without keys of anybody's; `Conflict` if it is there already."""
        await self.commit({b"state/created": b""}, unchanged={b"state/created": None})


def _copy(source: ts.KvStore, target: ts.KvStore, key: bytes) -> Any:
    return source.experimental_copy_range_to(target, source_range=ts.KvStore.KeyRange(key, key + b"\0"))
