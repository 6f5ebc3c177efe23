"""Endpoints of bulk data: label indices, the mapping, label counters, settings."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import lz4.block
import numpy as np
from google.protobuf.message import DecodeError
from starlette.responses import Response

from app.core.errors import Absent, Invalid
from app.datatypes.config import Config
from app.datatypes.labelmap import changed_settings, counters, deltas, index, mapping, memo, posted
from app.formats.dvid_pb2 import LabelIndex, LabelIndices, MappingOps
from app.formats.keyvalues import varint
from app.routes import answers
from app.routes.endpoint import Parameter, endpoint
from app.routes.labelmap.parameters import HASH, MAX_LABEL, body_label, check_indexed, label_of, labels_in_body
from app.routes.request import Request
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Snapshot

#: As many bodies as one request for indices may name.
MAX_INDICES = 50_000
#: Bodies whose indices are put together at the same time.
TOGETHER = 256
#: Rows of the mapping made into text at once.
ROWS_OF_TEXT = 20_000
#: DVID's header byte of a stored value: LZ4, no checksum.
_LZ4_VALUE = 4 << 5


@endpoint("POST", "info", body="settings", media="text/plain", answer="text")
async def post_info(request: Request) -> Response:
    """Change settings of the instance; those not named stay."""
    config = Config(await request.json_object())
    data = request.data

    await data.datastore.repos.edit_instance(
        data.repo.root,
        data.instance.uuid,
        lambda instance: replace(instance, settings=changed_settings(dict(instance.settings), config)),
    )
    return answers.text(f"changed the settings of {data.instance.name}\n")


# ------------------------------------------------------------------ label indices


@endpoint(
    "GET",
    "index/{body}",
    query=[
        Parameter("metadata-only", "a JSON summary instead", "flag", False),
        Parameter("mutid", "the index before this mutation", "integer", None, least=0),
    ],
    media=answers.OCTETS,
    answer="LabelIndex",
)
async def get_index(request: Request) -> Response:
    """The blocks of a body and its supervoxels' voxels in each."""
    body, snapshot = body_label(request.path["body"]), await request.head()
    if request.query["mutid"] is not None:
        raise Absent(f"no index of body {body} before a mutation is kept")
    if request.query["metadata-only"]:
        return await _summary(snapshot, body)
    facet = "index"
    message: bytes | None = memo.recall(snapshot, body, facet)
    if message is None:
        message = await index.message(snapshot, body, request.service.workers)
        if message is None:
            raise Absent(f"no index of body {body} found")
        memo.remember(snapshot, body, facet, message, len(message))
    return answers.octets(message)


async def _summary(snapshot: Snapshot, body: int) -> Response:
    entries, change = await index.label_counts(snapshot, body, False), await index.last_change(snapshot, body)
    return answers.json(
        {
            "num_voxels": entries.size,
            "last_mutid": change.mutation_id,
            "last_mod_time": change.time,
            "last_mod_user": change.user,
            "last_mod_app": change.app,
        }
    )


@endpoint("POST", "index/{body}", body="LabelIndex")
async def post_index(request: Request) -> Response:
    """Replace the index of a body; one without blocks removes it."""
    body = body_label(request.path["body"])
    message = _parse(LabelIndex(), await request.body())
    if message.label != body:
        raise Invalid(f"the index is of body {message.label}, not {body}")
    await _put_indices(request, [message])
    return answers.empty()


@endpoint("GET", "indices", query=[HASH], body="[body, ...]", media=answers.OCTETS, answer="LabelIndices")
async def get_indices(request: Request) -> Response:
    """The indices of bodies in their order; of an absent one just the label."""

    def part(body: int, message: bytes | None) -> bytes:
        message = LabelIndex(label=body).SerializeToString() if message is None else message
        # `LabelIndices` is its indices one after the other, each with its field's key and its length.
        return b"\x0a" + varint(len(message)) + message

    return await _of_each(request, part)


@endpoint("POST", "indices", body="LabelIndices")
async def post_indices(request: Request) -> Response:
    """Replace the indices of many bodies, all or none."""
    await _put_indices(request, list(_parse(LabelIndices(), await request.body()).indices))
    return answers.empty()


@endpoint(
    "GET",
    "indices-compressed",
    query=[HASH],
    body="[body, ...]",
    media=answers.OCTETS,
    answer="a stream of stored indices",
)
async def get_indices_compressed(request: Request) -> Response:
    """For each body: uint64 length, uint64 label, and the index as DVID stores it; length 0 for an absent one."""

    def part(body: int, message: bytes | None) -> bytes:
        value = b"" if message is None else bytes([_LZ4_VALUE]) + lz4.block.compress(message, store_size=True)
        return struct.pack("<QQ", len(value), body) + value

    return await _of_each(request, part)


async def _of_each(request: Request, part: Callable[[int, bytes | None], bytes]) -> Response:
    """What `part` makes of the index of each body that a request lists; many bodies are answered in a stream."""
    snapshot, workers = await request.head(), request.service.workers
    bodies = await labels_in_body(request, most=MAX_INDICES)

    async def piece(start: int) -> bytes:
        some = bodies[start : start + TOGETHER]
        found = await asyncio.gather(*[index.message(snapshot, body, workers) for body in some])
        return await workers.run(b"".join, [part(*both) for both in zip(some, found, strict=True)])

    return await answers.in_pieces(range(0, len(bodies), TOGETHER), piece)


@endpoint("GET", "index-version/{body}", media="text/plain", answer="a UUID")
async def get_index_version(request: Request) -> Response:
    """The version in which the index of a body was last changed."""
    body, data = body_label(request.path["body"]), request.data
    state = await index.state(await request.head(), body)
    if not state[0]:
        raise Invalid(f"no index of body {body} found")
    # Versions that hold the very same entries inherited them.
    versions = data.line.versions
    for version, parent in pairwise(versions):
        if await index.state(await data.in_version(parent).head(), body) != state:
            return answers.text(version)
    return answers.text(versions[-1])


async def _put_indices(request: Request, messages: list[Any]) -> None:
    check_indexed(request)
    for message in messages:
        if message.label == 0:
            raise Invalid("an index cannot be of label 0")
    data = request.data
    largest = max((message.label for message in messages), default=0)
    if largest:
        await counters.see(data, largest)
    mutation_id = await data.mutation_id()
    record = request.author.record(data, "post-indices", mutation_id)

    async def change(mutation: Mutation) -> None:
        await posted.put_indices(mutation, messages, mutation_id)
        if largest:
            await counters.raise_max_label(mutation, largest)
        mutation.record(record)

    await data.mutate(change, by_admin=request.may_write_locked)
    await deltas.fold(data, by_admin=request.may_write_locked)


def _parse(message: Any, body: bytes) -> Any:
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise Invalid(f"the body is not a {type(message).__name__} message: {error}") from None
    return message


# ------------------------------------------------------------------ the mapping


@endpoint(
    "GET",
    "mapping",
    query=[
        HASH,
        Parameter("nolookup", "ids without an entry map to themselves, whether they exist or not", "flag", False),
    ],
    body="[supervoxel, ...]",
    answer="[body, ...]",
    twin=True,
    writes=False,
)
async def get_mapping(request: Request) -> Response:
    """The bodies of supervoxels; 0 for one that is not mapped and no body either."""
    labels = np.array(await labels_in_body(request), np.uint64)
    snapshot = await request.head()
    known = await mapping.load(snapshot)
    found = known.apply(labels)
    if not request.query["nolookup"]:
        is_same = found == labels
        unmapped = np.unique(labels[is_same])
        absent = unmapped[~await index.are_bodies(snapshot, unmapped, known)]
        found = np.where(is_same & np.isin(labels, absent), np.uint64(0), found)
    return answers.json(found.tolist())


@endpoint(
    "GET",
    "mappings",
    query=[Parameter("format", "text or binary", "choice", "", choices=("", "text", "binary"))],
    media="text/plain",
    answer="lines `supervoxel body`, or pairs of uint64",
)
async def get_mappings(request: Request) -> Response:
    """The whole mapping, without supervoxels that are their own bodies."""
    pairs = (await mapping.load(await request.head())).pairs()
    if request.query["format"] == "binary":
        return answers.octets(np.ascontiguousarray(pairs, "<u8").tobytes())

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(pairs), ROWS_OF_TEXT):
            rows = pairs[start : start + ROWS_OF_TEXT].tolist()
            yield "".join([f"{supervoxel} {body}\n" for supervoxel, body in rows]).encode()

    return await answers.gathered(pieces(), "text/plain", {"Content-Type": "text/plain"})


@endpoint("POST", "mappings", body="MappingOps")
async def post_mappings(request: Request) -> Response:
    """Map supervoxels to bodies; of several entries for one the last stays."""
    message = _parse(MappingOps(), await request.body())
    data = request.data
    supervoxels = np.array([original for operation in message.mappings for original in operation.original], np.uint64)
    bodies = [operation.mapped for operation in message.mappings]
    numbers = [len(operation.original) for operation in message.mappings]
    of_supervoxels = np.repeat(np.array(bodies, np.uint64), numbers)
    mutation_id = await data.mutation_id()
    record = request.author.record(data, "post-mappings", mutation_id)

    async def change(mutation: Mutation) -> None:
        await posted.put_mapping(mutation, supervoxels, of_supervoxels)
        mutation.record(record)

    await data.mutate(change, by_admin=request.may_write_locked)
    return answers.empty()


@endpoint("GET", "map-stats", answer="sizes of the mapping")
async def get_map_stats(request: Request) -> Response:
    """How large the mapping is."""
    known = await mapping.load(await request.head())
    size = {"MapEntries": len(known), "MapSize": known.nbytes, "NumVersions": len(request.data.line.versions)}
    return answers.json({request.data.instance.name: {**size, "MaxVersion": request.data.home.number}})


# ------------------------------------------------------------------ label counters


@endpoint("GET", "maxlabel", answer='{"maxlabel": n}')
async def get_maxlabel(request: Request) -> Response:
    """The largest label of this version and its ancestors."""
    check_indexed(request)
    largest = await counters.max_label(await request.head())
    if largest is None:
        raise Invalid("No maximum label found for this version or its ancestors")
    return answers.spaced_json(f'{{"maxlabel": {largest}}}')


@endpoint("POST", "maxlabel/{label}", admin=True)
async def post_maxlabel(request: Request) -> Response:
    """Raise the largest label of this version; a smaller one changes nothing."""
    label = body_label(request.path["label"])
    if label > 1 << 48:
        raise Invalid(f"{label} is too large for a largest label")
    await _raise(request, label, "post-maxlabel", {"MaxLabel": label})
    return answers.empty()


@endpoint("GET", "nextlabel", answer='{"nextlabel": n}')
async def get_nextlabel(request: Request) -> Response:
    """The id that a new label gets next."""
    check_indexed(request)
    return answers.spaced_json(f'{{"nextlabel": {(await counters.load(request.data)).next_label}}}')


@endpoint("POST", "nextlabel/{count}", answer='{"start": a, "end": b}')
async def post_nextlabel(request: Request) -> Response:
    """Reserve new label ids, unique over all versions."""
    check_indexed(request)
    first, last = await counters.give(request.data, label_of(request.path["count"]))
    await _raise(request, last, "post-nextlabel", {"Start Label": first, "End Label": last})
    return answers.spaced_json(f'{{"start": {first}, "end": {last}}}')


@endpoint(
    "POST",
    "set-nextlabel/{label}",
    admin=True,
    query=[Parameter("ceiling", "highest id to hand out; 0 lifts it", "integer", None, least=0, most=MAX_LABEL)],
)
async def post_set_nextlabel(request: Request) -> Response:
    """Say which label was handed out last, and up to which one more may be."""
    label, data = label_of(request.path["label"]), request.data
    changed = await counters.set_next(data, label, request.query["ceiling"])
    arguments: dict[str, Any] = {"Next Label": label}
    if changed.ceiling:
        arguments["Ceiling"] = changed.ceiling
    record = request.author.record(data, "setnextlabel", 0, arguments)

    async def change(mutation: Mutation) -> None:
        mutation.record(record)

    await data.mutate(change, by_admin=request.may_write_locked)
    return answers.empty()


async def _raise(request: Request, label: int, action: str, arguments: dict[str, Any]) -> None:
    data = request.data
    await counters.see(data, label)

    async def change(mutation: Mutation) -> None:
        await counters.raise_max_label(mutation, label)
        mutation.record(request.author.record(data, action, 0, arguments))

    await data.mutate(change, by_admin=request.may_write_locked)
