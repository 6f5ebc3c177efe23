"""Endpoints about the shapes of bodies and supervoxels: sparse volumes in all forms and at all scales."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

import numpy as np
from starlette.responses import Response, StreamingResponse

from app.core.errors import Absent, Invalid
from app.core.geometry import MAX_COORDINATE, parse_point
from app.datatypes import voxels
from app.datatypes.labelmap import index, memo, read, sparse
from app.datatypes.labelmap.keys import Counts
from app.datatypes.labelmap.proximity import Proximity
from app.formats import sparse_volumes
from app.routes import answers
from app.routes.answers import attachment
from app.routes.endpoint import Parameter, endpoint
from app.routes.labelmap.parameters import SCALE, SUPERVOXELS, body_label, check_indexed, mapping_of
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

#: As many bodies as one listing may have.
MAX_LISTED = 10_000_000
#: Bodies whose blocks are looked up at the same time.
TOGETHER = 256


def _bounds(request: Request) -> sparse.Bounds:
    query = request.query
    return sparse.Bounds((query["minx"], query["miny"], query["minz"]), (query["maxx"], query["maxy"], query["maxz"]))


async def _entries(request: Request, label: int) -> Counts:
    return await index.label_counts(await request.head(), label, request.query["supervoxels"])


@endpoint("GET", "sparsevol-size/{label}", query=[SUPERVOXELS], answer="voxels, numblocks, minvoxel, maxvoxel")
async def get_sparsevol_size(request: Request) -> Response:
    """The number of voxels and blocks, and the extent rounded to blocks."""
    label, snapshot = body_label(request.path["label"]), await request.head()
    facet = "sparsevol-size", request.query["supervoxels"]
    known: str | None = memo.recall(snapshot, label, facet)
    if known is None:
        entries = await _entries(request, label)
        places = sparse.blocks_at(entries, 0)
        shape = np.array(voxels.block_shape(request.data))
        low = (places.min(axis=0) * shape)[::-1].tolist()
        high = ((places.max(axis=0) + 1) * shape - 1)[::-1].tolist()
        known = f'{{"voxels": {entries.size}, "numblocks": {len(places)}, "minvoxel": {low}, "maxvoxel": {high}}}'
        memo.remember(snapshot, label, facet, known, len(known))
    return answers.spaced_json(known)


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
    query, snapshot, bounds = request.query, await request.head(), _bounds(request)
    facet = query["format"], query["compression"], query["scale"], query["supervoxels"]
    answer: sparse.Answer | None = memo.recall(snapshot, label, facet) if bounds.is_open else None
    if answer is None:
        answer = await _sparse_volume(request, label, bounds)
        if bounds.is_open and isinstance(answer, bytes):
            memo.remember(snapshot, label, facet, answer, len(answer))
    if isinstance(answer, bytes):
        return answers.octets(answer)
    return StreamingResponse(answer, media_type=answers.OCTETS)


async def _sparse_volume(request: Request, label: int, bounds: sparse.Bounds) -> sparse.Answer:
    query, data, workers = request.query, request.data, request.service.workers
    entries = await _entries(request, label)
    places = bounds.within(sparse.blocks_at(entries, query["scale"]), voxels.block_shape(data))
    if not len(places):
        raise Absent(f"label {label} has no voxels within the bounds")
    found = sparse.Voxels(data, await request.head(), query["scale"], sparse.supervoxels_of(entries), places)
    if query["format"] == "blocks":
        return await sparse.binary_blocks(found, label, workers)
    clip = sparse.Bounds() if query["exact"] in ("false", "0") else bounds
    if query["format"] == "srles":
        return await sparse.bare_runs(found, clip, workers)
    limit = request.service.settings.max_answer_bytes
    return await sparse.legacy_runs(found, clip, query["compression"], workers, limit)


@endpoint(
    "GET", "sparsevol-coarse/{label}", query=[SUPERVOXELS, *_BOUNDS], media=answers.OCTETS, answer="runs of blocks"
)
async def get_sparsevol_coarse(request: Request) -> Response:
    """The blocks of a body or supervoxel, as runs in block coordinates."""
    check_indexed(request)
    label, snapshot, bounds = body_label(request.path["label"]), await request.head(), _bounds(request)
    facet = "coarse", request.query["supervoxels"]
    answer: bytes | None = memo.recall(snapshot, label, facet) if bounds.is_open else None
    if answer is None:
        places = sparse.blocks_at(await _entries(request, label), 0)
        places = bounds.within(places, voxels.block_shape(request.data))
        answer = sparse_volumes.encode_runs(sparse_volumes.block_runs(places))
        if bounds.is_open:
            memo.remember(snapshot, label, facet, answer, len(answer))
    return answers.octets(answer)


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
    snapshot, bounds, shape = await request.head(), _bounds(request), voxels.block_shape(request.data)
    found, _ = await index.bodies(snapshot, first, MAX_LISTED)
    bodies = found[found <= last].tolist()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(bodies), TOGETHER):
            some = bodies[start : start + TOGETHER]
            parts: list[bytes] = []
            for body, entries in zip(
                some, await asyncio.gather(*[index.label_counts(snapshot, body, False) for body in some]), strict=True
            ):
                runs = sparse_volumes.block_runs(bounds.within(sparse.blocks_at(entries, 0), shape))
                parts += struct.pack("<Qi", body, len(runs)), sparse_volumes.encode_bare_runs(runs)
            yield b"".join(parts)

    return StreamingResponse(pieces(), media_type=answers.OCTETS)


@endpoint(
    "GET",
    "fvdb/{label}",
    query=[SUPERVOXELS, SCALE, Parameter("name", "of the grid and the file; label_{label} without one")],
    media=answers.OCTETS,
    answer="a NanoVDB file with one index grid",
)
async def get_fvdb(request: Request) -> Response:
    """The shape of a body or supervoxel as a NanoVDB grid of active voxels, for fVDB and other readers.

    Coordinates are voxels x, y, z of the scale; the grid's voxel size is that of the scale in the instance's units.
    """
    check_indexed(request)
    label, scale, data = body_label(request.path["label"]), request.query["scale"], request.data
    name = request.query["name"] or f"label_{label}"
    disposition = attachment(f"{name}.nvdb")
    entries = await _entries(request, label)
    found = sparse.Voxels(
        data, await request.head(), scale, sparse.supervoxels_of(entries), sparse.blocks_at(entries, scale)
    )
    most, size = request.service.settings.max_answer_bytes, data.instance.settings["voxel_size"]
    grid = await sparse.index_grid(found, name, size, request.service.workers, most)
    headers = {"Content-Disposition": disposition, "Content-Length": str(grid.size_bytes)}
    return StreamingResponse(grid.pieces(), headers=headers, media_type=answers.OCTETS)


@endpoint(
    "GET",
    "proximity/{first}/{second}",
    query=[SCALE, SUPERVOXELS],
    answer='{"labels", "scale", "distance", "distance_voxels", "closest", "units", "contact", "sites"}',
)
async def get_proximity(request: Request) -> Response:
    """How near two bodies (or supervoxels) come to each other, and where they touch.

    `distance` is between the centres of the nearest two voxels in the instance's units, `distance_voxels` the same in
    voxels of the scale, `closest` those voxels, x, y, z, in the order of the labels; null where one has no voxels at
    the scale. `contact` counts the faces that voxels of the one share with voxels of the other: `faces`, `faces_xyz` by
    their direction, `area` in square units, `voxels` of each label with such a face. `sites` has the same for each
    block with contacts: `block` coordinates x, y, z, and `center`, the mean x, y, z of its faces in voxels.
    """
    check_indexed(request)
    first, second = body_label(request.path["first"]), body_label(request.path["second"])
    if first == second:
        raise Invalid("the two labels are the same")
    snapshot, scale = await request.head(), request.query["scale"]
    found = Proximity(request.data, snapshot, scale, await _entries(request, first), await _entries(request, second))
    await found.find(request.service.workers)
    return answers.json({"labels": [first, second], **found.describe()})
