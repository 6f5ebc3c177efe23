"""Volumes at a version as OME-Zarr 0.5 (zarr v3), for readers that know nothing of DVID.

    zarr://http://HOST/api/node/{version}/{data}/zarr        all scales
    http://HOST/api/node/{version}/{data}/zarr/s0            the array of one scale

Formats: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html and https://ngff.openmicroscopy.org/0.5/
Files: `zarr.json`, `s{scale}/zarr.json`, and `s{scale}/c/{z}/{y}/{x}` for each chunk (of images with channels
`c/0/{z}/{y}/{x}`). Index 0 of an array is the lower corner of the extents, rounded to whole blocks. A chunk that was
never written is missing (404): the fill value. So are the files of zarr v2, for which readers look too.
"""

from __future__ import annotations

from starlette.responses import Response

from app.core.errors import Absent
from app.datatypes.chunks import Chunks
from app.formats import zarr
from app.routes import answers
from app.routes.endpoint import endpoint
from app.routes.plain import chunks_of, json_file, level_of, no_such_file, pyramid_of
from app.routes.request import Request


@endpoint("GET", "zarr/{file*}", media=answers.OCTETS, answer="`zarr.json` or a chunk")
async def get_zarr(request: Request) -> Response:
    """The volume as a multiscale OME-Zarr group, for neuroglancer, TensorStore, zarr-python; labels are bodies."""
    return await answer(request, await chunks_of(request))


async def answer(request: Request, chunks: Chunks) -> Response:
    """The file of a zarr hierarchy that the request's path names."""
    file = request.path["file"]
    if file == zarr.METADATA:
        return json_file(request, zarr.group(await pyramid_of(request, chunks), request.data.instance.name))
    folder, _, key = file.partition("/")
    scale, level = await level_of(request, chunks, folder)
    if key == zarr.METADATA:
        return json_file(request, zarr.array(await pyramid_of(request, chunks), level))
    box = zarr.parse_chunk_key(key, chunks.channels, level)
    if box is None:
        raise no_such_file(request, file)
    chunk = await chunks.zarr(scale, box)
    if chunk is None:
        raise Absent(f"chunk {file} was never written")
    return answers.ranged(chunk, request.header(b"range"))
