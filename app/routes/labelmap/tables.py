"""Endpoints that hand out the whole label index and the whole mapping as Arrow tables."""

from __future__ import annotations

import numpy as np
from starlette.responses import Response, StreamingResponse

from app.datatypes.labelmap import export
from app.formats import arrow
from app.routes.endpoint import Parameter, endpoint
from app.routes.labelmap.parameters import check_indexed
from app.routes.request import Request

_COMPRESSION = Parameter("compression", "of the columns", "choice", "none", choices=("none", "lz4", "zstd"))


@endpoint(
    "GET",
    "index-arrow",
    query=[_COMPRESSION],
    media=arrow.MEDIA_TYPE,
    answer="an Arrow stream: supervoxel, body, x, y, z, voxels",
)
async def get_index_arrow(request: Request) -> Response:
    """The label index of all bodies: how many voxels of which supervoxel, and so of which body, are in which block.

    `x`, `y`, `z` are block coordinates. Rows are sorted by supervoxel, then z, y, x.
    """
    check_indexed(request)
    columns: dict[str, type[np.generic]] = {"supervoxel": np.uint64, "body": np.uint64}
    columns |= {"x": np.int32, "y": np.int32, "z": np.int32, "voxels": np.uint32}
    stream = arrow.Stream(columns, request.query["compression"])
    pieces = export.index_stream(request.data, await request.head(), stream, request.service.workers)
    return StreamingResponse(pieces, media_type=arrow.MEDIA_TYPE)


@endpoint(
    "GET", "mapping-arrow", query=[_COMPRESSION], media=arrow.MEDIA_TYPE, answer="an Arrow stream: supervoxel, body"
)
async def get_mapping_arrow(request: Request) -> Response:
    """The whole mapping, as `mappings` has it: without supervoxels that are their own bodies; retired ones have 0."""
    stream = arrow.Stream({"supervoxel": np.uint64, "body": np.uint64}, request.query["compression"])
    pieces = export.mapping_stream(await request.head(), stream, request.service.workers)
    return StreamingResponse(pieces, media_type=arrow.MEDIA_TYPE)
