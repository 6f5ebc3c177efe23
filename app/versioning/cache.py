"""What a process remembers of its trees: one bounded cache of values and of what was computed from them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import Any

#: What an entry costs beside its bytes: the key's object, the dictionary, the links of the order.
ENTRY_BYTES = 400


logger = logging.getLogger(__name__)


class _Entry:
    """The facets of one key, each with its size, and the size of all."""

    __slots__ = ("facets", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.facets: dict[Any, tuple[Any, int]] = {}
        self.size_bytes = size_bytes


class Cache:
    """Least recently used entries up to a number of bytes.

    An entry belongs to a scope (a tree in one state), has a key of that tree, and holds several facets of the same
    value: the stored bytes, their decoded form, an encoded answer. A write of the key drops them together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._entries: OrderedDict[tuple[int, bytes], _Entry] = OrderedDict()
        self.size_bytes = 0
        self.gets = self.hits = self.evictions = 0
        self._scopes = 0

    def new_scope(self) -> int:
        """A number under which nothing is remembered yet."""
        self._scopes += 1
        return self._scopes

    def get(self, scope: int, key: bytes, facet: Any) -> Any:
        """A remembered facet, or None."""
        self.gets += 1
        entry = self._entries.get((scope, key))
        if entry is None:
            return None
        self._entries.move_to_end((scope, key))
        found = entry.facets.get(facet)
        if found is None:
            return None
        self.hits += 1
        return found[0]

    @property
    def count(self) -> int:
        """How many keys something is remembered of."""
        return len(self._entries)

    def put(self, scope: int, key: bytes, facet: Any, value: Any, size_bytes: int) -> None:
        """Remember a facet, forgetting the least recently used entries when there is no room."""
        if size_bytes > self._limit // 2:
            logger.warning("%d bytes are too many to remember: cache_bytes is only %d", size_bytes, self._limit)
            return  # one giant must not drive out everything else
        place = scope, key
        entry = self._entries.get(place)
        if entry is None:
            entry = self._entries[place] = _Entry(ENTRY_BYTES + len(key))
            self.size_bytes += entry.size_bytes
        else:
            self._entries.move_to_end(place)
        known = entry.facets.get(facet)
        grown = size_bytes - (known[1] if known is not None else 0)
        entry.facets[facet] = value, size_bytes
        entry.size_bytes += grown
        self.size_bytes += grown
        while self.size_bytes > self._limit and self._entries:
            _, oldest = self._entries.popitem(last=False)
            self.size_bytes -= oldest.size_bytes
            self.evictions += 1

    def drop(self, scope: int, key: bytes) -> bool:
        """Forget everything about one key; whether there was anything."""
        entry = self._entries.pop((scope, key), None)
        if entry is not None:
            self.size_bytes -= entry.size_bytes
        return entry is not None
