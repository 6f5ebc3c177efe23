"""Reading elements: in boxes, blocks and regions, by tag and by label. Answers are JSON, cut from what is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal

import numpy as np

from app.core.errors import Invalid
from app.core.geometry import Box, Triple
from app.datatypes import roi
from app.datatypes.annotation import blocks, finding, keys, labels, table
from app.datatypes.annotation.blocks import Block
from app.datatypes.annotation.labels import Labels, View
from app.datatypes.annotation.table import Bools, Rows
from app.datatypes.annotation.texts import Text
from app.formats import element_json
from app.formats.element_json import Element, Partner, VerboseElement
from app.versioning.datastore import Data
from app.versioning.log import SEQUENCE
from app.versioning.snapshot import Snapshot

#: How much an answer tells of relations: nothing, the relations, or also the partners.
Relations = Literal["", "true", "verbose"]
#: Blocks fetched at once: bounds the memory of a long answer.
BATCH = 512
NOTHING = b"null"


async def in_box(data: Data, snapshot: Snapshot, box: Box) -> bytes:
    """The elements in a box of voxels: a list, or null if there are none."""
    grid = await labels.grid(data, snapshot)
    found: list[bytes] = []
    async for part in _batches(snapshot, await finding.places_in(snapshot, box.blocks(grid))):
        for zyx, block in part:
            corner = tuple(a * b for a, b in zip(zyx, grid, strict=True))
            inner = Box((0, 0, 0), grid).shift(corner)  # type: ignore[arg-type]
            whole = box.intersect(inner) == inner
            found += [block.text.json[1:-1]] if whole else block.chosen(block.within(box))
    return element_json.listed(found) if found else NOTHING


async def _batches(snapshot: Snapshot, places: Sequence[Triple]) -> AsyncIterator[list[tuple[Triple, Block]]]:
    """Blocks that have elements, in batches."""
    for start in range(0, len(places), BATCH):
        part = places[start : start + BATCH]
        fetched = await blocks.fetch(snapshot, part)
        yield [(zyx, block) for zyx, block in zip(part, fetched, strict=True) if len(block.rows)]


async def in_blocks(snapshot: Snapshot, places: Sequence[Triple]) -> AsyncIterator[bytes]:
    """The pieces of a JSON object: block `x,y,z` to its list, in order of z, y, x."""
    separator = b"{"
    async for part in _batches(snapshot, places):
        pieces = []
        for (z, y, x), block in part:
            pieces.append(b'%s"%d,%d,%d":%s' % (separator, x, y, z, block.text.json))
            separator = b","
        yield b"".join(pieces)
    yield b"{}" if separator == b"{" else b"}"


async def in_region(data: Data, snapshot: Snapshot, mask: roi.Mask) -> bytes:
    """The elements in a region of interest, whose blocks must be those of the elements; null if there are none."""
    grid = await labels.grid(data, snapshot)
    if mask.block != grid:
        raise Invalid(
            f"the region's blocks of {mask.block[::-1]} voxels are not those of the annotations, {grid[::-1]}"
        )
    places = await finding.all_places(snapshot)
    corners = np.array(places, np.int64).reshape(-1, 3)[:, ::-1] * np.array(grid[::-1])
    inside = [places[index] for index in np.flatnonzero(mask.contains(corners)).tolist()]
    found = [block.text.json[1:-1] async for part in _batches(snapshot, inside) for _, block in part]
    return element_json.listed(found) if found else NOTHING


async def by_tag(data: Data, snapshot: Snapshot, tag: str, relations: Relations) -> bytes:
    """The elements with a tag, a list."""
    places = await finding.tagged_places(snapshot, tag)
    tag = tag.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    chosen: list[tuple[Block, Bools]] = []
    async for part in _batches(snapshot, places):
        for _, block in part:
            chosen.append((block, element_json.have_tag(block.text.json, tag)))
    return await _listed(data, snapshot, chosen, relations)


async def by_label(data: Data, snapshot: Snapshot, now: Labels | None, label: int, relations: Relations) -> bytes:
    """The elements in a body, a list; or what a client posted for the label instead."""
    if label == 0:
        raise Invalid("label 0 is the background and cannot be asked for")
    state = (await snapshot.get(SEQUENCE), now and now.position)
    name = keys.given(label)
    known = snapshot.recall(name, relations)
    if known is not None and known[0] == state:
        remembered: bytes = known[1]
        return remembered
    given = await snapshot.get(name)
    if given is not None:
        rows, pieces = table.prepare(element_json.parse_elements(given))
        block = Block(rows, Text(element_json.listed(pieces)))
        answer = await _listed(data, snapshot, [(block, np.ones(len(rows), bool))], relations)
    elif now is None:
        answer = b"[]"
    else:
        answer = await _listed(data, snapshot, await _in_label(data, snapshot, now, label), relations)
    snapshot.remember(name, relations, (state, answer), len(answer) + 200)
    return answer


async def _in_label(data: Data, snapshot: Snapshot, now: Labels, label: int) -> list[tuple[Block, Bools]]:
    view = await labels.view(data, snapshot, now)
    members = await now.members(label)
    wanted = np.array(members, np.uint64)
    found: list[tuple[Block, Bools]] = []
    async for part in _batches(snapshot, await view.places(members)):
        for zyx, block in part:
            found.append((block, np.isin(view.corrected(zyx, block.rows), wanted)))
    return found


async def rows_in_label(data: Data, snapshot: Snapshot, now: Labels, label: int) -> Rows:
    """The rows of the elements in a body."""
    view = await labels.view(data, snapshot, now)
    members = await now.members(label)
    wanted = np.array(members, np.uint64)
    found: list[Rows] = []
    places = await view.places(members)
    for zyx, rows in zip(places, await blocks.fetch_rows(snapshot, places), strict=True):
        found.append(rows[np.isin(view.corrected(zyx, rows), wanted)])
    return table.joined(found)


async def all_rows(snapshot: Snapshot, view: View) -> Rows:
    """The rows of all elements, with their supervoxels as the view knows them."""
    places = await finding.all_places(snapshot)
    found: list[Rows] = []
    for zyx, rows in zip(places, await blocks.fetch_rows(snapshot, places), strict=True):
        if zyx in view.moved:
            rows = rows.copy()
            rows["supervoxel"] = view.moved[zyx]
        found.append(rows)
    return table.joined(found)


async def _listed(data: Data, snapshot: Snapshot, chosen: Sequence[tuple[Block, Bools]], relations: Relations) -> bytes:
    pieces = [piece for block, rows in chosen if rows.any() for piece in block.chosen(rows, bare=not relations)]
    if relations == "verbose":
        pieces = await _verbose(data, snapshot, list(map(element_json.decode, pieces)))
    return element_json.listed(pieces)


async def _verbose(data: Data, snapshot: Snapshot, elements: Sequence[Element]) -> list[bytes]:
    """Elements whose relations tell of their partners."""
    points = list({rel.to for element in elements for rel in element.rels or []})
    partners: dict[Triple, Element] = {}
    groups = table.grouped(np.array(points, np.int64).reshape(-1, 3), await labels.grid(data, snapshot))
    for start in range(0, len(groups), BATCH):
        part = groups[start : start + BATCH]
        for (_, wanted), block in zip(part, await blocks.fetch(snapshot, [zyx for zyx, _ in part]), strict=True):
            at = {tuple(position): index for index, position in enumerate(block.rows["position"].tolist())}
            for point in (points[index] for index in wanted.tolist()):
                if point in at:
                    partners[point] = element_json.decode(block.pieces[at[point]])
    found = []
    for element in elements:
        rels = []
        for rel in element.rels or []:
            partner = partners.get(rel.to)
            known = (partner.kind, partner.tags or [], partner.prop or {}) if partner is not None else ()
            rels.append(Partner(rel.rel, rel.to, *known))
        verbose = VerboseElement(element.pos, element.kind, element.tags or [], element.prop or {}, rels)
        found.append(element_json.encode(verbose))
    return found
