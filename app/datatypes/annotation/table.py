"""Elements as a table: a row of numbers for each, beside its JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.geometry import Triple
from app.formats import element_json
from app.formats.element_json import I32, Element
from app.kernels.places import grouped as grouped_places

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
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


def by_block(positions: npt.NDArray[np.integer[Any]], grid: Triple) -> tuple[list[Triple], I64, I64]:
    """Points x, y, z by block (of shape z, y, x): the blocks z, y, x in order, the order of the points in which those
    of a block follow one another as given, and where in it each block begins, with the end.
    """
    blocks, order, starts = grouped_places(positions[:, ::-1].astype(np.int64) // np.array(grid, np.int64))
    return [(z, y, x) for z, y, x in blocks.tolist()], order, starts


def grouped(positions: npt.NDArray[np.integer[Any]], grid: Triple) -> list[tuple[Triple, I64]]:
    """Points x, y, z by block (of shape z, y, x): the block z, y, x and the indices of its points, in order."""
    names, order, starts = by_block(positions, grid)
    return list(zip(names, np.split(order, starts[1:-1]), strict=True)) if names else []


def numbers_within(positions: I32, grid: Triple) -> I64:
    """The number of each position x, y, z within its block of shape z, y, x."""
    z, y, x = (positions[:, 2 - axis].astype(np.int64) % side for axis, side in enumerate(grid))
    return (z * grid[1] + y) * grid[2] + x
