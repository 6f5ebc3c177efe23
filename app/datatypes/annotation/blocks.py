"""Blocks of elements: the JSON of each in the order stored, and a row of numbers for each.

With the rows at hand nothing that reads has to parse JSON: answers are cut from it and joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.geometry import Box, Triple
from app.datatypes.annotation import keys
from app.formats import compression, element_json
from app.formats.element_json import I32, Element
from app.versioning.snapshot import Reader, Snapshot
from app.versioning.tree import Mutation

U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.void]

#: Position x, y, z; code of the kind; bytes of the JSON, and of it up to the relations; supervoxel (0: background, or
#: no labels to look at).
ROW = np.dtype(
    [("position", "<i4", 3), ("kind", "u1"), ("length", "<u4"), ("bare", "<u4"), ("supervoxel", "<u8")], align=False
)
NO_ROWS = np.empty(0, ROW)


def joined(parts: Iterable[Rows]) -> Rows:
    """Rows after one another: numpy's own way compares the fields of every part."""
    rows: Rows = np.frombuffer(bytearray().join(part.tobytes() for part in parts), ROW)
    return rows


class Text:
    """The JSON of a block's elements."""

    def __init__(self, json: bytes) -> None:
        self.json = json
        self._pieces: list[bytes] | None = None

    def pieces(self, rows: Rows) -> list[bytes]:
        """The JSON of each element."""
        if self._pieces is None:
            ends = np.cumsum(rows["length"].astype(np.int64) + 1)
            starts = ends - rows["length"]
            self._pieces = [self.json[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
        return self._pieces


@dataclass(frozen=True)
class Block:
    """The elements of a block."""

    rows: Rows
    text: Text

    @cached_property
    def pieces(self) -> list[bytes]:
        """The JSON of each element."""
        return self.text.pieces(self.rows)

    def chosen(self, rows: Bools | None = None, *, bare: bool = False) -> list[bytes]:
        """The JSON of all elements, or of those of the rows that are true; `bare` ones have no relations."""
        pieces = self.pieces
        if bare:
            lengths = self.rows["bare"].tolist()
            pieces = [piece[:length] + b"}" for piece, length in zip(pieces, lengths, strict=True)]
        if rows is None or rows.all():
            return pieces
        return [pieces[index] for index in np.flatnonzero(rows).tolist()]

    def within(self, box: Box) -> Bools:
        """Which elements lie in a box of voxels."""
        position = self.rows["position"][:, ::-1]
        inside = (position >= box.start) & (position < box.stop)
        return inside[:, 0] & inside[:, 1] & inside[:, 2]

    def find(self, position: Triple) -> int | None:
        """The row of the element at a point x, y, z."""
        found = np.flatnonzero((self.rows["position"] == np.array(position, np.int32)).all(axis=1))
        return int(found[0]) if len(found) else None


_NO_TEXT = Text(b"[]")
EMPTY = Block(NO_ROWS, _NO_TEXT)


def prepare(elements: Sequence[Element]) -> tuple[Rows, list[bytes]]:
    """Rows and JSON of elements; of several at one position the last one stays."""
    last = {element.pos: index for index, element in enumerate(elements)}
    if len(last) < len(elements):
        elements = [elements[index] for index in sorted(last.values())]
    positions = element_json.positions(elements)
    pieces = list(map(element_json.encode, elements))
    return make_rows(positions, [element_json.KIND_CODES[element.kind] for element in elements], pieces), pieces


def make_rows(positions: I32, kinds: Sequence[int], pieces: Sequence[bytes]) -> Rows:
    """Rows of elements whose supervoxels are not known yet."""
    rows = np.zeros(len(positions), ROW)
    rows["position"], rows["kind"] = positions, kinds
    rows["length"] = list(map(len, pieces))
    rows["bare"] = list(map(element_json.bare_length, pieces))
    return rows


def grouped(positions: npt.NDArray[np.integer[Any]], grid: Triple) -> list[tuple[Triple, npt.NDArray[np.int64]]]:
    """Points x, y, z by block (of shape z, y, x): the block z, y, x and the indices of its points, in order."""
    if not len(positions):
        return []
    places = positions[:, ::-1].astype(np.int64) // np.array(grid, np.int64)
    order = np.lexsort((places[:, 2], places[:, 1], places[:, 0]))
    sorted_places = places[order]
    starts = np.flatnonzero(np.r_[True, (sorted_places[1:] != sorted_places[:-1]).any(axis=1)])
    names = [(z, y, x) for z, y, x in sorted_places[starts].tolist()]
    return list(zip(names, np.split(order, starts[1:]), strict=True))


async def fetch_rows(reader: Reader, zyxs: Sequence[Triple]) -> list[Rows]:
    """The rows of blocks; none for blocks without elements."""
    values = await reader.get_many([keys.rows(zyx) for zyx in zyxs])
    return [NO_ROWS if value is None else np.frombuffer(value, ROW) for value in values]


async def fetch(reader: Reader, zyxs: Sequence[Triple]) -> list[Block]:
    """Blocks in the order asked; those without elements are empty."""
    rows = await fetch_rows(reader, zyxs)
    texts = await _fetch_texts(reader, zyxs, rows)
    return [Block(row, text) for row, text in zip(rows, texts, strict=True)]


async def _fetch_texts(reader: Reader, zyxs: Sequence[Triple], rows: Sequence[Rows]) -> list[Text]:
    names = [keys.block(zyx) for zyx in zyxs]
    texts: list[Text] = [reader.recall(name, "text") or _NO_TEXT for name in names]
    absent = [index for index, text in enumerate(texts) if text is _NO_TEXT and len(rows[index])]
    values = await reader.get_many([names[index] for index in absent])
    for index, value in zip(absent, values, strict=True):
        assert value is not None
        text = texts[index] = Text(_unpack(value))
        if isinstance(reader, Snapshot):
            reader.remember(names[index], "text", text, 2 * len(text.json) + 90 * len(rows[index]))
    return texts


def _pack(json: bytes) -> bytes:
    return compression.lz4(json, sized=True)


def _unpack(value: bytes) -> bytes:
    return compression.unlz4(memoryview(value)[4:], int.from_bytes(value[:4], "little"))


async def all_places(reader: Reader) -> list[Triple]:
    """All blocks with elements, in order of z, y, x."""
    return keys.places(await reader.keys(*keys.all_rows()))


async def places_in(reader: Reader, box: Box) -> list[Triple]:
    """The blocks of a box of blocks that have elements, in order of z, y, x."""
    depth, height, width = box.shape
    if depth * height * width <= _FEW_PLACES:
        return list(box.points())
    if depth * height <= _FEW_PLACES:
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        found = []
        for z in range(z0, z1):
            found += await reader.keys(*keys.rows_between((z, y0, x0), (z, y1 - 1, x1 - 1)))
        listed = keys.places(found)
    else:
        listed = await all_places(reader)
    inside = np.array(listed, np.int64).reshape(-1, 3)
    keep = ((inside >= box.start) & (inside < box.stop)).all(axis=1)
    return [listed[index] for index in np.flatnonzero(keep).tolist()]


#: So many blocks are asked for one by one, whether they are there or not.
_FEW_PLACES = 64


# ------------------------------------------------------------------ writing


def put(mutation: Mutation, zyx: Triple, old: Block, rows: Rows, pieces: Sequence[bytes]) -> None:
    """Replace a block's elements and what it is found by."""
    if len(rows):
        mutation.put(keys.block(zyx), _pack(element_json.listed(pieces)))
        mutation.put(keys.rows(zyx), rows.tobytes())
    else:
        mutation.delete(keys.block(zyx))
        mutation.delete(keys.rows(zyx))
    old_tags, new_tags = element_json.tags_of(old.pieces), element_json.tags_of(pieces)
    for tag in old_tags - new_tags:
        mutation.delete(keys.tagged(tag, zyx))
    for tag in new_tags - old_tags:
        mutation.put(keys.tagged(tag, zyx), b"")
    put_supervoxels(mutation, zyx, old.rows["supervoxel"], rows["supervoxel"])


async def grow(mutation: Mutation, growing: Sequence[tuple[Triple, Rows, Rows, Sequence[bytes]]]) -> None:
    """Add elements to blocks: for each the block, its rows, the rows and JSON of what is added at other positions."""
    zyxs, old_rows = [zyx for zyx, _, _, _ in growing], [old for _, old, _, _ in growing]
    texts = await _fetch_texts(mutation, zyxs, old_rows)
    for (zyx, old, new, pieces), text in zip(growing, texts, strict=True):
        added = b",".join(pieces)
        json = b"%s,%s]" % (text.json[:-1], added) if len(old) else b"[%s]" % added
        mutation.put(keys.block(zyx), _pack(json))
        mutation.put(keys.rows(zyx), old.tobytes() + new.tobytes())
        for label in set(new["supervoxel"].tolist()).difference(old["supervoxel"].tolist(), (0,)):
            mutation.put(keys.supervoxel(label, zyx), b"")
    owners = [zyx for zyx, _, _, pieces in growing for _ in pieces]
    tags = element_json.tags_by_element([piece for _, _, _, pieces in growing for piece in pieces])
    for tag, zyx in {(tag, zyx) for listed, zyx in zip(tags, owners, strict=True) for tag in listed}:
        mutation.put(keys.tagged(tag, zyx), b"")


def put_supervoxels(mutation: Mutation, zyx: Triple, old: U64, new: U64) -> None:
    """Replace the keys by which a block is found by supervoxels."""
    before, after = set(old.tolist()) - {0}, set(new.tolist()) - {0}
    for label in before - after:
        mutation.delete(keys.supervoxel(label, zyx))
    for label in after - before:
        mutation.put(keys.supervoxel(label, zyx), b"")
