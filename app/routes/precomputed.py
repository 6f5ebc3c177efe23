"""Volumes at a version in neuroglancer's precomputed format, for readers that know nothing of DVID.

    precomputed://http://HOST/api/node/{version}/{data}/precomputed

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
Files: `info`, and `s{scale}/{x0}-{x1}_{y0}-{y1}_{z0}-{z1}` for each chunk. A chunk that was never written is missing
(404), which readers take as zeros.
"""

from __future__ import annotations

from starlette.responses import Response

from app.core.errors import Absent
from app.datatypes.chunks import Chunks
from app.formats import precomputed
from app.routes import answers
from app.routes.endpoint import endpoint
from app.routes.plain import chunks_of, json_file, no_such_file, pyramid_of
from app.routes.request import Request

_VARIES = {"Vary": "Accept-Encoding", **answers.ACCEPT_RANGES}
_IN_GZIP = {"Content-Encoding": "gzip", **_VARIES}


@endpoint("GET", "precomputed/{file*}", media=answers.OCTETS, answer="`info` or a chunk")
async def get_precomputed(request: Request) -> Response:
    """The volume as a precomputed volume: give neuroglancer, TensorStore or cloud-volume the URL up to `precomputed`.

    Labels are bodies, in compressed segmentation.
    """
    return await answer(request, await chunks_of(request))


async def answer(request: Request, chunks: Chunks) -> Response:
    """The file of a precomputed volume that the request's path names."""
    file = request.path["file"]
    pyramid = await pyramid_of(request, chunks)
    if file == "info":
        return json_file(request, precomputed.info(pyramid, chunks.encoding))
    folder, _, name = file.partition("/")
    scale = precomputed.parse_scale_key(folder)
    if scale is None or scale >= len(pyramid.levels):
        raise no_such_file(request, file)
    box = precomputed.parse_chunk_name(name, pyramid.levels[scale])
    if box is None:
        raise no_such_file(request, file)
    span = request.header(b"range")
    in_gzip = span is None and answers.accepts_gzip(request.header(b"accept-encoding"))
    chunk = await chunks.precomputed(scale, box, in_gzip)
    if chunk is None:
        raise Absent(f"chunk {file} was never written")
    if in_gzip:
        return answers.octets(chunk, _IN_GZIP)
    response = answers.ranged(chunk, span)
    response.headers["Vary"] = "Accept-Encoding"
    return response
