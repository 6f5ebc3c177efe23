"""Indices and mappings that clients computed themselves and post in bulk."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import orjson

from app.datatypes.labelmap import deltas, groups, index, keys, mapping
from app.datatypes.labelmap.forest import Forest, fix_all
from app.datatypes.labelmap.keys import U64, Counts
from app.formats.dvid_pb2 import LabelIndex
from app.versioning.mutations import Mutation


async def put_indices(mutation: Mutation, messages: Sequence[LabelIndex], seed: int) -> None:
    """Replace the indices of bodies by posted ones, in their order; one without blocks removes the body.

    Reads of voxels stay as they are: a pipeline posts the mapping of the same bodies itself. A supervoxel is listed by
    one body at a time: a later index takes it over.
    """
    if not messages:
        return
    forest = Forest(mutation, seed)
    messages = list({message.label: message for message in messages}.values())
    replaced = {message.label for message in messages}
    posted = _each_once([_entries(message) for message in messages])
    labels = np.unique(np.concatenate([entries.supervoxels for entries in posted]))
    await forest.before.supervoxels({*labels.tolist(), *replaced})
    await forest.before.fixed(labels.tolist())
    await forest.before.bodies(replaced)
    before = await index.counts(mutation, labels)
    had_voxels = set(np.unique(before.supervoxels).tolist())
    all_gone: list[int] = []
    for message, entries in zip(messages, posted, strict=True):
        body = message.label
        listed = set(entries.supervoxels.tolist())
        present = await forest.members(body)
        gone = [label for label in present if label not in listed]
        all_gone += gone
        for label in listed:
            owner = await forest.body_of(label)
            if owner not in (0, body) and owner not in replaced and label in had_voxels:
                forest.left_stale.append((owner, label))
        shown = {label: await forest.shown(label) for label in [*gone, *listed]}
        await forest.put_in(body, [label for label in listed if await forest.body_of(label) != body])
        for label in gone:
            await forest.put_in(label, [label])
        for label, body_before in shown.items():
            await forest.fix_if_other(label, body_before)
    await forest.flush()
    for message, entries in zip(messages, posted, strict=True):
        _put_head(mutation, message, len(entries) > 0)
    gone_before = await index.counts(mutation, np.unique(np.array(all_gone, np.uint64)))
    await deltas.add(mutation, deltas.latest([_erased(gone_before), _erased(before), *posted]))


def _each_once(posted: Sequence[Counts]) -> list[Counts]:
    """Of a supervoxel that several indices list the entries of the last one."""
    everything = np.concatenate([entries.supervoxels for entries in posted])
    owners = np.repeat(np.arange(len(posted)), [len(entries) for entries in posted])
    labels, backwards = np.unique(everything[::-1], return_index=True)
    last = owners[::-1][backwards]
    return [
        entries[last[np.searchsorted(labels, entries.supervoxels)] == number] if len(entries) else entries
        for number, entries in enumerate(posted)
    ]


def _put_head(mutation: Mutation, message: LabelIndex, is_there: bool) -> None:
    if is_there:
        change = [message.last_mutid, message.last_mod_user, message.last_mod_app, message.last_mod_time]
        mutation.put(keys.head(message.label), orjson.dumps(change))
    else:
        mutation.delete(keys.head(message.label))


def _entries(message: LabelIndex) -> Counts:
    """The rows of a posted index."""
    blocks = [(place, len(block.counts)) for place, block in message.blocks.items()]
    counts = [pair for block in message.blocks.values() for pair in block.counts.items()]
    table = np.array(counts, np.uint64).reshape(-1, 2)
    places = np.repeat(np.array([place for place, _ in blocks], np.uint64), [number for _, number in blocks])
    is_there = (table[:, 0] != 0) & (table[:, 1] != 0)
    table, places = table[is_there], places[is_there]
    return Counts(table[:, 0].copy(), index.decode_block_indices(places), table[:, 1].astype(np.uint32))


def _erased(entries: Counts) -> Counts:
    return Counts(entries.supervoxels, entries.blocks, np.zeros_like(entries.voxels))


async def put_mapping(mutation: Mutation, supervoxels: U64, bodies: U64) -> None:
    """Map supervoxels to bodies; of several entries for one supervoxel the last one stays.

    Only reads of voxels follow: a pipeline posts the label indices of the same bodies itself.
    """
    labels, last = np.unique(supervoxels[::-1], return_index=True)
    bodies = bodies[::-1][last]
    # One to itself is said in so many words: `mapping` does not ask whether it exists.
    is_needed = (bodies == labels) | (await _owners(mutation, labels) != bodies)
    present: dict[int, int | None] = dict.fromkeys(labels.tolist())
    if await groups.fixed_count(mutation):
        present = await groups.looked_up(mutation, keys.FIXED, labels.tolist())
    rows = zip(labels.tolist(), bodies.tolist(), is_needed.tolist(), strict=True)
    wanted = [(label, present[label], body if needed else None) for label, body, needed in rows]
    await fix_all(mutation, [row for row in wanted if row[1] != row[2]])


async def _owners(mutation: Mutation, supervoxels: U64) -> U64:
    """The bodies whose indices list supervoxels."""
    if len(supervoxels) > groups.TOGETHER:
        return (await mapping.load_groups(mutation)).apply(supervoxels)
    found = await asyncio.gather(*[groups.body_of(mutation, label) for label in supervoxels.tolist()])
    return np.array(found, np.uint64)
