"""One generation of an ordered map: what OCDBT has stored of it, and what its journal has put on top."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorstore as ts

from app.backends.store import Store

#: New names are put into their places one by one as long as they are this few.
FEW = 64
#: Lists that are remembered of a stored generation, and how many keys they may have; and keys that it does not have.
LISTS, LIST_KEYS = 4096, 32
#: What a key got: in which generation, what (None: it was removed), and what it had got before.
_Held = tuple[int, bytes | None, Any]
#: From a key to another, which is not in it.
Range = tuple[bytes, bytes]


class Late:
    """The commits since a generation was stored, of all generations since; it only grows, so that views share it.

    `earlier` has the commits before that generation, as long as anybody may want to know what they wrote.
    """

    def __init__(self, start: int, earlier: Late | None = None) -> None:
        self._start = start
        self._earlier = earlier
        if earlier is not None:
            earlier._earlier = None
        self._held: dict[bytes, _Held] = {}
        self._names: list[bytes] = []
        self._new: list[bytes] = []
        self._commits: list[tuple[int, tuple[bytes, ...]]] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def copy(self) -> Late:
        """The same commits, to go on with apart; what was before them is not known to the copy."""
        copy = Late(self._start)
        copy._held, copy._names, copy._new = self._held.copy(), self._names.copy(), self._new.copy()
        copy._commits, copy.size_bytes = self._commits.copy(), self.size_bytes
        return copy

    def add(self, generation: int, writes: Mapping[bytes, bytes | None]) -> None:
        """Take over what a generation newer than all before wrote."""
        held = self._held
        self._commits.append((generation, tuple(writes)))
        for key, value in writes.items():
            before = held.get(key)
            if before is None:
                self._new.append(key)
            held[key] = generation, value, before
            self.size_bytes += len(key) + (len(value) if value is not None else 0)

    def find(self, key: bytes, generation: int) -> _Held | None:
        """What a key holds at a generation, or None if it got nothing until then."""
        held = self._held.get(key)
        while held is not None and held[0] > generation:
            held = held[2]
        return held

    def since(self, generation: int, until: int) -> list[bytes] | None:
        """The keys that got anything after a generation, until another; None if that is not known any more."""
        found: list[bytes] = []
        for number, keys in reversed(self._commits):
            if number <= generation:
                break
            if number <= until:
                found += keys
        if self._start <= generation:
            return found
        before = None if self._earlier is None else self._earlier.since(generation, until)
        return None if before is None else [*before, *found]

    def all(self, generation: int) -> dict[bytes, bytes | None]:
        """What all keys hold that got anything until a generation."""
        found = ((key, self.find(key, generation)) for key in self._held)
        return {key: held[1] for key, held in found if held is not None}

    def between(self, first: bytes, last: bytes, generation: int) -> dict[bytes, bytes | None]:
        """What the keys from one to another (exclusive) hold that got anything until a generation."""
        if len(self._new) > FEW:
            self._names += self._new
            self._names.sort()
        else:
            for key in self._new:
                insort(self._names, key)
        self._new.clear()
        names = self._names[bisect_left(self._names, first) : bisect_left(self._names, last)]
        found = ((key, self.find(key, generation)) for key in names)
        return {key: held[1] for key, held in found if held is not None}


class Stored:
    """A generation that is stored, and what was asked for of keys and is short: it never changes."""

    __slots__ = ("absent", "kvstore", "lists")

    def __init__(self, kvstore: ts.KvStore) -> None:
        self.kvstore = kvstore
        self.lists: dict[Range, list[bytes]] = {}
        self.absent = set[bytes]()

    async def keys_of(self, store: Store, ranges: Sequence[Range], *, is_remembered: bool) -> list[list[bytes]]:
        """The keys of ranges, each ascending, read at once."""
        lists = self.lists
        found = {range_: lists[range_] for range_ in ranges if range_ in lists}  # others may forget them meanwhile
        unknown = [range_ for range_ in dict.fromkeys(ranges) if range_ not in found]
        if unknown:
            # For TensorStore a range to the empty key has no end.
            asked = [self.kvstore.list(ts.KvStore.KeyRange(*range_)) for range_ in unknown if range_[0] < range_[1]]
            answers = iter(await store.guard(together(asked)))
            come = {range_: sorted(map(bytes, next(answers))) if range_[0] < range_[1] else [] for range_ in unknown}
            if is_remembered:
                if len(lists) > LISTS:
                    lists.clear()
                lists.update({range_: keys for range_, keys in come.items() if len(keys) <= LIST_KEYS})
            found.update(come)
        return [found[range_] for range_ in ranges]


class View:
    """A map at one generation; it never changes."""

    __slots__ = ("_late", "_store", "_stored", "generation")

    def __init__(self, store: Store, stored: Stored, generation: int, late: Late | None = None) -> None:
        self._store = store
        self._stored = stored
        self.generation = generation
        self._late = late

    @property
    def kvstore(self) -> ts.KvStore:
        """What is stored, on top of which the journal's commits lie."""
        return self._stored.kvstore

    async def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        if self._late is not None:
            held = self._late.find(key, self.generation)
            if held is not None:
                return held[1]
            if key in self._stored.absent:
                return None
        answer = await self._store.guard(self._stored.kvstore.read(key))
        value = bytes(answer.value) if answer.state == "value" else None
        self._store.traffic.read((key,), (value,))
        if value is None and self._late is not None:  # many generations and copies may lie on top
            if len(self._stored.absent) > LISTS:
                self._stored.absent.clear()
            self._stored.absent.add(key)
        return value

    async def get_many(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """The values of several keys in the order asked."""
        keys = list(keys)
        if self._late is None:
            return await read_many(self._store, self._stored.kvstore, keys)
        held = [self._late.find(key, self.generation) for key in keys]
        stored = [key for key, found in zip(keys, held, strict=True) if found is None]
        if not stored:
            return [found[1] for found in held if found is not None]
        values = iter(await read_many(self._store, self._stored.kvstore, stored))
        return [next(values) if found is None else found[1] for found in held]

    async def keys(self, first: bytes, last: bytes) -> list[bytes]:
        """All keys k with first <= k < last, ascending."""
        return (await self.keys_of([(first, last)]))[0]

    async def keys_of(self, ranges: Sequence[Range]) -> list[list[bytes]]:
        """The keys of several ranges, read at once. The lists are the reader's to look at, not to change."""
        # Lists are remembered where a stored generation lasts: while a journal grows on top of it.
        found = await self._stored.keys_of(self._store, ranges, is_remembered=self._late is not None)
        if self._late is None:
            return found
        return [self._with_late(keys, *range_) for keys, range_ in zip(found, ranges, strict=True)]

    def _with_late(self, keys: list[bytes], first: bytes, last: bytes) -> list[bytes]:
        assert self._late is not None
        late = self._late.between(first, last, self.generation)
        if not late:
            return keys
        stays = [key for key in keys if key not in late]
        return sorted([*stays, *[key for key, value in late.items() if value is not None]])

    def recent(self, range_: Range) -> list[bytes]:
        """The keys of a range that have not been stored yet, ascending: some of those there are, without reading."""
        late = None if self._late is None else self._late.between(*range_, self.generation)
        return [key for key, value in late.items() if value is not None] if late else []

    def since(self, generation: int) -> list[bytes] | None:
        """The keys that may hold something else than in an earlier generation; None if that is not known."""
        return None if self._late is None else self._late.since(generation, self.generation)

    def is_late(self, key: bytes) -> bool:
        """Whether what a key holds has not been stored yet."""
        return self._late is not None and self._late.find(key, self.generation) is not None

    def waiting(self, key: bytes) -> bytes | None:
        """The value of a key that has not been stored yet; None if it has, or there is none."""
        held = None if self._late is None else self._late.find(key, self.generation)
        return None if held is None else held[1]

    def late(self) -> dict[bytes, bytes | None]:
        """The keys whose values (None: removed) have not been stored yet."""
        return {} if self._late is None else self._late.all(self.generation)


async def read_many(store: Store, kvstore: ts.KvStore, keys: Sequence[bytes]) -> list[bytes | None]:
    """The values of several keys of one snapshot, None where absent, read at once."""
    answers = await store.guard(together([kvstore.read(key) for key in keys]))
    values = [bytes(answer.value) if answer.state == "value" else None for answer in answers]
    store.traffic.read(keys, values)
    return values


async def together(answers: Sequence[Any]) -> list[Any]:
    """Answers under way, waited for from the last: most of the others have then come without an await of their own."""
    for answer in reversed(answers):
        if not answer.done():
            await answer
    return [answer.result() for answer in answers]
