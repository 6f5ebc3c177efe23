"""What a process remembers of its trees: one bounded cache of values and of what was computed from them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

#: What an entry costs beside its bytes: the key, the dictionary, the links of the order.
ENTRY_BYTES = 400


class Cache:
    """Least recently used entries up to a number of bytes.

    An entry belongs to a scope (a tree in one state), has a key of that tree, and holds several facets of the same
    value: the stored bytes, their decoded form, an encoded answer. A write of the key drops them together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._entries: OrderedDict[tuple[int, bytes], tuple[dict[Any, Any], list[int]]] = OrderedDict()
        self.size_bytes = 0
        self._scopes = 0

    def new_scope(self) -> int:
        """A number under which nothing is remembered yet."""
        self._scopes += 1
        return self._scopes

    def get(self, scope: int, key: bytes, facet: Any) -> Any:
        """A remembered facet, or None."""
        entry = self._entries.get((scope, key))
        if entry is None:
            return None
        self._entries.move_to_end((scope, key))
        return entry[0].get(facet)

    def put(self, scope: int, key: bytes, facet: Any, value: Any, size_bytes: int) -> None:
        """Remember a facet, forgetting the least recently used entries when there is no room."""
        entry = self._entries.get((scope, key))
        if entry is None:
            entry = self._entries[scope, key] = ({}, [ENTRY_BYTES])
            self.size_bytes += ENTRY_BYTES
        if facet not in entry[0]:
            entry[1][0] += size_bytes
            self.size_bytes += size_bytes
        entry[0][facet] = value
        while self.size_bytes > self._limit and self._entries:
            _, (_, size) = self._entries.popitem(last=False)
            self.size_bytes -= size[0]

    def drop(self, scope: int, key: bytes) -> None:
        """Forget everything about one key."""
        entry = self._entries.pop((scope, key), None)
        if entry is not None:
            self.size_bytes -= entry[1][0]
