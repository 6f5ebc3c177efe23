"""What the plain views of volumes share: the chunks of a request's data, and files made of JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from app.core.errors import Absent
from app.core.pyramid import Level, Pyramid
from app.datatypes.chunks import Chunks
from app.datatypes.imageblk.chunks import ImageChunks
from app.datatypes.imageblk.published import PublishedChunks
from app.datatypes.labelmap import mapping
from app.datatypes.labelmap.chunks import LabelChunks
from app.datatypes.multichan16 import kept
from app.datatypes.multichan16.chunks import ChannelChunks
from app.formats import precomputed
from app.routes import answers
from app.routes.request import Request


async def chunks_of(request: Request, *, supervoxels: bool = False) -> Chunks:
    """The chunks of the request's data at its snapshot: bodies, or supervoxels, of labels."""
    service, snapshot = request.service, await request.head()
    if request.data.instance.settings.get("source"):
        return PublishedChunks(request.data, service.workers)
    if request.data.instance.typename == "multichan16":
        return ChannelChunks(request.data, snapshot, service.workers, await kept.channels(snapshot))
    if request.data.instance.typename != "labelmap":
        return ImageChunks(request.data, snapshot, service.workers)
    applied = mapping.IDENTITY if supervoxels else await mapping.load(snapshot)
    return LabelChunks(request.data, snapshot, applied, service.workers, service.settings.max_answer_bytes)


async def pyramid_of(request: Request, chunks: Chunks) -> Pyramid:
    """The volume's scales, if it has voxels."""
    pyramid = await chunks.pyramid()
    if pyramid is None:
        raise Absent(f"nothing has been written to data {request.data.instance.name!r} at this version yet")
    return pyramid


async def level_of(request: Request, chunks: Chunks, folder: str) -> tuple[int, Level]:
    """The scale that a folder `s0`, `s1` ... holds."""
    scale = precomputed.parse_scale_key(folder)
    level = None if scale is None else await chunks.level(scale)
    if scale is None or level is None:
        raise no_such_file(request, request.path["file"])
    return scale, level


def json_file(request: Request, value: Mapping[str, Any]) -> Response:
    """A small file of JSON.

    It depends on settings that are not versioned (resolution), so its ETag names its content and it is never final.
    """
    request.snapshot = None
    body = orjson.dumps(value)
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.header(b"if-none-match") == tag:
        return Response(b"", 304, headers)
    response = answers.ranged(body, request.header(b"range"))
    if response.status_code < 300:
        response.headers["Content-Type"] = "application/json"
    response.headers.update(headers)
    return response


def no_such_file(request: Request, file: str) -> Absent:
    """The answer to the name of a file that this volume does not have."""
    return Absent(f"the volume {request.data.instance.name!r} has no file {file!r}")
