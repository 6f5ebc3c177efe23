"""Writing elements: every mutation keeps what they are found by (tags, supervoxels) true in the same transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from app.core.errors import DvidError, Invalid
from app.core.geometry import Triple
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.annotation import blocks, deltas, folding, keys, labels, table
from app.datatypes.annotation.blocks import Block
from app.datatypes.annotation.deltas import Delta
from app.datatypes.annotation.events import written
from app.datatypes.annotation.labels import Labels
from app.datatypes.annotation.table import I64, U64, Rows
from app.formats import element_json
from app.formats.element_json import I32, Element
from app.versioning.datastore import Data
from app.versioning.log import Record
from app.versioning.tree import Mutation

#: A change, which is told the labels of now, and tells the blocks that it wrote if the log shall know.
Change = Callable[[Mutation, Labels | None], Awaitable[Sequence[Triple] | None]]


@dataclass(frozen=True)
class Writer:
    """Who writes to which instance, and whether nobody shall be sent a message about it."""

    data: Data
    user: str
    app: str
    by_admin: bool
    is_silent: bool = False

    async def mutate(self, action: str, arguments: Mapping[str, Any], change: Change) -> None:
        """Run a change in one transaction with its record in the log."""
        data = self.data
        silent = {"silent": True} if self.is_silent else {}
        record = Record(action, data.home.uuid, await data.mutation_id(), self.user, self.app, {**arguments, **silent})

        async def work(mutation: Mutation) -> None:
            if await mutation.get(keys.GRID) is None:
                mutation.put(keys.GRID, np.array(await labels.grid(data, mutation), "<i4").tobytes())
            places = await change(mutation, await labels.settle(mutation, data))
            told = {} if places is None else written(mutation.generation + 1, places)
            mutation.record(replace(record, arguments={**record.arguments, **told}))

        await data.mutate(work, by_admin=self.by_admin)


async def _lookup(positions: I32, labels_now: Labels | None) -> U64:
    if labels_now is None:
        return np.zeros(len(positions), np.uint64)
    return await labels_now.supervoxels(positions.astype(np.int64))


@dataclass
class _Prepared:
    """Rows and JSON of elements, looked up in labels before the transaction."""

    rows: Rows
    pieces: list[bytes]
    labels: Labels | None

    @staticmethod
    async def of(data: Data, elements: Sequence[Element], workers: Workers) -> _Prepared:
        """The elements in the labels of now."""
        rows, pieces = await workers.run(table.prepare, elements)
        now = await labels.current(data)
        rows["supervoxel"] = await _lookup(rows["position"], now)
        return _Prepared(rows, pieces, now)

    async def confirm(self, now: Labels | None) -> None:
        """Look up supervoxels again if the labels have changed since they were looked up."""
        if (self.labels and self.labels.position) != (now and now.position):
            self.rows["supervoxel"] = await _lookup(self.rows["position"], now)
            self.labels = now


async def post_elements(writer: Writer, elements: Sequence[Element], workers: Workers) -> None:
    """Add elements; one at the position of another replaces it."""
    prepared = await _Prepared.of(writer.data, elements, workers)
    _check_tags(elements, prepared.rows)
    is_delta = len(prepared.rows) <= deltas.MOST_ELEMENTS and sum(map(len, prepared.pieces)) <= deltas.MOST_BYTES
    weights = 0, 0

    async def change(mutation: Mutation, now: Labels | None) -> Sequence[Triple]:
        nonlocal weights
        await prepared.confirm(now)
        if not len(prepared.rows):
            return []
        if not is_delta:
            return await _apply(writer.data, mutation, prepared.rows, prepared.pieces)
        delta = Delta.of(prepared.rows, prepared.pieces, await labels.grid(writer.data, mutation))
        weights = await deltas.add(mutation, delta.encode())
        return delta.places

    await writer.mutate("element-post", {"Elements": len(prepared.rows)}, change)
    if folding.is_due(*weights):
        with suppress(DvidError):  # the elements are there, and whoever posts next may be luckier
            await folding.fold(writer.data, by_admin=writer.by_admin)


def _check_tags(elements: Sequence[Element], rows: Rows) -> None:
    """Refuse tags by which no block could be found."""
    if rows["length"].max(initial=0) > keys.MAX_TAG_BYTES:
        for tag in {tag for element in elements for tag in element.tags or []}:
            keys.tagged_range(tag)


async def _apply(data: Data, mutation: Mutation, rows: Rows, pieces: Sequence[bytes | None]) -> list[Triple]:
    """Put elements where they belong, in the place of those at the same positions; without JSON: remove those.

    The blocks concerned are answered.
    """
    grid = await labels.grid(data, mutation)
    groups = table.grouped(rows["position"], grid)
    zyxs = [zyx for zyx, _ in groups]
    present, waiting = await blocks.fetch_rows(mutation, zyxs), await blocks.fetch_waiting(mutation, zyxs)
    growing: list[tuple[Triple, Rows, Rows, list[bytes]]] = []
    mixing: dict[Triple, tuple[Rows, list[bytes | None]]] = {}
    meeting = _meeting(groups, present, rows, grid)
    for (zyx, chosen), old, is_met, waits in zip(groups, present, meeting, waiting, strict=True):
        new_pieces = [pieces[index] for index in chosen.tolist()]
        if waits or is_met or None in new_pieces:
            mixing[zyx] = rows[chosen], new_pieces
        else:
            growing.append((zyx, old, rows[chosen], [piece for piece in new_pieces if piece is not None]))
    await blocks.grow(mutation, growing)
    for old_block, (zyx, mixed) in zip(await blocks.fetch(mutation, list(mixing)), mixing.items(), strict=True):
        _mix(mutation, zyx, old_block, *mixed, grid)
    return zyxs


def _meeting(groups: Sequence[tuple[Triple, I64]], present: Sequence[Rows], rows: Rows, grid: Triple) -> list[bool]:
    """For each block whether new rows meet old ones at the same positions."""
    if not groups:
        return []
    side = grid[0] * grid[1] * grid[2]
    old = np.repeat(np.arange(len(present)), list(map(len, present))) * side
    old += table.numbers_within(table.joined(present)["position"], grid)
    order = np.concatenate([chosen for _, chosen in groups])
    counts = [len(chosen) for _, chosen in groups]
    new = np.repeat(np.arange(len(groups)), counts) * side + table.numbers_within(rows["position"][order], grid)
    starts = np.cumsum(counts, dtype=np.int64) - counts
    old = np.append(np.sort(old, kind="stable"), -1)
    is_met = old[np.searchsorted(old[:-1], new)] == new
    met: list[bool] = (np.add.reduceat(is_met, starts) > 0).tolist()
    return met


def _mix(mutation: Mutation, zyx: Triple, old: Block, rows: Rows, pieces: Sequence[bytes | None], grid: Triple) -> None:
    """The same in one block, where elements are replaced or removed."""
    places = _places(old.rows, rows, grid)
    is_there = np.array([piece is not None for piece in pieces])
    added, replaced = is_there & (places < 0), is_there & (places >= 0)
    new_rows = table.joined([old.rows, rows[added]])
    new_rows[places[replaced]] = rows[replaced]
    new_pieces = [*old.pieces, *[pieces[index] for index in np.flatnonzero(added).tolist()]]
    for place, index in zip(places[replaced].tolist(), np.flatnonzero(replaced).tolist(), strict=True):
        new_pieces[place] = pieces[index]
    kept = np.setdiff1d(np.arange(len(new_rows)), places[~is_there])
    kept_pieces = [piece for piece in (new_pieces[index] for index in kept.tolist()) if piece is not None]
    blocks.put(mutation, zyx, old, new_rows[kept], kept_pieces)


def _places(old: Rows, new: Rows, grid: Triple) -> I64:
    """For each row of one block the index of the old row at the same position, or -1."""
    if not len(old):
        return np.full(len(new), -1)
    known, wanted = (table.numbers_within(rows["position"], grid) for rows in (old, new))
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)
    return np.where(known[order[at]] == wanted, order[at], -1)


async def post_blocks(writer: Writer, given: Mapping[Triple, Sequence[Element]], workers: Workers) -> None:
    """Replace all elements of blocks z, y, x."""
    everything = [element for elements in given.values() for element in elements]
    prepared = await _Prepared.of(writer.data, everything, workers)
    rows, pieces = prepared.rows, prepared.pieces

    async def change(mutation: Mutation, now: Labels | None) -> Sequence[Triple]:
        grid = await labels.grid(writer.data, mutation)
        _check_places(given, grid)
        await prepared.confirm(now)
        present = await blocks.fetch(mutation, list(given))
        fresh = dict(table.grouped(rows["position"], grid))
        for zyx, old in zip(given, present, strict=True):
            chosen = fresh.get(zyx, np.empty(0, np.int64))
            blocks.put(mutation, zyx, old, rows[chosen], [pieces[index] for index in chosen.tolist()])
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
    rows["supervoxel"] = await _lookup(rows["position"], now)
    await _apply(data, mutation, rows, [*[None for _ in gone], *pieces[len(gone) :]])


async def post_lists(writer: Writer, lists: Mapping[int, Sequence[Element]]) -> None:
    """Set what is answered for labels, whatever lies in them, until the instance is reloaded."""

    async def change(mutation: Mutation, now: Labels | None) -> None:
        for label, elements in lists.items():
            mutation.put(keys.given(label), element_json.listed(list(map(element_json.encode, elements))))

    await writer.mutate("labels-post", {"Labels": list(lists)}, change)


async def reload(writer: Writer) -> None:
    """Look up all elements anew, forget the lists posted for labels, and cut the blocks as the labels are cut.

    Nothing needs this to be answered rightly, save that lists are posted to be answered instead.
    """
    data = writer.data

    async def change(mutation: Mutation, now: Labels | None) -> None:
        mutation.delete_range(*keys.all_given())
        source = labels.source(data)
        shape = labels.DEFAULT_GRID if source is None else voxels.block_shape(source)
        if shape != await labels.grid(data, mutation):
            await _regrid(mutation, shape)
        await labels.settle(mutation, data, anew=True)

    await writer.mutate("reload", {}, change)


async def synced(data: Data, _others: Sequence[Data], user: str, app: str, by_admin: bool) -> None:
    """Look up the elements that are there in the labels that the instance has just been synced with."""

    async def nothing_else(_mutation: Mutation, _now: Labels | None) -> None:
        pass

    if not (await data.head()).generation:
        return
    await Writer(data, user, app, by_admin).mutate("sync", {}, nothing_else)


async def _regrid(mutation: Mutation, shape: Triple) -> None:
    """Cut the elements into blocks of another shape z, y, x."""
    places = await blocks.all_places(mutation)
    await blocks.fold(mutation, places)
    await deltas.remove(mutation)
    present = await blocks.fetch(mutation, places)
    rows = table.joined(block.rows for block in present)
    pieces = [piece for block in present for piece in block.pieces]
    for zyx, block in zip(places, present, strict=True):
        blocks.put(mutation, zyx, block, table.NO_ROWS, [])
    mutation.put(keys.GRID, np.array(shape, "<i4").tobytes())
    for zyx, chosen in table.grouped(rows["position"], shape):
        blocks.put(mutation, zyx, blocks.EMPTY, rows[chosen], [pieces[index] for index in chosen.tolist()])
