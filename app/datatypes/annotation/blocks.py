"""Blocks of elements: the JSON of each in the order stored, and a row of numbers for each.

With the rows at hand nothing that reads has to parse JSON: answers are cut from it and joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from app.core.geometry import Box, Triple
from app.datatypes.annotation import deltas, keys, layers, texts
from app.datatypes.annotation.table import NO_ROWS, Bools, Rows
from app.datatypes.annotation.texts import NO_TEXT, Text
from app.versioning.snapshot import Reader


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


EMPTY = Block(NO_ROWS, NO_TEXT)


async def fetch_rows(reader: Reader, zyxs: Sequence[Triple]) -> list[Rows]:
    """The rows of blocks; none for blocks without elements."""
    ready = layers.ready(reader, await deltas.load(reader), zyxs, has_text=False)
    absent = [zyx for zyx, known in zip(zyxs, ready, strict=True) if known is None]
    rest = iter(await layers.fetch(reader, absent) if absent else ())
    return [next(rest).rows if known is None else known.rows for known in ready]


async def fetch(reader: Reader, zyxs: Sequence[Triple]) -> list[Block]:
    """Blocks in the order asked; those without elements are empty."""
    seen = await deltas.load(reader)
    ready = layers.ready(reader, seen, zyxs, has_text=True)
    absent = [zyx for zyx, known in zip(zyxs, ready, strict=True) if known is None]
    rest = iter(await _fetch_whole(reader, absent) if absent else ())
    return [
        next(rest) if known is None else Block(known.rows, known.text or NO_TEXT, None, seen.end) for known in ready
    ]


async def _fetch_whole(reader: Reader, zyxs: Sequence[Triple]) -> list[Block]:
    """Blocks with what is stored below."""
    found_layers = await layers.fetch(reader, zyxs)
    jsons = await texts.fetch(reader, zyxs, [each.stored for each in found_layers])
    found = []
    for zyx, each, text in zip(zyxs, found_layers, jsons, strict=True):
        merged = each.merged
        if merged is None:
            found.append(Block(each.stored, text, None, each.folded))
            continue
        if merged.text is None:
            merged = replace(merged, text=layers.whole_text(each, text))
            layers.remember(reader, keys.rows(zyx), merged)
        found.append(Block(merged.rows, merged.text or NO_TEXT, Block(each.stored, text), each.folded))
    return found


async def fetch_waiting(reader: Reader, zyxs: Sequence[Triple]) -> list[bool]:
    """Whether anything waits, or did when it was written, for each block."""
    seen = await deltas.load(reader)
    return [bool(seen.parts(zyx)) for zyx in zyxs]
