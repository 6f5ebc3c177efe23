"""Endpoints of regions of interest."""

from __future__ import annotations

import numpy as np
import orjson
from starlette.responses import Response

from app.core.errors import Invalid, TooLarge
from app.datatypes import roi
from app.routes import answers, shapes
from app.routes.endpoint import Parameter, endpoint
from app.routes.request import Request

#: About what the JSON of one subvolume takes.
_SUBVOLUME_BYTES = 400
_MAX_BATCH = 1 << 16


async def region(request: Request, name: str) -> roi.Mask:
    """The region of interest that a request names as `name` or `name,version`; its state shows in the answer's ETag."""
    found = await roi.named(request.data, name)
    return await roi.mask_of(found, await request.head_of(found))


@endpoint("GET", "roi", answer="a list of spans [z, y, x0, x1]")
async def get_roi(request: Request) -> Response:
    """The spans of blocks, both ends included, in order of z, y and x."""
    return answers.json((await roi.spans(await request.head())).tolist())


@endpoint("POST", "roi", body="a list of spans [z, y, x0, x1]")
async def post_roi(request: Request) -> Response:
    """Replace the region of this version."""
    spans = await request.service.workers.run(roi.parse_spans, await request.json())
    await roi.put(request.data, spans, request.author)
    return answers.empty()


@endpoint("DELETE", "roi")
async def delete_roi(request: Request) -> Response:
    """Empty the region of this version."""
    nothing = np.empty((0, 4), np.int32)
    await roi.put(request.data, nothing, request.author)
    return answers.empty()


@endpoint("GET", "mask/{dims}/{size}/{offset}", media=answers.OCTETS, answer="a byte for each voxel, x fastest")
async def get_mask(request: Request) -> Response:
    """1 for each voxel of the region, 0 for the others."""
    shape = shapes.parse(request.path["dims"], request.path["size"], request.path["offset"])
    if shape.axes is not None:
        raise Invalid("a mask is a volume: dims 0_1_2")
    most = request.service.settings.max_answer_bytes
    if shape.box.count > most:
        raise TooLarge(f"{shape.box.count} voxels are more than one answer may hold ({most})")
    mask = await roi.mask_of(request.data, await request.head())
    voxels = await request.service.workers.run(mask.mask, shape.box)
    return answers.octets(np.ascontiguousarray(voxels).reshape(-1).view(np.uint8).data)


@endpoint("POST", "ptquery", body="a list of points [x, y, z]", answer="a list of booleans", writes=False)
async def post_ptquery(request: Request) -> Response:
    """For each point whether it lies in the region."""
    points = roi.parse_points(await request.json())
    mask = await roi.mask_of(request.data, await request.head())
    return answers.json((await request.service.workers.run(mask.contains, points)).tolist())


@endpoint(
    "GET",
    "partition",
    query=[
        Parameter("batchsize", "blocks along each side of a subvolume", "integer", None, least=1, most=_MAX_BATCH),
        Parameter("optimized", "begin subvolumes where the region does", "flag", False),
    ],
    answer="the subvolumes and how many blocks of the region each has",
)
async def get_partition(request: Request) -> Response:
    """Subvolumes of equal size that cover the region."""
    batch = request.query["batchsize"]
    if batch is None:
        raise Invalid("batchsize is required")
    mask = await roi.mask_of(request.data, await request.head())
    most = request.service.settings.max_answer_bytes // _SUBVOLUME_BYTES
    optimized = request.query["optimized"]
    described = await request.service.workers.run(roi.partition, mask, batch, optimized=optimized, most=most)
    return Response(orjson.dumps(described, option=orjson.OPT_INDENT_2), media_type="application/json")
