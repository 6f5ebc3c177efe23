"""What is stored of a block and what waits on top of it, laid together; a process remembers what it laid together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app.core.geometry import Triple
from app.datatypes.annotation import deltas, keys, posted
from app.datatypes.annotation.posted import Part
from app.datatypes.annotation.table import I64, NO_ROWS, ROW, Rows
from app.datatypes.annotation.texts import Text
from app.datatypes.annotation.waiting import Seen
from app.formats import element_json
from app.versioning.snapshot import Reader, Snapshot

#: Points of one block differ in the lowest bits of their coordinates.
_BITS = 21
_LOW = (1 << _BITS) - 1


@dataclass(frozen=True)
class Merged:
    """A block with what waits for it on top; the text as far as anybody asked for it.

    `stamp` are the numbers of the first and last delta: they name all of them, as long as the stored value is the same.
    `has_replaced` says whether an element took the place of another.
    """

    stamp: tuple[int, int]
    rows: Rows
    text: Text | None
    has_replaced: bool

    @staticmethod
    def of(below: Merged | None, rows: Rows, text: Text | None, parts: Sequence[Part]) -> Merged:
        """Parts on top of rows and text, those of a block or what was merged before."""
        stamp = parts[0].number if below is None else below.stamp[0], parts[-1].number
        merged = _stacked(rows, parts)
        order = _order(merged, len(rows))
        has_replaced = order is not None or (below is not None and below.has_replaced)
        return Merged(
            stamp,
            merged if order is None else merged[order],
            None if text is None else _joined(text, rows, parts, order),
            has_replaced,
        )

    @property
    def size_bytes(self) -> int:
        """Bytes in memory, about."""
        return self.rows.nbytes + (0 if self.text is None else 2 * len(self.text.json) + 90 * len(self.rows))


class Layers(NamedTuple):
    """What is stored of a block, what waits on top of it, both together, and what `Block.folded` says."""

    stored: Rows
    parts: Sequence[Part] = ()
    merged: Merged | None = None
    folded: int = 0

    @property
    def rows(self) -> Rows:
        """The rows of all together."""
        return self.stored if self.merged is None else self.merged.rows


def _cut(value: bytes | None, seen: Seen, zyx: Triple) -> tuple[Rows, list[Part], int]:
    rows, folded = NO_ROWS, 0
    if value is not None:
        spare = len(value) % ROW.itemsize
        rows = np.frombuffer(value, ROW, len(value) // ROW.itemsize)
        folded = int.from_bytes(value[-spare:], "little") if spare else 0
    parts = seen.parts(zyx)
    if not parts:
        return rows, parts, 0
    return rows, parts if parts[0].number >= folded else [part for part in parts if part.number >= folded], seen.end


async def fetch(reader: Reader, zyxs: Sequence[Triple]) -> list[Layers]:
    """What there is of each block."""
    names = [keys.rows(zyx) for zyx in zyxs]
    values = await reader.get_many(names)
    seen = await deltas.load(reader)
    found = []
    for zyx, name, value in zip(zyxs, names, values, strict=True):
        stored, parts, folded = _cut(value, seen, zyx)
        if not parts:
            found.append(Layers(stored, folded=folded))
            continue
        known = _known(reader, name, parts)
        if known is None or known.stamp[1] < parts[-1].number:
            rows, text = (stored, None) if known is None else (known.rows, known.text)
            rest = parts if known is None else [part for part in parts if part.number > known.stamp[1]]
            known = Merged.of(known, rows, text, rest)
            remember(reader, name, known)
        found.append(Layers(stored, parts, known, folded))
    return found


def ready(reader: Reader, seen: Seen, zyxs: Sequence[Triple], *, has_text: bool) -> list[Merged | None]:
    """Blocks that a process remembers with all that waits for them, so that nothing stored need be looked at."""
    if not seen or not isinstance(reader, Snapshot):
        return [None] * len(zyxs)
    found: list[Merged | None] = []
    for zyx, last in zip(zyxs, seen.lasts(zyxs), strict=True):
        known: Merged | None = reader.recall(keys.rows(zyx), "merged") if last >= 0 else None
        is_whole = known is not None and known.stamp[1] == last and not (has_text and known.text is None)
        found.append(known if is_whole else None)
    return found


def _known(reader: Reader, name: bytes, parts: Sequence[Part]) -> Merged | None:
    """What a process remembers of some of the parts on top of what is stored."""
    known: Merged | None = reader.recall(name, "merged") if isinstance(reader, Snapshot) else None
    is_right = known is not None and known.stamp[0] == parts[0].number and known.stamp[1] <= parts[-1].number
    return known if is_right else None


def remember(reader: Reader, name: bytes, merged: Merged) -> None:
    """Keep what was laid together of a block, by the name of its rows."""
    if isinstance(reader, Snapshot):  # what a mutation sees may never be
        reader.remember(name, "merged", merged, merged.size_bytes)


def whole_text(layers: Layers, stored: Text) -> Text:
    """The JSON of a block and of all that waits for it."""
    order = None
    if layers.merged is not None and layers.merged.has_replaced:
        order = _order(_stacked(layers.stored, layers.parts), len(layers.stored))
    return _joined(stored, layers.stored, layers.parts, order)


def _stacked(rows: Rows, parts: Sequence[Part]) -> Rows:
    """Rows of a block and those of parts behind them."""
    return np.frombuffer(rows.tobytes() + posted.rows_of(parts), ROW)


def _joined(text: Text, rows: Rows, parts: Sequence[Part], order: I64 | None) -> Text:
    """The JSON of a block and of parts on top."""
    if order is None:
        return text.longer(posted.json_of(parts))
    pieces = list(text.pieces(rows))
    for part in parts:
        pieces += part.pieces
    return Text(element_json.listed([pieces[index] for index in order.tolist()]))


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
