"""Blocks of elements written: what they are found by (tags, supervoxels) goes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from app.core.geometry import Triple
from app.datatypes.annotation import keys, layers, table, texts
from app.datatypes.annotation.blocks import Block
from app.datatypes.annotation.table import U64, Rows
from app.formats import element_json
from app.versioning.mutations import Mutation


def put(mutation: Mutation, zyx: Triple, old: Block, rows: Rows, pieces: Sequence[bytes]) -> None:
    """Replace a block's elements and what it is found by; what waits for it is in `old`, and waits no more."""
    put_rows(mutation, zyx, rows, old.folded)
    if len(rows):
        mutation.put(keys.block(zyx), texts.pack(element_json.listed(pieces)))
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


def put_supervoxels(mutation: Mutation, zyx: Triple, old: U64, new: U64) -> None:
    """Replace the keys by which a block is found by supervoxels."""
    before, after = set(old.tolist()) - {0}, set(new.tolist()) - {0}
    for label in before - after:
        mutation.delete(keys.supervoxel(label, zyx))
    for label in after - before:
        mutation.put(keys.supervoxel(label, zyx), b"")


async def fold(mutation: Mutation, zyxs: Sequence[Triple]) -> list[Triple]:
    """Write what waits for blocks into them; those that have no elements are answered."""
    found = await layers.fetch(mutation, zyxs)
    jsons = await texts.fetch(mutation, zyxs, [each.stored for each in found])
    for zyx, each, stored in zip(zyxs, found, jsons, strict=True):
        if each.merged is None:
            continue
        text = layers.whole_text(each, stored)
        if each.merged.has_replaced:
            merged = Block(each.rows, text, Block(each.stored, stored), each.folded)
            put(mutation, zyx, merged, merged.rows, merged.pieces)
            continue
        put_rows(mutation, zyx, each.rows, each.folded)
        mutation.put(keys.block(zyx), texts.pack(text.json))
        for tag in {tag for part in each.parts for tag, slots in part.delta.tags.items() if part.slot in slots}:
            mutation.put(keys.tagged(tag, zyx), b"")
        put_supervoxels(mutation, zyx, each.stored["supervoxel"], each.rows["supervoxel"])
    return [zyx for zyx, each in zip(zyxs, found, strict=True) if not len(each.rows)]


async def forget(mutation: Mutation, zyxs: Sequence[Triple]) -> None:
    """Remove the rows of blocks without elements for which nothing waits any more."""
    for zyx, each in zip(zyxs, await layers.fetch(mutation, zyxs), strict=True):
        if not (len(each.rows) or each.folded):
            mutation.delete(keys.rows(zyx))


async def move(mutation: Mutation, owners: Mapping[Triple, U64]) -> None:
    """Put the elements of blocks into other supervoxels."""
    zyxs = list(owners)
    await fold(mutation, zyxs)
    for zyx, each in zip(zyxs, await layers.fetch(mutation, zyxs), strict=True):
        rows = each.rows.copy()
        rows["supervoxel"] = owners[zyx]
        put_supervoxels(mutation, zyx, each.rows["supervoxel"], owners[zyx])
        put_rows(mutation, zyx, rows, each.folded)


class Growth(NamedTuple):
    """A block for which nothing waits, its rows, and the rows and JSON of what is added to it at other positions."""

    zyx: Triple
    old: Rows
    new: Rows
    pieces: Sequence[bytes]


async def grow(mutation: Mutation, growing: Sequence[Growth]) -> None:
    """Add elements to blocks."""
    jsons = await texts.fetch(mutation, [each.zyx for each in growing], [each.old for each in growing])
    for (zyx, old, new, pieces), text in zip(growing, jsons, strict=True):
        mutation.put(keys.block(zyx), texts.pack(text.longer(b",".join(pieces)).json))
        put_rows(mutation, zyx, table.joined([old, new]), 0)
        for label in set(new["supervoxel"].tolist()).difference(old["supervoxel"].tolist(), (0,)):
            mutation.put(keys.supervoxel(label, zyx), b"")
    owners = [each.zyx for each in growing for _ in each.pieces]
    tags = element_json.tags_by_element([piece for each in growing for piece in each.pieces])
    for tag, zyx in {(tag, zyx) for listed, zyx in zip(tags, owners, strict=True) for tag in listed}:
        mutation.put(keys.tagged(tag, zyx), b"")
