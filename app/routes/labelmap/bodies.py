"""Endpoints about bodies and supervoxels: sizes, shapes, members, listings."""

from __future__ import annotations

import numpy as np
import orjson
from starlette.responses import Response

from app.core.errors import Absent
from app.datatypes.labelmap import index, memo
from app.routes import answers
from app.routes.endpoint import Parameter, endpoint
from app.routes.labelmap.parameters import (
    HASH,
    SUPERVOXELS,
    body_label,
    label_of,
    labels_in_body,
)
from app.routes.request import Request

#: As many labels as one listing may have.
MAX_LISTED = 10_000_000


@endpoint("GET", "size/{label}", query=[SUPERVOXELS], answer='{"voxels": n}')
async def get_size(request: Request) -> Response:
    """The number of voxels of a body or supervoxel."""
    label = body_label(request.path["label"])
    (size,) = await memo.sizes(await request.head(), [label], request.query["supervoxels"])
    if not size:
        raise Absent(f"label {label} not found")
    return answers.spaced_json(f'{{"voxels": {size}}}')


@endpoint("GET", "sizes", query=[SUPERVOXELS, HASH], body="[label, ...]", answer="[n, ...]", twin=True, writes=False)
async def get_sizes(request: Request) -> Response:
    """The numbers of voxels of labels in their order, 0 for those that do not exist."""
    labels = await labels_in_body(request)
    return answers.json(await memo.sizes(await request.head(), labels, request.query["supervoxels"]))


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
