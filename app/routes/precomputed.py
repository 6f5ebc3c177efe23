"""Volumes at a version in neuroglancer's precomputed format, for readers that know nothing of DVID.

    precomputed://http://HOST/api/node/{version}/{data}/precomputed

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
Files: `info`, and `s{scale}/{x0}-{x1}_{y0}-{y1}_{z0}-{z1}` for each chunk. A chunk that was never written is missing
(404), which readers take as zeros. A published image whose source is precomputed has the source's own files instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse

from app.core.errors import Absent, TooLarge
from app.datatypes.chunks import Chunks
from app.datatypes.imageblk.published import PublishedChunks
from app.formats import precomputed
from app.routes import answers
from app.routes.endpoint import endpoint
from app.routes.plain import chunks_of, json_file, level_of, no_such_file, pyramid_of
from app.routes.request import Request

_VARIES = {"Vary": "Accept-Encoding", **answers.ACCEPT_RANGES}
_IN_GZIP = {"Content-Encoding": "gzip", **_VARIES}


@endpoint("GET", "precomputed/{file*}", media=answers.OCTETS, answer="`info` or a chunk")
async def get_precomputed(request: Request) -> Response:
    """The volume as a precomputed volume: give neuroglancer, TensorStore or cloud-volume the URL up to `precomputed`.

    Labels are bodies, in compressed segmentation; images are raw, or jpeg if their blocks are.
    """
    return await answer(request, await chunks_of(request))


async def answer(request: Request, chunks: Chunks) -> Response:
    """The file of a precomputed volume that the request's path names."""
    file = request.path["file"]
    if isinstance(chunks, PublishedChunks) and (info := await chunks.info()) is not None:
        return await _passed_through(request, chunks, info, file)
    if file == "info":
        return json_file(request, precomputed.info(await pyramid_of(request, chunks), chunks.encoding))
    folder, _, name = file.partition("/")
    scale, level = await level_of(request, chunks, folder)
    box = precomputed.parse_chunk_name(name, level)
    if box is None:
        raise no_such_file(request, file)
    span = request.header(b"range")
    in_gzip = span is None and chunks.encoding != "jpeg" and answers.accepts_gzip(request.header(b"accept-encoding"))
    chunk = await chunks.precomputed(scale, box, in_gzip)
    if chunk is None:
        raise Absent(f"chunk {file} was never written")
    if in_gzip:
        return answers.octets(chunk, _IN_GZIP)
    response = answers.ranged(chunk, span)
    response.headers["Vary"] = "Accept-Encoding"
    return response


async def _passed_through(request: Request, chunks: PublishedChunks, info: Mapping[str, Any], file: str) -> Response:
    """A file of a precomputed source, byte for byte. Shards, which may be long, are read in parts."""
    if file == "info":
        return json_file(request, info)
    if not precomputed.owns(info, file):
        raise no_such_file(request, file)
    span = request.header(b"range")
    if not precomputed.is_shard(file):
        found = await chunks.read(file)
        if found is None:
            raise no_such_file(request, file)
        return answers.ranged(found, span)
    bounds = answers.first_and_last(span)
    if bounds is None:
        if not await chunks.exists(file):
            raise no_such_file(request, file)
        if request.method == "HEAD":
            return answers.octets(b"", answers.ACCEPT_RANGES)
        return StreamingResponse(chunks.pieces(file), headers=answers.ACCEPT_RANGES, media_type=answers.OCTETS)
    first, last = bounds
    if last - first >= request.service.settings.max_answer_bytes:
        raise TooLarge(f"bytes {first} to {last} are more than one answer may hold")
    part = await chunks.read_part(file, first, last + 1)
    if part is None:
        raise no_such_file(request, file)
    if not part:
        return Response("the range lies beyond the file\n", 416, answers.ACCEPT_RANGES, "text/plain")
    response = answers.octets(
        part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/*", **answers.ACCEPT_RANGES}
    )
    response.status_code = 206
    return response
