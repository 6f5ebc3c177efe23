"""Neuroglancer's precomputed annotations: points with a kind, their bodies, cells of a spatial index.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/annotations.md
A point is packed as three float32 (the middle of its voxel), the kind as uint8, and padding to four bytes. Its number
says where it is: three fields of 21 bits, z, y, x, each with 2^20 added.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.geometry import Box, Triple
from app.formats.element_json import I32, KINDS

U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

BY_ID, BODIES = "by_id", "bodies"
_FIELD = 21
#: Coordinates from -REACH up to but without REACH have numbers.
REACH = 1 << (_FIELD - 1)
_POINT = np.dtype([("position", "<f4", 3), ("kind", "u1"), ("padding", "u1", 3)])
_INTEGER = r"(0|-?[1-9][0-9]{0,9})"
_KEY = re.compile(rf"{_INTEGER}_{_INTEGER}_{_INTEGER}_([1-9][0-9]{{0,9}})_([0-9]{{1,5}})_([0-9]{{1,5}})")
_CELL = re.compile("_".join(["([0-9]{1,10})"] * 3))
#: An element's draw is from 0 up to this; a level of the index has those whose draws lie between two numbers.
DRAWS = 1 << 16
#: About so many elements a cell of the index has; the next level, of half the side, has eight times as many cells.
LIMIT = 10_000
_FINEST = 64


_WORLD = Box((-REACH,) * 3, (REACH,) * 3)


@dataclass(frozen=True)
class Level:
    """A level of the spatial index: cubes of `side` voxels from `start` on (x, y, z), and the draws that it has.

    Its key says all this, so that a cell is what its name says whatever was written since.
    """

    start: Triple
    side: int
    first: int
    stop: int

    @property
    def key(self) -> str:
        """The folder of its cells."""
        return "_".join(map(str, (*self.start, self.side, self.first, self.stop)))

    def cell(self, place: Triple) -> Box:
        """The voxels of a cell, given by its place x, y, z in the grid."""
        x, y, z = (start + at * self.side for start, at in zip(self.start, place, strict=True))
        return Box.at((x, y, z), (self.side, self.side, self.side)).intersect(_WORLD)


def parse_cell(file: str) -> tuple[Level, Triple] | None:
    """The level and place of a cell's file, or None if it is no such name."""
    folder, _, name = file.partition("/")
    key, cell = _KEY.fullmatch(folder), _CELL.fullmatch(name)
    if key is None or cell is None:
        return None
    x, y, z, side, first, stop = map(int, key.groups())
    if not first < stop <= DRAWS:
        return None
    i, j, k = map(int, cell.groups())
    return Level((x, y, z), side, first, stop), (i, j, k)


def levels(count: int, low: Triple, high: Triple) -> list[Level]:
    """The levels for so many elements from one point x, y, z to another, the coarsest first."""
    side = _FINEST
    while side < max(b - a + 1 for a, b in zip(low, high, strict=True)):
        side *= 2
    x, y, z = (at // _FINEST * _FINEST for at in low)
    found, stop = list[Level](), 0
    while stop < DRAWS:
        share = LIMIT * 8 ** len(found) / max(count, 1)
        first, stop = stop, DRAWS if side <= _FINEST else min(DRAWS, stop + max(1, int(DRAWS * share)))
        found.append(Level((x, y, z), side, first, stop))
        side = max(_FINEST, side // 2)
    return found


def info(high: Triple, index: Sequence[Level], voxel_nm: Sequence[float], has_bodies: bool) -> dict[str, Any]:
    """The `info` file for elements up to a point x, y, z."""
    start = index[0].start
    extent = [b + 1 - a for a, b in zip(start, high, strict=True)]
    return {
        "@type": "neuroglancer_annotations_v1",
        "dimensions": {axis: [size / 1e9, "m"] for axis, size in zip("xyz", voxel_nm, strict=True)},
        "lower_bound": list(start),
        "upper_bound": [at + 1 for at in high],
        "annotation_type": "POINT",
        "properties": [
            {"id": "kind", "type": "uint8", "enum_values": list(range(len(KINDS))), "enum_labels": list(KINDS)}
        ],
        "relationships": [{"id": "body", "key": BODIES}] if has_bodies else [],
        "by_id": {"key": BY_ID},
        "spatial": [
            {
                "key": level.key,
                "grid_shape": [-(-size // level.side) for size in extent],
                "chunk_size": [level.side] * 3,
                "limit": LIMIT,
            }
            for level in index
        ],
    }


def have_numbers(positions: I32) -> Bools:
    """Which points x, y, z are near enough to have numbers."""
    near: Bools = (positions >= -REACH) & (positions < REACH)
    return near[:, 0] & near[:, 1] & near[:, 2]


def numbers(positions: I32) -> U64:
    """The numbers of points x, y, z."""
    x, y, z = ((positions[:, axis].astype(np.int64) + REACH).astype(np.uint64) for axis in range(3))
    found: U64 = z << np.uint64(2 * _FIELD) | y << np.uint64(_FIELD) | x
    return found


def point(number: int) -> Triple | None:
    """The point x, y, z of a number; None if it is nobody's."""
    if number >> 3 * _FIELD:
        return None
    x, y, z = ((number >> shift & (1 << _FIELD) - 1) - REACH for shift in (0, _FIELD, 2 * _FIELD))
    return x, y, z


def draws(positions: I32) -> U64:
    """A number from 0 to `DRAWS` for each point, as if drawn at random but always the same."""
    mixed = numbers(positions) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ mixed >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9)
    drawn: U64 = mixed >> np.uint64(48)
    return drawn


def _packed(positions: I32, kinds: U8) -> bytes:
    rows = np.zeros(len(positions), _POINT)
    rows["position"], rows["kind"] = positions + 0.5, kinds
    return rows.tobytes()


def encode_many(positions: I32, kinds: U8) -> bytes:
    """Points of a cell or of a body: their number, what they are, their numbers."""
    count = len(positions).to_bytes(8, "little")
    return count + _packed(positions, kinds) + numbers(positions).astype("<u8").tobytes()


def encode_one(positions: I32, kinds: U8, bodies: Sequence[int] | None) -> bytes:
    """One point, with its bodies if the annotations have the relationship."""
    packed = _packed(positions, kinds)
    if bodies is None:
        return packed
    return packed + len(bodies).to_bytes(4, "little") + np.array(bodies, "<u8").tobytes()
