"""Endpoints about bodies and supervoxels: sizes, shapes, members, listings."""

from __future__ import annotations

import asyncio
import contextlib
import struct

import numpy as np
import orjson
from starlette.responses import Response

from app.core.errors import Absent, Invalid
from app.core.geometry import MAX_COORDINATE, parse_point
from app.datatypes import voxels
from app.datatypes.labelmap import index, read, sparse
from app.datatypes.labelmap.keys import Counts
from app.formats import compression, sparse_volumes
from app.routes import answers
from app.routes.endpoint import Parameter, endpoint
from app.routes.labelmap.parameters import (
    HASH,
    SCALE,
    SUPERVOXELS,
    body_label,
    check_indexed,
    label_of,
    labels_in_body,
    mapping_of,
)
from app.routes.request import Request

_BOUNDS = [
    Parameter(
        f"{end}{axis}",
        f"bound of {axis} in voxels of the scale, included",
        "integer",
        None,
        least=-MAX_COORDINATE,
        most=MAX_COORDINATE - 1,
    )
    for axis in "xyz"
    for end in ("min", "max")
]
_SPARSE = [
    Parameter("format", "of the answer", "choice", "rles", choices=("", "rles", "srles", "blocks")),
    Parameter("compression", "of rles", "choice", "", choices=("", "none", "lz4", "gzip")),
    Parameter("exact", "false keeps whole blocks that meet the bounds"),
    SCALE,
    SUPERVOXELS,
    *_BOUNDS,
]
#: As many labels as one listing may have.
MAX_LISTED = 10_000_000
#: Labels whose sizes are looked up at the same time.
TOGETHER = 256


def _bounds(request: Request) -> sparse.Bounds:
    query = request.query
    return sparse.Bounds((query["minx"], query["miny"], query["minz"]), (query["maxx"], query["maxy"], query["maxz"]))


async def _entries(request: Request, label: int) -> Counts:
    return await index.label_counts(await request.head(), label, request.query["supervoxels"])


@endpoint("GET", "size/{label}", query=[SUPERVOXELS], answer='{"voxels": n}')
async def get_size(request: Request) -> Response:
    """The number of voxels of a body or supervoxel."""
    entries = await _entries(request, body_label(request.path["label"]))
    return answers.spaced_json(f'{{"voxels": {int(entries.voxels.sum(dtype=np.uint64))}}}')


@endpoint("GET", "sizes", query=[SUPERVOXELS, HASH], body="[label, ...]", answer="[n, ...]", twin=True, writes=False)
async def get_sizes(request: Request) -> Response:
    """The numbers of voxels of labels in their order, 0 for those that do not exist."""
    labels = await labels_in_body(request)
    snapshot = await request.head()
    sizes: list[int] = []
    for start in range(0, len(labels), TOGETHER):
        part = labels[start : start + TOGETHER]
        sizes += await asyncio.gather(*[index.size(snapshot, label, request.query["supervoxels"]) for label in part])
    return answers.json(sizes)


@endpoint("GET", "sparsevol-size/{label}", query=[SUPERVOXELS], answer="voxels, numblocks, minvoxel, maxvoxel")
async def get_sparsevol_size(request: Request) -> Response:
    """The number of voxels and blocks, and the extent rounded to blocks."""
    entries = await _entries(request, body_label(request.path["label"]))
    places = sparse.blocks_at(entries, 0)
    shape = np.array(voxels.block_shape(request.data))
    low = (places.min(axis=0) * shape)[::-1].tolist()
    high = ((places.max(axis=0) + 1) * shape - 1)[::-1].tolist()
    total = int(entries.voxels.sum(dtype=np.uint64))
    return answers.spaced_json(
        f'{{"voxels": {total}, "numblocks": {len(places)}, "minvoxel": {low}, "maxvoxel": {high}}}'
    )


@endpoint("GET", "sparsevol/{label}", query=_SPARSE, media=answers.OCTETS, answer="runs or binary blocks")
async def get_sparsevol(request: Request) -> Response:
    """The shape of a body or supervoxel."""
    check_indexed(request)
    return await _sparse_answer(request, body_label(request.path["label"]))


@endpoint("HEAD", "sparsevol/{label}", query=_SPARSE, answer="200 or 204")
async def head_sparsevol(request: Request) -> Response:
    """Whether a body or supervoxel has voxels in blocks within the bounds."""
    check_indexed(request)
    with contextlib.suppress(Absent):
        entries = await _entries(request, body_label(request.path["label"]))
        places = sparse.blocks_at(entries, request.query["scale"])
        if _bounds(request).select(places, voxels.block_shape(request.data)).any():
            return answers.empty()
    return Response(status_code=204)


@endpoint("GET", "sparsevol-by-point/{point}", query=_SPARSE, media=answers.OCTETS, answer="runs or binary blocks")
async def get_sparsevol_by_point(request: Request) -> Response:
    """The shape of the body or supervoxel at a point."""
    check_indexed(request)
    point = parse_point(request.path["point"])
    scale = request.query["scale"]
    label = await read.label_at(request.data, await request.head(), scale, point, await mapping_of(request))
    if label == 0:
        raise Invalid("the point lies in the background")
    return await _sparse_answer(request, label)


async def _sparse_answer(request: Request, label: int) -> Response:
    query, data, snapshot, workers = request.query, request.data, await request.head(), request.service.workers
    entries, bounds = await _entries(request, label), _bounds(request)
    places = sparse.blocks_at(entries, query["scale"])
    if not bounds.select(places, voxels.block_shape(data)).any():
        raise Absent(f"label {label} has no voxels within the bounds")
    if query["format"] == "blocks":
        return answers.octets(
            await sparse.binary_blocks(data, snapshot, entries, label, query["scale"], bounds, workers)
        )
    exact = query["exact"] not in ("false", "0")
    found = await sparse.voxel_runs(data, snapshot, entries, query["scale"], bounds, exact, workers)
    if query["format"] == "srles":
        return answers.octets(sparse_volumes.encode_bare_runs(found))
    body = sparse_volumes.encode_runs(found)
    if query["compression"] == "lz4":
        body = compression.lz4(body)
    elif query["compression"] == "gzip":
        body = compression.gzip(body)
    return answers.octets(body)


@endpoint(
    "GET", "sparsevol-coarse/{label}", query=[SUPERVOXELS, *_BOUNDS], media=answers.OCTETS, answer="runs of blocks"
)
async def get_sparsevol_coarse(request: Request) -> Response:
    """The blocks of a body or supervoxel, as runs in block coordinates."""
    check_indexed(request)
    places = sparse.blocks_at(await _entries(request, body_label(request.path["label"])), 0)
    places = places[_bounds(request).select(places, voxels.block_shape(request.data))]
    return answers.octets(sparse_volumes.encode_runs(sparse_volumes.block_runs(places)))


@endpoint(
    "GET",
    "sparsevols-coarse/{first}/{last}",
    query=_BOUNDS,
    media=answers.OCTETS,
    answer="label, int32 n, n runs; repeated",
)
async def get_sparsevols_coarse(request: Request) -> Response:
    """The blocks of all bodies of a range, both ends included."""
    check_indexed(request)
    first, last = body_label(request.path["first"]), body_label(request.path["last"])
    snapshot = await request.head()
    found, _ = await index.bodies(snapshot, first, MAX_LISTED)
    parts: list[bytes] = []
    for body in found[found <= last].tolist():
        places = sparse.blocks_at(await index.label_counts(snapshot, body, False), 0)
        places = places[_bounds(request).select(places, voxels.block_shape(request.data))]
        runs = sparse_volumes.block_runs(places)
        parts.append(struct.pack("<Qi", body, len(runs)) + sparse_volumes.encode_bare_runs(runs))
    return answers.octets(b"".join(parts))


@endpoint("GET", "supervoxels/{body}", answer="[supervoxel, ...]")
async def get_supervoxels(request: Request) -> Response:
    """The supervoxels of a body."""
    entries = await index.label_counts(await request.head(), body_label(request.path["body"]), False)
    return answers.json(np.unique(entries.supervoxels).tolist())


@endpoint("GET", "supervoxel-sizes/{body}", answer='{"supervoxels": [...], "sizes": [...]}')
async def get_supervoxel_sizes(request: Request) -> Response:
    """The supervoxels of a body and their numbers of voxels, in the same order."""
    entries = await index.label_counts(await request.head(), body_label(request.path["body"]), False)
    unique, inverse = np.unique(entries.supervoxels, return_inverse=True)
    sizes = np.bincount(inverse, weights=entries.voxels).astype(np.uint64)
    return answers.json({"supervoxels": unique.tolist(), "sizes": sizes.tolist()})


@endpoint("GET", "lastmod/{body}", answer="mutation id, user, app and time")
async def get_lastmod(request: Request) -> Response:
    """Who changed a body last."""
    snapshot, body = await request.head(), body_label(request.path["body"])
    await index.label_counts(snapshot, body, False)
    change = await index.last_change(snapshot, body)
    return answers.json(
        {
            "mutation id": change.mutation_id,
            "last mod user": change.user,
            "last mod app": change.app,
            "last mod time": change.time,
        }
    )


@endpoint("GET", "existing-labels", answer="[body, ...]")
async def get_existing_labels(request: Request) -> Response:
    """All bodies with voxels, ascending."""
    found, _ = await index.bodies(await request.head(), 0, 1 << 62)
    return answers.spaced_json(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY).decode())


@endpoint(
    "GET",
    "listlabels",
    query=[
        Parameter("start", "first body"),
        Parameter("number", "how many", "integer", MAX_LISTED, least=0),
        Parameter("sizes", "each followed by its number of voxels", "flag", False),
    ],
    media=answers.OCTETS,
    answer="uint64 bodies",
)
async def get_listlabels(request: Request) -> Response:
    """Bodies with voxels, ascending, from one on."""
    start = label_of(request.query["start"] or "0")
    found, sizes = await index.bodies(await request.head(), start, min(request.query["number"], MAX_LISTED))
    rows = np.stack([found, sizes], axis=1) if request.query["sizes"] else found
    return answers.octets(np.ascontiguousarray(rows, "<u8").tobytes())
