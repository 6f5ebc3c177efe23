"""Edits that cut supervoxels in two: split-supervoxel, and split of a body by voxels.

Both parts of a supervoxel get new numbers, so every block that holds it is rewritten, at all scales, and the old number
is retired. Voxels, index, mapping, counters and log change in one mutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from app.core.errors import Invalid
from app.core.geometry import Triple
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.author import Author
from app.datatypes.labelmap import blocks, counters, deltas, edits, index, keys, touched, unused, write
from app.datatypes.labelmap.forest import Forest
from app.datatypes.labelmap.keys import U64, Counts
from app.formats import sparse_volumes
from app.formats.sparse_volumes import I32
from app.kernels import label_block
from app.kernels import splits as kernels
from app.versioning import blobs
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation


@dataclass(frozen=True)
class _Cut:
    """Posted runs by block: where each block's begin in `pieces`."""

    runs: I32
    places: dict[Triple, I32]

    @staticmethod
    def of(runs: I32, shape: Triple) -> _Cut:
        try:
            found, starts, pieces = kernels.cut(runs, shape)
        except ValueError as error:
            raise Invalid(str(error)) from None
        rows = zip(found.tolist(), starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        return _Cut(runs, {(z, y, x): pieces[start:end] for (z, y, x), start, end in rows})


@dataclass(frozen=True)
class Split:
    """What became of a supervoxel: the numbers of the parts inside and outside of the runs, and their voxels."""

    supervoxel: int
    split: int
    remain: int
    split_size: int
    remain_size: int


@dataclass
class _Plan:
    """Old supervoxels in order of first encounter, how many of their voxels the runs meet, and their new numbers."""

    olds: list[int]
    inside: list[int]
    background: int
    numbers: list[tuple[int, int]] = field(default_factory=list)


async def split_supervoxel(
    data: Data,
    supervoxel: int,
    runs: I32,
    author: Author,
    workers: Workers,
    *,
    given: tuple[int | None, int | None] = (None, None),
    with_downres: bool = True,
) -> tuple[Split, int]:
    """Cut one supervoxel by runs, whose voxels must all be its own; the parts' numbers may be given."""
    mutation_id = await data.mutation_id()
    cut = _Cut.of(runs, voxels.block_shape(data))
    numbers = await _numbers(data, supervoxel, given)
    blob = await blobs.put(data.trees.store, sparse_volumes.encode_bare_runs(runs))

    async def change(mutation: Mutation) -> Split:
        forest = Forest(mutation, mutation_id)
        for label in given:
            if label is not None and await unused.is_used(mutation, forest, label):
                raise Invalid(f"{label} is a supervoxel or body already")
        body = await forest.body_of(supervoxel)
        entries = await index.counts(mutation, np.array([supervoxel], np.uint64))
        if not body or not len(entries):
            raise Invalid(f"there is no supervoxel {supervoxel}")
        plan = await _touched(mutation, cut)
        if plan.olds != [supervoxel] or plan.background:
            raise Invalid(f"the runs have voxels that are not of supervoxel {supervoxel}")
        named = [label for label in given if label is not None]
        split, remain = [
            number if label is not None else await unused.number(data, mutation, forest, number, named)
            for label, number in zip(given, numbers, strict=True)
        ]
        plan.numbers = [(split, remain)]
        (done,) = _parts(plan, entries)
        if not done.remain_size:
            raise Invalid(f"the runs hold all voxels of supervoxel {supervoxel}: nothing would remain")
        await _apply(data, mutation, forest, cut, plan, entries, workers, with_downres)
        await forest.put_in(body, [split, remain])
        await forest.flush()
        await counters.raise_max_label(mutation, max(split, remain))
        edits.sign(mutation, author, mutation_id, body)
        arguments = {
            "Supervoxel": supervoxel,
            "Body": body,
            "SplitSupervoxel": split,
            "RemainSupervoxel": remain,
            "Split": blob,
            "SplitSize": done.split_size,
            "RemainSize": done.remain_size,
        }
        changed = touched.encode(_places(entries))
        mutation.record(author.record(data, "split-supervoxel", mutation_id, arguments, touched=changed))
        return done

    await index.make_known(await data.head())
    return await data.mutate(change, by_admin=author.by_admin), mutation_id


async def split_body(data: Data, body: int, runs: I32, author: Author, workers: Workers) -> tuple[int, int]:
    """Make the voxels of a body that runs name a new body: its number, and the mutation id."""
    mutation_id = await data.mutation_id()
    cut = _Cut.of(runs, voxels.block_shape(data))
    given, _ = await counters.give(data, 1)
    blob = await blobs.put(data.trees.store, sparse_volumes.encode_bare_runs(runs))
    numbers: dict[int, tuple[int, int]] = {}

    async def change(mutation: Mutation) -> int:
        forest = Forest(mutation, mutation_id)
        with_own = await edits.own_supervoxels(mutation, forest, [body])
        await edits.check_exists(mutation, forest, body, with_own)
        plan = await _touched(mutation, cut)
        await forest.before.supervoxels(plan.olds)
        for label in plan.olds:
            if await forest.body_of(label) != body:
                raise Invalid(f"the runs have voxels of supervoxel {label}, which is not in body {body}")
        if not plan.olds:
            raise Invalid(f"the runs have no voxels of body {body}")
        entries = await index.counts(mutation, np.array(sorted(plan.olds), np.uint64))
        for label in plan.olds:  # kept if the mutation runs again: numbers are in order of first encounter
            pair = numbers.get(label) or await counters.give(data, 2)
            split, remain = [await unused.number(data, mutation, forest, number) for number in pair]
            numbers[label] = split, remain
        new = await unused.number(data, mutation, forest, given)
        plan.numbers = [numbers[label] for label in plan.olds]
        done = _parts(plan, entries)
        if not sum(part.remain_size for part in done) and not await _others(mutation, forest, body, plan.olds):
            raise Invalid(f"the runs hold all voxels of body {body}: nothing would remain")
        await _apply(data, mutation, forest, cut, plan, entries, workers, True)
        await forest.put_in(new, [part.split for part in done])
        await forest.put_in(body, [part.remain for part in done])
        await forest.flush()
        await counters.raise_max_label(mutation, max(new, *map(max, plan.numbers)))
        edits.sign(mutation, author, mutation_id, body, new)
        parts = {str(part.supervoxel): {"Split": part.split, "Remain": part.remain} for part in done}
        arguments = {"Target": body, "NewLabel": new, "Split": blob, "SVSplits": parts}
        changed = touched.encode(_places(entries))
        mutation.record(author.record(data, "split", mutation_id, arguments, touched=changed))
        return new

    await index.make_known(await data.head())
    return await data.mutate(change, by_admin=author.by_admin), mutation_id


async def _numbers(data: Data, supervoxel: int, given: tuple[int | None, int | None]) -> tuple[int, int]:
    """The numbers of both parts: those given, the others new; the split part's first."""
    named = [label for label in given if label is not None]
    if 0 in named or supervoxel in named or len(set(named)) < len(named):
        raise Invalid("the parts of a split need two different numbers that are neither 0 nor the supervoxel's own")
    if named:
        await counters.see(data, max(named))
    split, remain = given
    if split is None:
        split, _ = await counters.give(data, 1)
    if remain is None:
        remain, _ = await counters.give(data, 1)
    return split, remain


async def _touched(mutation: Mutation, cut: _Cut) -> _Plan:
    """The supervoxels that the runs meet."""
    places = list(cut.places)
    stored = await mutation.get_many([keys.block(0, zyx) for zyx in places])
    inside: dict[int, int] = {}
    for zyx, value in zip(places, stored, strict=True):
        if value is None:
            z, y, x = zyx
            raise Invalid(f"the runs lie in block {x}, {y}, {z} (x, y, z), which is not stored")
        labels, numbers = kernels.touched(blocks.unpack(value), cut.places[zyx])
        for label, number in zip(labels.tolist(), numbers.tolist(), strict=True):
            inside[label] = inside.get(label, 0) + number
    background = inside.pop(0, 0)
    return _Plan(list(inside), list(inside.values()), background)


def _parts(plan: _Plan, entries: Counts) -> list[Split]:
    """The parts of each supervoxel and their voxels."""
    parts = []
    for label, inside, (split, remain) in zip(plan.olds, plan.inside, plan.numbers, strict=True):
        total = entries[entries.supervoxels == np.uint64(label)].size
        parts.append(Split(label, split, remain, inside, total - inside))
    return parts


def _places(entries: Counts) -> list[Triple]:
    """The blocks of index entries."""
    return [(z, y, x) for z, y, x in np.unique(entries.blocks, axis=0).tolist()]


async def _others(mutation: Mutation, forest: Forest, body: int, olds: Sequence[int]) -> bool:
    """Whether a body has voxels beside those of some supervoxels."""
    if await forest.number_of_members(body) - len(olds) > edits.LISTED:
        return True
    kept = np.array([label for label in await forest.members(body) if label not in set(olds)], np.uint64)
    return len(await index.counts(mutation, kept)) > 0


async def _apply(
    data: Data,
    mutation: Mutation,
    forest: Forest,
    cut: _Cut,
    plan: _Plan,
    entries: Counts,
    workers: Workers,
    with_downres: bool,
) -> None:
    """Rewrite the blocks of the old supervoxels, and their index entries; retire their numbers."""
    olds = np.array(plan.olds, np.uint64)
    split, remain = (np.array(column, np.uint64) for column in zip(*plan.numbers, strict=True))
    zyxs = _places(entries)
    stored = await mutation.get_many([keys.block(0, zyx) for zyx in zyxs])
    scales = data.instance.settings["max_scale"] if with_downres else 0
    shape = voxels.block_shape(data)
    nothing = np.empty((0, 4), np.int32)
    items: list[tuple[object, ...]] = [
        (zyx, value, cut.places.get(zyx, nothing), olds, split, remain, shape, scales)
        for zyx, value in zip(zyxs, stored, strict=True)
        if value is not None
    ]
    written = await workers.map(_rewritten, items)
    for block in written:
        mutation.put(keys.block(0, block.zyx), block.stored)
    if scales:
        await write.store_reduced(mutation, written, shape, workers)
    new = np.concatenate([split, remain])
    fresh = index.entries_of([(block.zyx, block.labels, block.voxels) for block in written])
    gone = Counts(entries.supervoxels, entries.blocks, np.zeros_like(entries.voxels))
    await deltas.add(mutation, deltas.latest([gone, fresh[np.isin(fresh.supervoxels, new)]]))
    for label in plan.olds:
        if await forest.fixed_of(label) is not None:
            await forest.fix(label, None)
        await forest.retire(label)
    await forest.before.supervoxels(new.tolist())


def _rewritten(
    zyx: Triple, stored: bytes, runs: I32, olds: U64, split: U64, remain: U64, shape: Triple, scales: int
) -> write.Prepared:
    block = kernels.apply(blocks.unpack(stored), runs, olds, split, remain)
    dense = None
    if scales:
        dense = np.empty(shape, np.uint64)
        label_block.decode(block, dense)
    return write.prepared(zyx, blocks.pack(block), block, dense, scales)
