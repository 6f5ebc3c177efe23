"""The label index: which blocks hold how many voxels of which supervoxel, and which supervoxels make a body."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from app.core.errors import Absent, Invalid
from app.core.geometry import Triple
from app.datatypes.labelmap import keys
from app.datatypes.labelmap.keys import U64, Counts
from app.formats.dvid_pb2 import LabelIndex
from app.versioning.snapshot import Reader
from app.versioning.tree import Mutation

U32 = npt.NDArray[np.uint32]
_FIELD = 21
_SIGN = 1 << (_FIELD - 1)


@dataclass(frozen=True)
class Change:
    """Who changed a body last: mutation id, user, application, RFC 3339 time."""

    mutation_id: int = 0
    user: str = ""
    app: str = ""
    time: str = ""


# ------------------------------------------------------------------ writing


async def replace_counts(
    mutation: Mutation, changed: Iterable[tuple[Triple, U64, U32, tuple[U64, U32] | None]]
) -> None:
    """Replace the entries of blocks: for each its place z, y, x, new labels and counts, and the old ones or None."""
    fresh: list[U64] = []
    for zyx, labels, numbers, old in changed:
        new = set(keys.counts(zyx, labels[labels != 0], numbers[labels != 0]))
        gone: set[bytes] = set()
        if old is not None:
            old_labels, old_numbers = old
            gone = set(keys.counts(zyx, old_labels[old_labels != 0], old_numbers[old_labels != 0]))
        for key in gone - new:
            mutation.delete(key)
        for key in new:
            mutation.put(key, b"")
        fresh.append(labels)
    await _adopt(mutation, np.unique(np.concatenate(fresh)) if fresh else np.empty(0, np.uint64))


async def _adopt(mutation: Mutation, labels: U64) -> None:
    """List painted supervoxels in the index of the body that a posted mapping sends them to."""
    if await mutation.get(keys.MAPPING_MARK) is None:
        return
    for label in labels.tolist():
        for _, body in keys.pairs(await mutation.keys(*keys.mapping_of(label))).tolist():
            if body not in (0, label) and not await mutation.keys(*keys.index_of(label)):
                mutation.put(keys.indexed(label, body), b"")
                mutation.put(keys.member(body, label), b"")


async def put_index(mutation: Mutation, message: LabelIndex) -> None:
    """Replace a body's index by a posted one; one without blocks removes the body."""
    body = message.label
    listed: dict[int, list[tuple[Triple, int]]] = {}
    for place, block in message.blocks.items():
        for supervoxel, number in block.counts.items():
            if supervoxel and number:
                listed.setdefault(supervoxel, []).append((decode_block_index(place), number))
    present = await members(mutation, body)
    for supervoxel in {*present.tolist(), *listed}:
        for key in await mutation.keys(*keys.supervoxel(supervoxel)):
            mutation.delete(key)
    for supervoxel in set(present.tolist()) - set(listed):
        mutation.delete(keys.member(body, supervoxel))
        for key in await mutation.keys(*keys.index_of(supervoxel)):
            mutation.delete(key)
    for supervoxel, entries in listed.items():
        for zyx, number in entries:
            mutation.put(keys.count(supervoxel, zyx, number), b"")
        if supervoxel != body:
            for key in await mutation.keys(*keys.index_of(supervoxel)):
                mutation.delete(key)
            mutation.put(keys.indexed(supervoxel, body), b"")
            mutation.put(keys.member(body, supervoxel), b"")
    if listed:
        change = [message.last_mutid, message.last_mod_user, message.last_mod_app, message.last_mod_time]
        mutation.put(keys.head(body), orjson.dumps(change))
    else:
        mutation.delete(keys.head(body))


async def put_mapping(mutation: Mutation, pairs: Sequence[tuple[int, int]], mark: bytes) -> None:
    """Map supervoxels to bodies; of several entries for one supervoxel the last one stays.

    Only reads of voxels follow: a pipeline posts the label indices of the same bodies itself.
    """
    for supervoxel, body in dict(pairs).items():
        for key in await mutation.keys(*keys.mapping_of(supervoxel)):
            mutation.delete(key)
        if body != supervoxel:
            mutation.put(keys.mapped(supervoxel, body), b"")
    mutation.put(keys.MAPPING_MARK, mark)


# ------------------------------------------------------------------ reading


async def body_of(reader: Reader, supervoxel: int) -> int:
    """The body whose index holds a supervoxel."""
    listed = keys.pairs(await reader.keys(*keys.index_of(supervoxel)))
    return int(listed[0, 1]) if len(listed) else supervoxel


async def members(reader: Reader, body: int) -> U64:
    """The supervoxels of a body, ascending, whether they have voxels or not."""
    listed = keys.pairs(await reader.keys(*keys.members_of(body)))[:, 1]
    if await body_of(reader, body) == body:
        listed = np.append(listed, np.uint64(body))
    return np.unique(listed)


async def counts(reader: Reader, supervoxels: Sequence[int]) -> Counts:
    """The index entries of supervoxels."""
    found = await asyncio.gather(*[reader.keys(*keys.supervoxel(label)) for label in supervoxels])
    return Counts([key for keys_ in found for key in keys_])


async def state(reader: Reader, body: int) -> tuple[list[bytes], bytes | None]:
    """Everything that the index holds of a body, to tell whether two versions hold the same; empty keys if nothing."""
    chosen = (await members(reader, body)).tolist()
    found = await asyncio.gather(*[reader.keys(*keys.supervoxel(label)) for label in chosen])
    return [key for keys_ in found for key in keys_], await reader.get(keys.head(body))


async def label_counts(reader: Reader, label: int, is_supervoxel: bool) -> Counts:
    """The index entries of a body or of one supervoxel; `Absent` if it has no voxels."""
    if label == 0:
        raise Invalid("label 0 is the background and cannot be asked for")
    chosen = [label] if is_supervoxel else (await members(reader, label)).tolist()
    entries = await counts(reader, chosen)
    if not len(entries):
        raise Absent(f"label {label} not found")
    return entries


async def size(reader: Reader, label: int, is_supervoxel: bool) -> int:
    """The number of voxels of a body or supervoxel, 0 if there is none."""
    if label == 0:
        return 0
    chosen = [label] if is_supervoxel else (await members(reader, label)).tolist()
    return int((await counts(reader, chosen)).voxels.sum(dtype=np.uint64))


async def last_change(reader: Reader, body: int) -> Change:
    """Who changed a body last."""
    value = await reader.get(keys.head(body))
    return Change() if value is None else Change(*orjson.loads(value))


async def bodies(reader: Reader, first: int, limit: int) -> tuple[U64, U64]:
    """Bodies with voxels from `first` on, ascending, at most `limit` of them, and their sizes."""
    entries = Counts(await reader.keys(*keys.supervoxels(0, (1 << 64) - 1)))
    owners = entries.supervoxels
    pairs = keys.pairs(await reader.keys(*keys.index()))
    if len(pairs):
        places = np.searchsorted(pairs[:, 0], entries.supervoxels)
        places[places == len(pairs)] = 0
        owners = np.where(pairs[places, 0] == entries.supervoxels, pairs[places, 1], owners)
    unique, inverse = np.unique(owners, return_inverse=True)
    sizes = np.bincount(inverse, weights=entries.voxels, minlength=len(unique)).astype(np.uint64)
    chosen = (unique >= first) & (unique != 0)
    return unique[chosen][:limit], sizes[chosen][:limit]


# ------------------------------------------------------------------ the message of the API


def encode_block_index(zyx: Iterable[int]) -> int:
    """A block's place as the message has it: 21 bits for each of z, y, x, sign and magnitude."""
    number = 0
    for value in zyx:
        number = number << _FIELD | (abs(value) | (_SIGN if value < 0 else 0))
    return number


def decode_block_index(number: int) -> Triple:
    """The inverse of `encode_block_index`."""
    fields = [number >> shift & (1 << _FIELD) - 1 for shift in (2 * _FIELD, _FIELD, 0)]
    z, y, x = (-(value & ~_SIGN) if value & _SIGN else value for value in fields)
    return z, y, x


async def message(reader: Reader, body: int) -> LabelIndex | None:
    """The index of a body as DVID's message, None if it has no voxels."""
    entries = await counts(reader, (await members(reader, body)).tolist())
    if not len(entries):
        return None
    change = await last_change(reader, body)
    index = LabelIndex(
        label=body,
        last_mutid=change.mutation_id,
        last_mod_user=change.user,
        last_mod_app=change.app,
        last_mod_time=change.time,
    )
    rows = zip(entries.blocks.tolist(), entries.supervoxels.tolist(), entries.voxels.tolist(), strict=True)
    for zyx, supervoxel, number in rows:
        index.blocks[encode_block_index(zyx)].counts[supervoxel] = number
    return index


def summary(index: LabelIndex) -> dict[str, Any]:
    """The answer of `index?metadata-only=true`."""
    return {
        "num_voxels": sum(number for block in index.blocks.values() for number in block.counts.values()),
        "last_mutid": index.last_mutid,
        "last_mod_time": index.last_mod_time,
        "last_mod_user": index.last_mod_user,
        "last_mod_app": index.last_mod_app,
    }
