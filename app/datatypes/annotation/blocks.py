"""Blocks of elements: the JSON of each in the order stored, and a row of numbers for each.

With the rows at hand nothing that reads has to parse JSON: answers are cut from it and joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from app.core.geometry import Box, Triple
from app.datatypes.annotation import deltas, keys, table
from app.datatypes.annotation.deltas import Part, Seen
from app.datatypes.annotation.table import I64, NO_ROWS, ROW, U64, Bools, Rows
from app.formats import compression, element_json
from app.versioning.snapshot import Reader, Snapshot
from app.versioning.tree import Mutation


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
    #: The block as it is stored, if elements wait on top of it.
    stored: Block | None = None
    #: The number of the first delta that is not in it, if any waits for it: to be kept with the rows.
    folded: int = 0

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


@dataclass(frozen=True)
class _Merged:
    """A block with what waits for it on top; the text as far as anybody asked for it.

    `stamp` are the numbers of the first and last delta: they name all of them, as long as the stored value is the same.
    `has_replaced` says whether an element took the place of another.
    """

    stamp: tuple[int, int]
    rows: Rows
    text: Text | None
    has_replaced: bool

    @staticmethod
    def of(below: _Merged | None, rows: Rows, text: Text | None, parts: Sequence[Part]) -> _Merged:
        """Parts on top of rows and text, those of a block or what was merged before."""
        stamp = parts[0].number if below is None else below.stamp[0], parts[-1].number
        merged = _stacked(rows, parts)
        order = _order(merged, len(rows))
        has_replaced = order is not None or (below is not None and below.has_replaced)
        return _Merged(
            stamp,
            merged if order is None else merged[order],
            None if text is None else _joined(text, rows, parts, order),
            has_replaced,
        )

    @property
    def size_bytes(self) -> int:
        """Bytes in memory, about."""
        return self.rows.nbytes + (0 if self.text is None else 2 * len(self.text.json) + 90 * len(self.rows))


def _stacked(rows: Rows, parts: Sequence[Part]) -> Rows:
    """Rows of a block and those of parts behind them."""
    return np.frombuffer(rows.tobytes() + deltas.rows_of(parts), ROW)


def _order(rows: Rows, old: int) -> I64 | None:
    """Which rows stay, in which order, if later ones replace those at the same positions; None if all are at others.

    The first `old` ones are all at different positions.
    """
    x, y, z = (rows["position"][:, axis].astype(np.int64) & _LOW for axis in range(3))
    points = x | y << _BITS | z << 2 * _BITS
    new = points[old:]
    if len(new) == 1:
        if not (points[:old] == new[0]).any():
            return None
    elif len(set(points.tolist())) == len(points):
        return None
    _, firsts, inverse = np.unique(points, return_index=True, return_inverse=True)
    lasts = np.empty(len(firsts), np.int64)
    lasts[inverse] = np.arange(len(points))
    order: I64 = lasts[np.argsort(firsts)]
    return order


#: Points of one block differ in the lowest bits of their coordinates.
_BITS = 21
_LOW = (1 << _BITS) - 1


def _joined(text: Text, rows: Rows, parts: Sequence[Part], order: I64 | None) -> Text:
    """The JSON of a block and of parts on top."""
    if order is None:
        added = deltas.json_of(parts)
        return Text(b"%s,%s]" % (text.json[:-1], added) if len(rows) else b"[%s]" % added)
    pieces = list(text.pieces(rows))
    for part in parts:
        pieces += part.pieces
    return Text(element_json.listed([pieces[index] for index in order.tolist()]))


class _Layers(NamedTuple):
    """What is stored of a block, what waits on top of it, both together, and what `Block.folded` says."""

    stored: Rows
    parts: Sequence[Part] = ()
    merged: _Merged | None = None
    folded: int = 0

    @property
    def rows(self) -> Rows:
        """The rows of all together."""
        return self.stored if self.merged is None else self.merged.rows


def _layers(value: bytes | None, seen: Seen, zyx: Triple) -> tuple[Rows, list[Part], int]:
    rows, folded = NO_ROWS, 0
    if value is not None:
        spare = len(value) % ROW.itemsize
        rows = np.frombuffer(value, ROW, len(value) // ROW.itemsize)
        folded = int.from_bytes(value[-spare:], "little") if spare else 0
    parts = seen.parts(zyx)
    if not parts:
        return rows, parts, 0
    return rows, parts if parts[0].number >= folded else [part for part in parts if part.number >= folded], seen.end


async def _fetch_layers(reader: Reader, zyxs: Sequence[Triple]) -> list[_Layers]:
    names = [keys.rows(zyx) for zyx in zyxs]
    values = await reader.get_many(names)
    seen = await deltas.load(reader)
    found = []
    for zyx, name, value in zip(zyxs, names, values, strict=True):
        stored, parts, folded = _layers(value, seen, zyx)
        if not parts:
            found.append(_Layers(stored, folded=folded))
            continue
        known = _known(reader, name, parts)
        if known is None or known.stamp[1] < parts[-1].number:
            rows, text = (stored, None) if known is None else (known.rows, known.text)
            rest = parts if known is None else [part for part in parts if part.number > known.stamp[1]]
            known = _Merged.of(known, rows, text, rest)
            _remember(reader, name, known)
        found.append(_Layers(stored, parts, known, folded))
    return found


def _known(reader: Reader, name: bytes, parts: Sequence[Part]) -> _Merged | None:
    """What a process remembers of some of the parts on top of what is stored."""
    known: _Merged | None = reader.recall(name, "merged") if isinstance(reader, Snapshot) else None
    is_right = known is not None and known.stamp[0] == parts[0].number and known.stamp[1] <= parts[-1].number
    return known if is_right else None


def _remember(reader: Reader, name: bytes, merged: _Merged) -> None:
    if isinstance(reader, Snapshot):  # what a mutation sees may never be
        reader.remember(name, "merged", merged, merged.size_bytes)


async def fetch_waiting(reader: Reader, zyxs: Sequence[Triple]) -> list[bool]:
    """Whether anything waits, or did when it was written, for each block."""
    seen = await deltas.load(reader)
    return [bool(seen.parts(zyx)) for zyx in zyxs]


def _ready(reader: Reader, seen: Seen, zyxs: Sequence[Triple], *, has_text: bool) -> list[_Merged | None]:
    """Blocks that a process remembers with all that waits for them, so that nothing stored need be looked at."""
    if not seen or not isinstance(reader, Snapshot):
        return [None] * len(zyxs)
    found: list[_Merged | None] = []
    for zyx, last in zip(zyxs, seen.lasts(zyxs), strict=True):
        known: _Merged | None = reader.recall(keys.rows(zyx), "merged") if last >= 0 else None
        is_whole = known is not None and known.stamp[1] == last and not (has_text and known.text is None)
        found.append(known if is_whole else None)
    return found


async def fetch_rows(reader: Reader, zyxs: Sequence[Triple]) -> list[Rows]:
    """The rows of blocks; none for blocks without elements."""
    ready = _ready(reader, await deltas.load(reader), zyxs, has_text=False)
    absent = [zyx for zyx, known in zip(zyxs, ready, strict=True) if known is None]
    rest = iter(await _fetch_layers(reader, absent) if absent else ())
    return [next(rest).rows if known is None else known.rows for known in ready]


async def fetch(reader: Reader, zyxs: Sequence[Triple]) -> list[Block]:
    """Blocks in the order asked; those without elements are empty."""
    seen = await deltas.load(reader)
    ready = _ready(reader, seen, zyxs, has_text=True)
    absent = [zyx for zyx, known in zip(zyxs, ready, strict=True) if known is None]
    rest = iter(await _fetch_whole(reader, absent) if absent else ())
    return [
        next(rest) if known is None else Block(known.rows, known.text or _NO_TEXT, None, seen.end) for known in ready
    ]


async def _fetch_whole(reader: Reader, zyxs: Sequence[Triple]) -> list[Block]:
    """Blocks with what is stored below."""
    layers = await _fetch_layers(reader, zyxs)
    texts = await _fetch_texts(reader, zyxs, [each.stored for each in layers])
    found = []
    for zyx, each, text in zip(zyxs, layers, texts, strict=True):
        merged = each.merged
        if merged is None:
            found.append(Block(each.stored, text, None, each.folded))
            continue
        if merged.text is None:
            merged = replace(merged, text=_whole_text(each, text))
            _remember(reader, keys.rows(zyx), merged)
        found.append(Block(merged.rows, merged.text or _NO_TEXT, Block(each.stored, text), each.folded))
    return found


def _whole_text(layers: _Layers, stored: Text) -> Text:
    """The JSON of a block and of all that waits for it."""
    order = None
    if layers.merged is not None and layers.merged.has_replaced:
        order = _order(_stacked(layers.stored, layers.parts), len(layers.stored))
    return _joined(stored, layers.stored, layers.parts, order)


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
    """All blocks with elements, and perhaps some that lost theirs, in order of z, y, x."""
    listed = keys.places(await reader.keys(*keys.all_rows()))
    seen = await deltas.load(reader)
    return sorted({*listed, *seen.places()}) if seen else listed


async def places_in(reader: Reader, box: Box) -> list[Triple]:
    """The blocks of a box of blocks that may have elements, in order of z, y, x."""
    depth, height, width = box.shape
    if depth * height * width <= _FEW_PLACES:
        return list(box.points())
    if depth * height <= _FEW_PLACES:
        (z0, y0, x0), (z1, y1, x1) = box.start, box.stop
        found = []
        for z in range(z0, z1):
            found += await reader.keys(*keys.rows_between((z, y0, x0), (z, y1 - 1, x1 - 1)))
        seen = await deltas.load(reader)
        listed = keys.places(found)
        if seen:
            listed = sorted({*listed, *seen.places()})
    else:
        listed = await all_places(reader)
    inside = np.array(listed, np.int64).reshape(-1, 3)
    keep = ((inside >= box.start) & (inside < box.stop)).all(axis=1)
    return [listed[index] for index in np.flatnonzero(keep).tolist()]


async def tagged_places(reader: Reader, tag: str) -> list[Triple]:
    """The blocks that have, or had, elements with a tag, in order of z, y, x."""
    first, last = keys.tagged_range(tag)
    listed = keys.places(await reader.keys(first, last), first)
    seen = await deltas.load(reader)
    return sorted({*listed, *seen.tagged(tag)}) if seen else listed


#: So many blocks are asked for one by one, whether they are there or not.
_FEW_PLACES = 64


# ------------------------------------------------------------------ writing


def put(mutation: Mutation, zyx: Triple, old: Block, rows: Rows, pieces: Sequence[bytes]) -> None:
    """Replace a block's elements and what it is found by; what waits for it is in `old`, and waits no more."""
    put_rows(mutation, zyx, rows, old.folded)
    if len(rows):
        mutation.put(keys.block(zyx), _pack(element_json.listed(pieces)))
    else:
        mutation.delete(keys.block(zyx))
    stored = old.stored or old
    old_tags, new_tags = element_json.tags_of(stored.pieces), element_json.tags_of(pieces)
    for tag in old_tags - new_tags:
        mutation.delete(keys.tagged(tag, zyx))
    for tag in new_tags - old_tags:
        mutation.put(keys.tagged(tag, zyx), b"")
    put_supervoxels(mutation, zyx, stored.rows["supervoxel"], rows["supervoxel"])


def put_rows(mutation: Mutation, zyx: Triple, rows: Rows, folded: int) -> None:
    """Replace a block's rows; of one that lost its elements only the number stays, as long as anything waits for it."""
    if len(rows) or folded:
        mutation.put(keys.rows(zyx), rows.tobytes() + (folded.to_bytes(8, "little") if folded else b""))
    else:
        mutation.delete(keys.rows(zyx))


async def fold(mutation: Mutation, zyxs: Sequence[Triple]) -> list[Triple]:
    """Write what waits for blocks into them; those that have no elements are answered."""
    layers = await _fetch_layers(mutation, zyxs)
    texts = await _fetch_texts(mutation, zyxs, [each.stored for each in layers])
    for zyx, each, stored in zip(zyxs, layers, texts, strict=True):
        if each.merged is None:
            continue
        text = _whole_text(each, stored)
        if each.merged.has_replaced:
            merged = Block(each.rows, text, Block(each.stored, stored), each.folded)
            put(mutation, zyx, merged, merged.rows, merged.pieces)
            continue
        put_rows(mutation, zyx, each.rows, each.folded)
        mutation.put(keys.block(zyx), _pack(text.json))
        for tag in {tag for part in each.parts for tag, slots in part.delta.tags.items() if part.slot in slots}:
            mutation.put(keys.tagged(tag, zyx), b"")
        put_supervoxels(mutation, zyx, each.stored["supervoxel"], each.rows["supervoxel"])
    return [zyx for zyx, each in zip(zyxs, layers, strict=True) if not len(each.rows)]


async def forget(mutation: Mutation, zyxs: Sequence[Triple]) -> None:
    """Remove the rows of blocks without elements for which nothing waits any more."""
    for zyx, each in zip(zyxs, await _fetch_layers(mutation, zyxs), strict=True):
        if not (len(each.rows) or each.folded):
            mutation.delete(keys.rows(zyx))


async def move(mutation: Mutation, owners: Mapping[Triple, U64]) -> None:
    """Put the elements of blocks into other supervoxels."""
    zyxs = list(owners)
    await fold(mutation, zyxs)
    for zyx, each in zip(zyxs, await _fetch_layers(mutation, zyxs), strict=True):
        rows = each.rows.copy()
        rows["supervoxel"] = owners[zyx]
        put_supervoxels(mutation, zyx, each.rows["supervoxel"], owners[zyx])
        put_rows(mutation, zyx, rows, each.folded)


async def grow(mutation: Mutation, growing: Sequence[tuple[Triple, Rows, Rows, Sequence[bytes]]]) -> None:
    """Add elements to blocks for which nothing waits: for each the block, its rows, the rows and JSON of what is added
    at other positions.
    """
    zyxs, old_rows = [zyx for zyx, _, _, _ in growing], [old for _, old, _, _ in growing]
    texts = await _fetch_texts(mutation, zyxs, old_rows)
    for (zyx, old, new, pieces), text in zip(growing, texts, strict=True):
        added = b",".join(pieces)
        json = b"%s,%s]" % (text.json[:-1], added) if len(old) else b"[%s]" % added
        mutation.put(keys.block(zyx), _pack(json))
        put_rows(mutation, zyx, table.joined([old, new]), 0)
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
