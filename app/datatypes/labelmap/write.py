"""Writing voxels: blocks of scale 0 with their index, and the coarser scales, in one transaction.

A write is prepared in threads before it enters the tree's queue: blocks are encoded, counted and reduced. What is left
for the transaction is to compare with the blocks that are there, which it alone may read.

Reduction: a voxel of scale s + 1 is the most frequent non-zero label of its eight, the smallest of equals, else 0.
A block's part of every coarser scale depends on that block alone, so overwriting it replaces just these parts.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid
from app.core.geometry import Box, Triple
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.author import Author
from app.datatypes.labelmap import blocks, counters, deltas, index, keys, touched
from app.datatypes.labelmap.blocks import U8
from app.datatypes.labelmap.keys import U64
from app.kernels import downres, label_block
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation


class Mask(Protocol):
    """A region of interest."""

    def mask(self, box: Box) -> npt.NDArray[np.bool_]:
        """Which voxels of a box it covers: bool z, y, x."""


@dataclass
class Prepared:
    """A block ready to be stored: its bytes, its labels and their counts, its part of each coarser scale."""

    zyx: Triple
    stored: bytes
    labels: U64
    voxels: npt.NDArray[np.uint32]
    reduced: list[U64] = field(default_factory=list)


def prepare_dense(zyx: Triple, dense: U64, scales: int) -> Prepared:
    """Encode, count and reduce one block of dense labels, uint64 z, y, x."""
    block = label_block.encode(dense)
    return prepared(zyx, blocks.pack(block), block, dense, scales)


def prepare_packed(zyx: Triple, payload: bytes, shape: Triple, scales: int) -> Prepared:
    """Check, count and reduce one block that a client sent as gzip of a label block; its bytes are kept."""
    block = blocks.unpack_untrusted(payload, shape)
    dense = None
    if scales:
        dense = np.empty(shape, np.uint64)
        label_block.decode(block, dense)
    return prepared(zyx, payload, block, dense, scales)


def prepared(zyx: Triple, stored: bytes, block: U8, dense: U64 | None, scales: int) -> Prepared:
    """Count and reduce a block whose bytes and dense labels are at hand."""
    labels, numbers = label_block.counts(block)
    reduced = []
    for _ in range(scales):
        assert dense is not None
        if any(side % 2 for side in dense.shape):
            break
        dense = downres.halve(dense)
        reduced.append(dense)
    return Prepared(zyx, stored, labels, numbers, reduced)


async def prepare_volume(data: Data, volume: U64, start: Triple, scales: int, workers: Workers) -> list[Prepared]:
    """Cut a dense volume (uint64 z, y, x, at voxel `start`; whole blocks) and prepare its blocks."""
    shape = voxels.block_shape(data)
    whole = Box((0, 0, 0), volume.shape).shift(start)
    items: list[tuple[object, ...]] = []
    for zyx in whole.blocks(shape).points():
        corner = tuple(a * b - s for a, b, s in zip(zyx, shape, start, strict=True))
        part = volume[tuple(slice(a, a + b) for a, b in zip(corner, shape, strict=True))]
        items.append((zyx, part, scales))
    return await workers.map(prepare_dense, items)


async def store(
    data: Data,
    prepared: Sequence[Prepared],
    *,
    action: str,
    workers: Workers,
    author: Author,
    scale: int = 0,
    indexing: bool = True,
    mask: Mask | None = None,
    scales: int = 0,
) -> None:
    """Store blocks of one scale: with the index, extents and largest label if it is scale 0, and coarser scales.

    With a mask, voxels outside of it keep what they hold. Counts stay exact, whatever was there before.
    """
    mutation_id = await data.mutation_id()
    shape = voxels.block_shape(data)
    by_place = {block.zyx: block for block in prepared}  # of two blocks for one place the later one stays
    largest = max((int(block.labels[-1]) for block in by_place.values() if len(block.labels)), default=0)
    is_base = scale == 0 and action != "ingest-supervoxels"
    if is_base and largest:
        await counters.see(data, largest)

    async def change(mutation: Mutation) -> None:
        places = list(by_place)
        present = await mutation.get_many([keys.block(scale, zyx) for zyx in places])
        written = [by_place[zyx] for zyx in places]
        if mask is not None:
            pairs = zip(written, present, strict=True)
            written = await workers.map(_masked, [(block, old, shape, mask, scales) for block, old in pairs])
        if is_base and indexing and data.instance.settings["indexed"]:
            old_counts = await _counted(present, workers)
            rows = [(b.zyx, b.labels, b.voxels, old) for b, old in zip(written, old_counts, strict=True)]
            await index.replace_counts(mutation, rows, mutation_id)
        for block in written:
            mutation.put(keys.block(scale, block.zyx), block.stored)
        if scales:
            await store_reduced(mutation, written, shape, workers)
        if is_base and places:
            low = Box(tuple(map(min, zip(*places, strict=True))), (0, 0, 0)).start
            high = tuple(max(axis) + 1 for axis in zip(*places, strict=True))
            box = Box(_times(low, shape), _times(high, shape))
            await voxels.grow_extents(data, mutation, box)
            if largest:
                await counters.raise_max_label(mutation, largest)
        changed = touched.encode(places) if scale == 0 else b""
        mutation.record(author.record(data, action, mutation_id, touched=changed))

    await index.make_known(await data.head())
    await data.mutate(change, by_admin=author.by_admin)
    if is_base and indexing:
        await deltas.fold(data, by_admin=author.by_admin)


def _times(zyx: Iterable[int], shape: Triple) -> Triple:
    z, y, x = (a * b for a, b in zip(zyx, shape, strict=True))
    return z, y, x


def _masked(block: Prepared, old: bytes | None, shape: Triple, mask: Mask, scales: int) -> Prepared:
    """A block whose voxels outside of the mask are those of the block that is there."""
    box = Box(_times(block.zyx, shape), _times([a + 1 for a in block.zyx], shape))
    inside = mask.mask(box)
    if inside.all():
        return block
    dense = np.zeros(shape, np.uint64)
    if old is not None:
        label_block.decode(blocks.unpack(old), dense)
    new = np.empty(shape, np.uint64)
    label_block.decode(blocks.unpack(block.stored), new)
    dense[inside] = new[inside]
    return prepare_dense(block.zyx, dense, scales)


def _count(stored: bytes) -> tuple[U64, npt.NDArray[np.uint32]]:
    return label_block.counts(blocks.unpack(stored))


async def _counted(
    present: Sequence[bytes | None], workers: Workers
) -> list[tuple[U64, npt.NDArray[np.uint32]] | None]:
    there = [stored for stored in present if stored is not None]
    counted = iter(await workers.map(_count, [(stored,) for stored in there]) if there else [])
    return [None if stored is None else next(counted) for stored in present]


async def store_reduced(mutation: Mutation, written: Sequence[Prepared], shape: Triple, workers: Workers) -> None:
    """Paste the blocks' parts into the blocks of the coarser scales."""
    for level in range(max((len(block.reduced) for block in written), default=0)):
        factor = 2 << level
        parts: dict[Triple, list[tuple[Triple, U64]]] = defaultdict(list)
        for block in written:
            if level < len(block.reduced):
                z, y, x = (a // factor for a in block.zyx)
                inner = tuple(a % factor * b // factor for a, b in zip(block.zyx, shape, strict=True))
                parts[z, y, x].append((inner, block.reduced[level]))  # type: ignore[arg-type]
        places = list(parts)
        names = [keys.block(level + 1, zyx) for zyx in places]
        present = await mutation.get_many(names)
        items: list[tuple[object, ...]] = [(shape, old, parts[zyx]) for zyx, old in zip(places, present, strict=True)]
        for name, stored in zip(names, await workers.map(_pasted, items), strict=True):
            mutation.put(name, stored)
        await asyncio.sleep(0)


def _pasted(shape: Triple, old: bytes | None, parts: Sequence[tuple[Triple, U64]]) -> bytes:
    dense = np.zeros(shape, np.uint64)
    if old is not None and sum(part.size for _, part in parts) < dense.size:
        label_block.decode(blocks.unpack(old), dense)
    for start, part in parts:
        dense[tuple(slice(a, a + n) for a, n in zip(start, part.shape, strict=True))] = part
    return blocks.pack(label_block.encode(dense))


def check_scales(data: Data, scales: int) -> int:
    """How many coarser scales a write may compute: a block must halve evenly at each of them."""
    shape = voxels.block_shape(data)
    if any(side % (1 << scales) for side in shape) and scales:
        possible = min((side & -side).bit_length() - 1 for side in shape)
        if scales > possible:
            raise Invalid(f"blocks of {shape[::-1]} voxels can be halved {possible} times, not {scales}")
    return scales
