"""Indices and mappings that clients computed themselves and post in bulk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import orjson

from app.datatypes.labelmap import deltas, index, keys
from app.datatypes.labelmap.groups import Forest
from app.datatypes.labelmap.keys import Counts
from app.formats.dvid_pb2 import LabelIndex
from app.versioning.tree import Mutation


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
    await forest.prefetch(labels.tolist())
    parts = [_erased(await index.counts(mutation, labels)), *posted]
    for message, entries in zip(messages, posted, strict=True):
        body = message.label
        listed = set(entries.supervoxels.tolist())
        present = await forest.members(body)
        gone = [label for label in present if label not in listed]
        if gone:
            parts.insert(0, _erased(await index.counts(mutation, np.array(gone, np.uint64))))
        for label in listed:
            owner = await forest.body_of(label)
            if owner not in (0, body) and owner not in replaced and await index.has_voxels(mutation, label):
                forest.left_stale.append((owner, label))
        shown = {label: await forest.shown(label) for label in [*gone, *listed]}
        await forest.put_in(body, [label for label in listed if await forest.body_of(label) != body])
        for label in gone:
            await forest.put_in(label, [label])
        for label, before in shown.items():
            await forest.fix_if_other(label, before)
        _put_head(mutation, message, bool(listed))
    await forest.flush()
    await deltas.add(mutation, deltas.latest(parts))


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
    rows = [
        (supervoxel, index.decode_block_index(place), number)
        for place, block in message.blocks.items()
        for supervoxel, number in block.counts.items()
        if supervoxel and number
    ]
    if not rows:
        return Counts.of_keys([])
    return Counts(
        np.array([supervoxel for supervoxel, _, _ in rows], np.uint64),
        np.array([zyx for _, zyx, _ in rows], np.int64),
        np.array([number for _, _, number in rows], np.uint32),
    )


def _erased(entries: Counts) -> Counts:
    return Counts(entries.supervoxels, entries.blocks, np.zeros_like(entries.voxels))


async def put_mapping(mutation: Mutation, pairs: Sequence[tuple[int, int]], seed: int) -> None:
    """Map supervoxels to bodies; of several entries for one supervoxel the last one stays.

    Only reads of voxels follow: a pipeline posts the label indices of the same bodies itself.
    """
    forest = Forest(mutation, seed)
    wanted = dict(pairs)
    await forest.prefetch(wanted)
    for supervoxel, body in wanted.items():
        if body == supervoxel:  # said in so many words: `mapping` does not ask whether it exists
            await forest.fix(supervoxel, body)
        else:
            await forest.fix_if_other(supervoxel, body)
    await forest.flush()
