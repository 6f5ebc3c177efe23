"""Writing elements: every mutation keeps what they are found by (tags, supervoxels) true in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from app.core.errors import DvidError, Invalid
from app.core.geometry import Triple
from app.core.work import Workers
from app.datatypes.annotation import blocks, deltas, folding, keys, labels, replacing, storing, table
from app.datatypes.annotation.labels import Labels
from app.datatypes.annotation.posted import Delta
from app.datatypes.annotation.table import Rows
from app.datatypes.annotation.writer import Prepared, Writer, lookup
from app.formats import element_json
from app.formats.element_json import Element
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation


async def post_elements(writer: Writer, elements: Sequence[Element], workers: Workers) -> None:
    """Add elements; one at the position of another replaces it."""
    prepared = await Prepared.of(writer.data, elements, workers)
    _check_tags(elements, prepared.rows)
    is_delta = len(prepared.rows) <= deltas.MOST_ELEMENTS and sum(map(len, prepared.pieces)) <= deltas.MOST_BYTES
    weights = 0, 0

    async def change(mutation: Mutation, now: Labels | None) -> Sequence[Triple]:
        nonlocal weights
        await prepared.confirm(now)
        if not len(prepared.rows):
            return []
        if not is_delta:
            return await replacing.apply(writer.data, mutation, prepared.rows, prepared.pieces)
        delta = Delta.of(prepared.rows, prepared.pieces, await labels.grid(writer.data, mutation))
        weights = await deltas.add(mutation, delta.encode())
        return delta.places

    await writer.mutate("element-post", {"Elements": len(prepared.rows)}, change)
    if folding.is_due(*weights):
        with suppress(DvidError):  # the elements are there, and whoever posts next may be luckier
            await folding.fold(writer.data, by_admin=writer.author.by_admin)


def _check_tags(elements: Sequence[Element], rows: Rows) -> None:
    """Refuse tags by which no block could be found."""
    if rows["length"].max(initial=0) > keys.MAX_TAG_BYTES:
        for tag in {tag for element in elements for tag in element.tags or []}:
            keys.tagged_range(tag)


async def post_blocks(writer: Writer, given: Mapping[Triple, Sequence[Element]], workers: Workers) -> None:
    """Replace all elements of blocks z, y, x."""
    everything = [element for elements in given.values() for element in elements]
    prepared = await Prepared.of(writer.data, everything, workers)
    rows, pieces = prepared.rows, prepared.pieces

    async def change(mutation: Mutation, now: Labels | None) -> Sequence[Triple]:
        grid = await labels.grid(writer.data, mutation)
        _check_places(given, grid)
        await prepared.confirm(now)
        present = await blocks.fetch(mutation, list(given))
        fresh = dict(table.grouped(rows["position"], grid))
        for zyx, old in zip(given, present, strict=True):
            chosen = fresh.get(zyx, np.empty(0, np.int64))
            storing.put(mutation, zyx, old, rows[chosen], [pieces[index] for index in chosen.tolist()])
        return list(given)

    await writer.mutate("blocks-post", {"Blocks": len(given), "Elements": len(rows)}, change)


def _check_places(given: Mapping[Triple, Sequence[Element]], grid: Triple) -> None:
    """Refuse elements in blocks where they do not lie."""
    for (z, y, x), elements in given.items():
        places = element_json.positions(elements)[:, ::-1] // np.array(grid)
        if (places != (z, y, x)).any():
            raise Invalid(f"block {x},{y},{z} is given an element that lies in another block")


async def delete(writer: Writer, point: Triple) -> None:
    """Remove the element at a point x, y, z, and its partners' relations to it."""

    async def change(mutation: Mutation, now: Labels | None) -> None:
        element, partners = await _with_partners(writer.data, mutation, point)
        for partner in partners:
            partner.rels = [rel for rel in partner.rels or [] if rel.to != point]
        await _apply_elements(writer.data, mutation, now, partners, gone=[element])

    await writer.mutate("element-delete", {"Point": list(point)}, change)


async def move(writer: Writer, start: Triple, end: Triple) -> None:
    """Move an element from a point x, y, z to another, where none must be; its partners' relations follow."""

    async def change(mutation: Mutation, now: Labels | None) -> None:
        element, partners = await _with_partners(writer.data, mutation, start)
        if start == end:
            return
        if await _element_at(writer.data, mutation, end) is not None:
            raise Invalid(f"there is an element at {end} already")
        gone = element_json.Element(start)
        for changed in [element, *partners]:
            for rel in changed.rels or []:
                if rel.to == start:
                    rel.to = end
        element.pos = end
        await _apply_elements(writer.data, mutation, now, [element, *partners], gone=[gone])

    await writer.mutate("element-move", {"From": list(start), "To": list(end)}, change)


async def _element_at(data: Data, mutation: Mutation, point: Triple) -> Element | None:
    (z, y, x) = (a // b for a, b in zip(point[::-1], await labels.grid(data, mutation), strict=True))
    (block,) = await blocks.fetch(mutation, [(z, y, x)])
    index = block.find(point)
    return None if index is None else element_json.decode(block.pieces[index])


async def _with_partners(data: Data, mutation: Mutation, point: Triple) -> tuple[Element, list[Element]]:
    """The element at a point, and those to which it names relations."""
    element = await _element_at(data, mutation, point)
    if element is None:
        raise Invalid(f"there is no element at {point}")
    named = dict.fromkeys(rel.to for rel in element.rels or [] if rel.to != point)
    found = [await _element_at(data, mutation, place) for place in named]
    return element, [partner for partner in found if partner is not None]


async def _apply_elements(
    data: Data, mutation: Mutation, now: Labels | None, changed: Sequence[Element], gone: Sequence[Element]
) -> None:
    rows, pieces = table.prepare([*gone, *changed])
    rows["supervoxel"] = await lookup(rows["position"], now)
    await replacing.apply(data, mutation, rows, [*[None for _ in gone], *pieces[len(gone) :]])


async def post_lists(writer: Writer, lists: Mapping[int, Sequence[Element]]) -> None:
    """Set what is answered for labels, whatever lies in them, until the instance is reloaded."""

    async def change(mutation: Mutation, now: Labels | None) -> None:
        for label, elements in lists.items():
            mutation.put(keys.given(label), element_json.listed(list(map(element_json.encode, elements))))

    await writer.mutate("labels-post", {"Labels": list(lists)}, change)
