"""Posted elements that wait to be folded into their blocks.

A thousand synapses lie in hundreds of blocks, and writing these anew costs far more than the post has to say. So a post
leaves one value with its elements, in the order of their blocks. Readers lay what waits for a block on top of what is
stored of it: an element takes the place of one at the same position, or comes last. When much waits it is folded into
the blocks (`folding.py`), some blocks in each transaction. A block that is written for whatever reason takes in what
waits for it, and its rows end with the number of the next delta: earlier ones are in it (`keys.rows`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import lz4.block
import numpy as np

from app.core.errors import StoreUnavailable
from app.core.geometry import Triple
from app.datatypes.annotation import keys, table
from app.datatypes.annotation.table import I64, ROW, U64, Rows
from app.formats import element_json
from app.versioning.snapshot import LASTING, Overlay, Reader, Snapshot
from app.versioning.tree import Mutation

#: A post of more elements, or bytes, goes into its blocks at once.
MOST_ELEMENTS, MOST_BYTES = 16_384, 4 << 20
#: A delta weighs as much as its elements, its bytes and the reading of it cost whoever begins to look at what waits.
BYTES_OF_WEIGHT, WEIGHT_OF_DELTA = 256, 96
#: Parts of the sorted supervoxels are joined when the newer one is at least a quarter of the older one.
JOIN_RATIO = 4

_MARK = struct.Struct(">QQQ")
_HEAD = struct.Struct("<III")
#: Numbers are not used again, so deltas are the same in all generations that have them.
_MEMO = LASTING + b"deltas/"
#: A block in memory costs about so much for each delta, an element so much beside its JSON.
_PART_BYTES, _ROW_BYTES = 200, 80


class Delta:
    """The elements of one post in the order of their blocks, `places`; those of a block begin at `starts`."""

    def __init__(self, places: Sequence[Triple], starts: I64, rows: Rows, json: bytes) -> None:
        self.places = places
        self.rows = rows
        self.json = json
        self.row_bytes = rows.tobytes()
        self.starts: list[int] = starts.tolist()
        #: Where the JSON of each element begins, and where that of one more would.
        self.cuts: list[int] = [0, *np.cumsum(rows["length"].astype(np.int64) + 1).tolist()]

    @staticmethod
    def of(rows: Rows, pieces: Sequence[bytes], grid: Triple) -> Delta:
        """The delta of elements, no two of them at one position."""
        places, order, starts = table.by_block(rows["position"], grid)
        return Delta(places, starts, rows[order], b",".join([pieces[index] for index in order.tolist()]))

    def encode(self) -> bytes:
        """As it is stored: numbers of blocks, elements and bytes of JSON, then LZ4 of blocks, starts, rows and JSON."""
        content = b"".join(
            [
                np.array(self.places, "<i4").tobytes(),
                np.array(self.starts, "<u4").tobytes(),
                self.row_bytes,
                self.json,
            ]
        )
        head = _HEAD.pack(len(self.places), len(self.rows), len(self.json))
        return head + bytes(lz4.block.compress(content, store_size=False))

    @staticmethod
    def decode(value: bytes) -> Delta:
        """The inverse of `encode`."""
        try:
            blocks, count, size = _HEAD.unpack_from(value)
            at_starts, at_rows = 12 * blocks, 16 * blocks + 4
            at_json = at_rows + ROW.itemsize * count
            content = lz4.block.decompress(memoryview(value)[_HEAD.size :], uncompressed_size=at_json + size)
        except (struct.error, lz4.block.LZ4BlockError) as error:
            raise StoreUnavailable(f"posted elements are stored damaged: {error}") from error
        places = np.frombuffer(content, "<i4", 3 * blocks).reshape(blocks, 3)
        starts = np.frombuffer(content, "<u4", blocks + 1, at_starts).astype(np.int64)
        rows = np.frombuffer(content, ROW, count, at_rows)
        return Delta([(z, y, x) for z, y, x in places.tolist()], starts, rows, content[at_json:])

    @property
    def size_bytes(self) -> int:
        """Its bytes in memory, about."""
        return len(self.json) + _ROW_BYTES * len(self.rows) + _PART_BYTES * len(self.places)

    @cached_property
    def tags(self) -> dict[str, set[int]]:
        """The blocks, by number, that have elements with each tag."""
        found: dict[str, set[int]] = {}
        if not element_json.have_tags(self.json, len(self.rows)):
            return found
        slots = np.repeat(np.arange(len(self.places)), np.diff(self.starts)).tolist()
        for slot, tags in zip(slots, element_json.tags_by_element([self.json]), strict=True):
            for tag in tags:
                found.setdefault(tag, set()).add(slot)
        return found


class Part(NamedTuple):
    """What one delta has for one block."""

    number: int
    delta: Delta
    slot: int

    @property
    def pieces(self) -> list[bytes]:
        """The JSON of each of its elements."""
        delta, first, last = self.delta, self.delta.starts[self.slot], self.delta.starts[self.slot + 1]
        cuts = delta.cuts[first : last + 1]
        return [delta.json[a : b - 1] for a, b in pairwise(cuts)]


def rows_of(parts: Sequence[Part]) -> bytes:
    """The rows of parts, one part after another, as they are stored."""
    size = ROW.itemsize
    return b"".join(
        [delta.row_bytes[size * delta.starts[slot] : size * delta.starts[slot + 1]] for _, delta, slot in parts]
    )


def json_of(parts: Sequence[Part]) -> bytes:
    """The JSON of the elements of parts, with commas between."""
    return b",".join(
        [
            delta.json[delta.cuts[delta.starts[slot]] : delta.cuts[delta.starts[slot + 1]] - 1]
            for _, delta, slot in parts
        ]
    )


@dataclass(frozen=True)
class _Sorted:
    """The supervoxels of some deltas' elements, ascending, and where each lies."""

    supervoxels: U64
    numbers: I64
    slots: I64

    @staticmethod
    def joined(parts: Sequence[_Sorted]) -> _Sorted:
        supervoxels, numbers, slots = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("supervoxels", "numbers", "slots")
        )
        order = np.argsort(supervoxels, kind="stable")
        return _Sorted(supervoxels[order], numbers[order], slots[order])


class Waiting:
    """The deltas from a first number on, by block. It only grows, so that readers of several generations share it."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.deltas: list[Delta] = []
        self.size_bytes = 0
        self.parts: dict[Triple, list[Part]] = {}
        self._sorted: list[_Sorted] = []
        self._sorted_end = first

    @property
    def end(self) -> int:
        """The number after the last one."""
        return self.first + len(self.deltas)

    def add(self, delta: Delta) -> None:
        """Add the next one."""
        number = self.end
        self.deltas.append(delta)
        self.size_bytes += delta.size_bytes
        for slot, zyx in enumerate(delta.places):
            part = Part(number, delta, slot)
            listed = self.parts.get(zyx)
            if listed is None:
                self.parts[zyx] = [part]
            else:
                listed.append(part)

    def in_supervoxels(self, wanted: U64, end: int) -> set[Triple]:
        """The blocks that have elements in any of the supervoxels (ascending), as far as deltas before `end` tell."""
        self._sort()
        found: set[Triple] = set()
        for part in self._sorted:
            low = np.searchsorted(part.supervoxels, wanted, "left")
            high = np.searchsorted(part.supervoxels, wanted, "right")
            for start, stop in zip(low[low < high].tolist(), high[low < high].tolist(), strict=True):
                pairs = zip(part.numbers[start:stop].tolist(), part.slots[start:stop].tolist(), strict=True)
                found |= {self.deltas[number - self.first].places[slot] for number, slot in pairs if number < end}
        return found

    def _sort(self) -> None:
        for number in range(self._sorted_end, self.end):
            delta = self.deltas[number - self.first]
            slots = np.repeat(np.arange(len(delta.places)), np.diff(delta.starts))
            new = _Sorted(delta.rows["supervoxel"].copy(), np.full(len(slots), number), slots)
            new = _Sorted.joined([new])
            while self._sorted and len(new.slots) * JOIN_RATIO >= len(self._sorted[-1].slots):
                new = _Sorted.joined([self._sorted.pop(), new])
            self._sorted.append(new)
        self._sorted_end = self.end


@dataclass(frozen=True)
class Seen:
    """What waits as one reader sees it: deltas up to a number, and those that mutations of its batch have staged."""

    waiting: tuple[tuple[Waiting, int], ...] = ()

    @property
    def end(self) -> int:
        """The number of the next delta."""
        return self.waiting[-1][1]

    @property
    def has_staged(self) -> bool:
        """Whether some of it may never be."""
        return len(self.waiting) > 1

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def parts(self, zyx: Triple) -> list[Part]:
        """What waits for a block, oldest first, whether the block has it already or not."""
        found: list[Part] = []
        for waiting, end in self.waiting:
            parts = waiting.parts.get(zyx)
            if parts is not None:
                found += parts if parts[-1].number < end else [part for part in parts if part.number < end]
        return found

    def lasts(self, zyxs: Sequence[Triple]) -> list[int]:
        """The number of the last delta that has anything for each block; -1 if none has."""
        if len(self.waiting) == 1 and self.waiting[0][0].end == self.end:
            known = self.waiting[0][0].parts
            return [parts[-1].number if (parts := known.get(zyx)) is not None else -1 for zyx in zyxs]
        return [parts[-1].number if (parts := self.parts(zyx)) else -1 for zyx in zyxs]

    def places(self) -> Iterator[Triple]:
        """The blocks for which anything waits, in no order, some of them twice."""
        for waiting, end in self.waiting:
            yield from (zyx for zyx, parts in waiting.parts.items() if parts[0].number < end)

    def in_supervoxels(self, wanted: U64) -> set[Triple]:
        """The blocks for which elements in any of the supervoxels (ascending) wait."""
        return {zyx for waiting, end in self.waiting for zyx in waiting.in_supervoxels(wanted, end)}

    def tagged(self, tag: str) -> set[Triple]:
        """The blocks for which elements with a tag wait."""
        deltas = (delta for waiting, end in self.waiting for delta in waiting.deltas[: end - waiting.first])
        return {delta.places[slot] for delta in deltas for slot in delta.tags.get(tag, ())}


NOTHING = Seen()


async def mark(reader: Reader) -> tuple[int, int, int]:
    """The range of the deltas that wait, and their weight."""
    value = await reader.get(keys.DELTAS)
    return (0, 0, 0) if value is None else _MARK.unpack(value)


def _weight(value: bytes) -> int:
    """What a delta adds to the weight of what waits."""
    _, count, size = _HEAD.unpack_from(value)
    return int(WEIGHT_OF_DELTA + count + size // BYTES_OF_WEIGHT)


async def add(mutation: Mutation, value: bytes) -> tuple[int, int]:
    """Let an encoded delta wait; the weight of what waited before, and of what waits now."""
    first, end, before = await mark(mutation)
    weight = before + _weight(value)
    mutation.put(keys.delta(end), value)
    mutation.put(keys.DELTAS, _MARK.pack(first, end + 1, weight))
    return before, weight


async def remove(mutation: Mutation, until: int | None = None) -> None:
    """Let the deltas before a number, or all, wait no more, as all of them are in their blocks."""
    first, end, weight = await mark(mutation)
    if first == end:
        return
    numbers = range(first, end if until is None else until)
    values = await mutation.get_many([keys.delta(number) for number in numbers])
    for number, value in zip(numbers, values, strict=True):
        weight -= 0 if value is None else _weight(value)
        mutation.delete(keys.delta(number))
    mutation.put(keys.DELTAS, _MARK.pack(numbers.stop, end, weight))


async def load(reader: Reader) -> Seen:
    """What waits, as this reader sees it; a process keeps it and adds what is new."""
    first, end, _ = await mark(reader)
    if first == end:
        return NOTHING
    committed = end
    if isinstance(reader, Overlay):
        while committed > first and reader.is_staged(keys.delta(committed - 1)):
            committed -= 1
    name = _MEMO + first.to_bytes(8, "big")
    known: Waiting | None = reader.recall(name, "waiting")
    shared, size = (Waiting(first), -1) if known is None else (known, known.size_bytes)
    await _extend(reader, shared, committed)
    if shared.size_bytes != size and isinstance(reader, Snapshot):  # what a mutation sees may never be
        reader.remember(name, "waiting", shared, shared.size_bytes)
    if committed == end:
        return Seen(((shared, end),))
    staged = Waiting(committed)
    await _extend(reader, staged, end)
    return Seen(((shared, committed), (staged, end)))


async def _extend(reader: Reader, waiting: Waiting, end: int) -> None:
    numbers = range(waiting.end, end)
    for number, value in zip(numbers, await reader.get_many(list(map(keys.delta, numbers))), strict=True):
        if value is None:
            raise StoreUnavailable(f"posted elements {number} are not stored any more")
        if number == waiting.end:  # else another reader was quicker
            waiting.add(Delta.decode(value))
