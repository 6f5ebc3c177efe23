"""What a reader sees: one tree at one generation; and what a mutation sees: the same, with its own writes on top."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from app.backends.view import Range, View
from app.versioning.cache import Cache

#: Values up to this size are remembered by the process; larger ones stay in TensorStore's cache.
CACHED_VALUE_BYTES = 1 << 20
#: What begins so is no key of a tree.
MEMO = b"memo/"
#: And what begins so is true in every generation of a tree.
LASTING = b"memo/lasting/"
_MISSING = object()


class Reader(Protocol):
    """Ordered keys and values of one moment."""

    async def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of several keys in the order asked."""

    async def keys(self, first: bytes, last: bytes) -> list[bytes]:
        """All keys k with first <= k < last, ascending."""

    async def keys_of(self, ranges: Sequence[Range]) -> list[list[bytes]]:
        """The keys of several ranges, in the order asked; the lists are not to be changed."""

    def recent(self, range_: Range) -> list[bytes]:
        """Some of the keys of a range, ascending: those that are known to be there without reading."""

    def recall(self, key: bytes, facet: Any) -> Any:
        """What the process remembers under a name, or None.

        Of a key's value it is true. Under a name that begins with `MEMO` it may be of an earlier generation of the
        same tree: whoever remembers something there must be able to tell, and to bring it up to date. What is under one
        that begins with `LASTING` may be of any generation, and earlier ones find it too.
        """


class Snapshot:
    """A tree at one generation. It never changes, however much is written meanwhile.

    `scope` is the part of the process's cache that holds this generation's values, None once a newer generation
    took it over. `memos` is the part for what lies under `MEMO`: it outlives generations, whoever made them, and is for
    the newest only, save for what lies under `LASTING`.
    """

    def __init__(
        self,
        view: View | None,
        generation: int,
        cache: Cache,
        scope: int,
        memos: int | None = None,
        lasting: int | None = None,
    ) -> None:
        #: The map itself at this generation; None if there is none yet.
        self.view = view
        self.generation = generation
        self.cache = cache
        self.scope: int | None = scope
        self.memos: int | None = memos if memos is not None else scope
        self._lasting = lasting if lasting is not None else self.memos

    async def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        if self.view is None:
            return None
        scope = self.scope
        if scope is not None:
            known = self.cache.get(scope, key, "value")
            if known is not None:
                return None if known is _MISSING else bytes(known)
        value = await self.view.get(key)
        self.know(key, value)
        return value

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of several keys in the order asked."""
        if self.view is None:
            return [None] * len(keys)
        found: list[Any] = [self.recall(key, "value") for key in keys]
        absent = [index for index, value in enumerate(found) if value is None]
        if absent:
            values = await self.view.get_many([keys[index] for index in absent])
            for index, value in zip(absent, values, strict=True):
                self.know(keys[index], value)
                found[index] = value
        return [None if value is _MISSING else value for value in found]

    async def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys of which the caller keeps what it needs: they are not remembered here as well."""
        return [None] * len(keys) if self.view is None else await self.view.get_many(keys)

    async def keys(self, first: bytes, last: bytes) -> list[bytes]:
        """All keys k with first <= k < last, ascending."""
        return [] if self.view is None else await self.view.keys(first, last)

    async def keys_of(self, ranges: Sequence[Range]) -> list[list[bytes]]:
        """The keys of several ranges, in the order asked; the lists are not to be changed."""
        return [[] for _ in ranges] if self.view is None else await self.view.keys_of(ranges)

    def recent(self, range_: Range) -> list[bytes]:
        """Some of the keys of a range, ascending: those that are known to be there without reading."""
        return [] if self.view is None else self.view.recent(range_)

    async def items(self, first: bytes, last: bytes) -> list[tuple[bytes, bytes]]:
        """All keys and values of a range, ascending."""
        keys = await self.keys(first, last)
        values = await self.get_many(keys)
        return [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]

    def recall(self, key: bytes, facet: Any) -> Any:
        """A facet of a key's value remembered for this generation, or None."""
        scope = self._memo_scope(key) if key.startswith(MEMO) else self.scope
        return None if scope is None else self.cache.get(scope, key, facet)

    def remember(self, key: bytes, facet: Any, value: Any, size_bytes: int) -> None:
        """Remember a facet of a key's value for as long as the value stays."""
        scope = self._memo_scope(key) if key.startswith(MEMO) else self.scope
        if scope is not None:
            self.cache.put(scope, key, facet, value, size_bytes)

    def _memo_scope(self, key: bytes) -> int | None:
        return self._lasting if key.startswith(LASTING) else self.memos

    def know(self, key: bytes, value: bytes | None) -> None:
        """Remember what the value of a key is, or that there is none."""
        if value is None:
            self.remember(key, "value", _MISSING, 0)
        elif len(value) <= CACHED_VALUE_BYTES:
            self.remember(key, "value", value, len(value))


class Overlay:
    """A snapshot with staged writes on top; what a mutation reads and writes.

    Overlays stack: each mutation of a batch has its own, laid over those that succeeded before it.
    """

    def __init__(self, below: Reader) -> None:
        self._below = below
        self.writes: dict[bytes, bytes | None] = {}
        #: Keys that get what they hold in another snapshot of the instance, without its being read.
        self.copies: dict[bytes, Snapshot] = {}
        self.ranges: list[tuple[bytes, bytes]] = []
        self._staged_keys: list[bytes] | None = None

    def put(self, key: bytes, value: bytes) -> None:
        """Stage a value."""
        if self.writes.get(key) is None:
            self._staged_keys = None
        self.writes[key] = value
        if self.copies:
            self.copies.pop(key, None)

    def copy(self, key: bytes, source: Snapshot) -> None:
        """Stage for a key what it holds in a snapshot of another version of the instance, where it must be there."""
        self.writes.pop(key, None)
        self.copies[key] = source
        self._staged_keys = None

    def delete(self, key: bytes) -> None:
        """Stage the removal of a key, whether it is there or not."""
        self.writes[key] = None
        if self.copies.pop(key, None):
            self._staged_keys = None

    def delete_range(self, first: bytes, last: bytes) -> None:
        """Stage the removal of all keys k with first <= k < last."""
        if first >= last:
            return
        self.ranges.append((first, last))
        for staged in (self.writes, self.copies):
            for key in [key for key in staged if first <= key < last]:
                del staged[key]
        self._staged_keys = None

    async def get(self, key: bytes) -> bytes | None:
        """The value of a key as this mutation has left it."""
        if key in self.writes:
            return self.writes[key]
        if key in self.copies:
            return await self.copies[key].get(key)
        if self._is_removed(key):
            return None
        return await self._below.get(key)

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of several keys in the order asked."""
        if self.copies:
            return [await self.get(key) for key in keys]
        if not self.writes and not self.ranges:
            return await self._below.get_many(keys)
        below = [key for key in keys if key not in self.writes and not self._is_removed(key)]
        found: Mapping[bytes, bytes | None] = dict(
            zip(below, await self._below.get_many(below) if below else [], strict=True)
        )
        return [self.writes[key] if key in self.writes else found.get(key) for key in keys]

    async def keys(self, first: bytes, last: bytes) -> list[bytes]:
        """All keys of a range as this mutation has left them, ascending."""
        return self._with_staged(await self._below.keys(first, last), first, last)

    async def keys_of(self, ranges: Sequence[Range]) -> list[list[bytes]]:
        """The keys of several ranges, in the order asked; the lists are not to be changed."""
        found = await self._below.keys_of(ranges)
        return [self._with_staged(keys, *range_) for keys, range_ in zip(found, ranges, strict=True)]

    def recent(self, range_: Range) -> list[bytes]:
        """Some of the keys of a range, ascending: those that are known to be there without reading."""
        return self._with_staged(self._below.recent(range_), *range_)

    def _with_staged(self, below: list[bytes], first: bytes, last: bytes) -> list[bytes]:
        found = [
            key for key in below if key not in self.writes and key not in self.copies and not self._is_removed(key)
        ]
        if self._staged_keys is None:
            self._staged_keys = sorted(
                [*self.copies, *(key for key, value in self.writes.items() if value is not None)]
            )
        staged = self._staged_keys
        between = staged[bisect_left(staged, first) : bisect_left(staged, last)]
        present = [key for key in between if key in self.copies or self.writes[key] is not None]
        return sorted(found + present) if present else found

    def recall(self, key: bytes, facet: Any) -> Any:
        """What the process remembers of the snapshot below, unless this mutation has changed it."""
        if key in self.writes or key in self.copies or self._is_removed(key):
            return None
        return self._below.recall(key, facet)

    def is_staged(self, key: bytes) -> bool:
        """Whether this mutation, or one before it in its batch, has changed a key."""
        below = self._below
        return key in self.writes or self._is_removed(key) or (isinstance(below, Overlay) and below.is_staged(key))

    def absorb(self, above: Overlay) -> None:
        """Take over what a successful mutation staged on top of this overlay."""
        for first, last in above.ranges:
            self.delete_range(first, last)
        if self.copies or above.copies:
            for key in above.writes:
                self.copies.pop(key, None)
            for key in above.copies:
                self.writes.pop(key, None)
            self.copies.update(above.copies)
        self.writes.update(above.writes)
        self._staged_keys = None

    def _is_removed(self, key: bytes) -> bool:
        return bool(self.ranges) and any(first <= key < last for first, last in self.ranges)
