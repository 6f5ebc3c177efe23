"""Annotations in a version merge: element by element, so that two sides may work in one block.

What elements are found by follows from the elements. Their supervoxels are those that one of the sides had looked up;
which are true in the joined labels is told by these since the sides parted, as their log holds the records of both.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import numpy as np

from app.core.geometry import Triple
from app.datatypes.annotation import blocks, deltas, keys, storing, table
from app.datatypes.annotation.blocks import Block
from app.datatypes.annotation.table import Rows
from app.formats import element_json
from app.versioning.merge import Settling, Sides

#: Blocks joined at a time.
_BATCH = 512

_Element = tuple[Rows, bytes]
_Elements = Mapping[bytes, _Element]


async def merge(sides: Sides) -> list[str]:
    """Bring one side's elements into the target; the conflicts."""
    conflicts = [f"the list of label {label}" for label in await _join_given(sides)]
    if keys.GRID in sides.changes and not await sides.join(keys.GRID):
        return [*conflicts, "the size of the blocks"]
    first, last = keys.all_blocks()
    changed = keys.places([key for key in sides.changes if first <= key < last], first)
    places = sorted({*changed, *(await deltas.load(sides.side)).places()})
    for start in range(0, len(places), _BATCH):
        conflicts += await _join_blocks(sides, places[start : start + _BATCH])
    if keys.LABELS in sides.changes or places:
        sides.put(keys.LABELS, await sides.base.get(keys.LABELS))
    return conflicts


async def _join_given(sides: Sides) -> list[int]:
    first, last = keys.all_given()
    names = [key for key in sides.changes if first <= key < last]
    return [keys.label_given(key) for key in names if not await sides.join(key)]


async def _join_blocks(sides: Sides, places: Sequence[Triple]) -> list[str]:
    conflicts: list[str] = []
    readers = (sides.base, sides.target, sides.side)
    fetched = [await blocks.fetch(reader, places) for reader in readers]
    for zyx, was, ours, theirs in zip(places, *fetched, strict=True):
        joined, found = _join(_elements(was), _elements(ours), _elements(theirs), sides.settling)
        conflicts += found
        rows = table.joined(row for row, _ in joined.values())
        storing.put(sides.target, zyx, ours, rows, [piece for _, piece in joined.values()])
    return conflicts


def _elements(block: Block) -> _Elements:
    """The elements by their positions, in the order stored."""
    rows = block.rows
    names = [bytes(position) for position in rows["position"]]
    return {name: (rows[i : i + 1], block.pieces[i]) for i, name in enumerate(names)}


def _join(was: _Elements, ours: _Elements, theirs: _Elements, settling: Settling) -> tuple[_Elements, list[str]]:
    """The elements after the merge, and at which points the sides are in conflict."""
    joined, conflicts = dict(ours), list[str]()
    for name in {**was, **theirs}:
        before, our, their = (_json(elements.get(name)) for elements in (was, ours, theirs))
        if their in (before, our):
            continue
        if our == before:
            if their is None:
                del joined[name]
            else:
                joined[name] = theirs[name]
            continue
        point = np.frombuffer(name, "<i4").tolist()
        conflicts.append(f"the element at {point}")
        if settling is Settling.MARK:
            joined[name] = _mark(point)
    return joined, conflicts


def _json(element: _Element | None) -> bytes | None:
    return None if element is None else element[1]


def _mark(point: Sequence[int]) -> _Element:
    """An element that neither side has."""
    x, y, z = point
    rows, pieces = table.prepare([element_json.Element((x, y, z), prop={"conflict": uuid.uuid4().hex})])
    return rows, pieces[0]
