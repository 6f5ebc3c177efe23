"""The elements of one post, in the order of their blocks, as they are stored and as blocks take them in."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import lz4.block
import numpy as np

from app.core.errors import StoreUnavailable
from app.core.geometry import Triple
from app.datatypes.annotation import table
from app.datatypes.annotation.table import I64, ROW, Rows
from app.formats import element_json

#: A delta weighs as much as its elements, its bytes and the reading of it cost whoever begins to look at what waits.
BYTES_OF_WEIGHT, WEIGHT_OF_DELTA = 256, 96
_HEAD = struct.Struct("<III")
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


def weight(value: bytes) -> int:
    """What a delta adds to the weight of what waits."""
    _, count, size = _HEAD.unpack_from(value)
    return int(WEIGHT_OF_DELTA + count + size // BYTES_OF_WEIGHT)


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
