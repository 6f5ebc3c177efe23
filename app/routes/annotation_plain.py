"""Annotations at a version in neuroglancer's precomputed format, for viewers that know nothing of DVID.

    precomputed://http://HOST/api/node/{version}/{data}/precomputed

Files: `info`; `by_id/{number}`; `bodies/{label}` if the instance is synced with labels; and the cells of a spatial
index, in which coarse levels have a share of the elements, so that a viewer far away need not load all.
"""

from __future__ import annotations

from starlette.responses import Response

from app.core.errors import Absent
from app.datatypes.annotation import plain
from app.formats import precomputed_annotations as precomputed
from app.routes import answers
from app.routes.annotation import labels_in
from app.routes.endpoint import endpoint
from app.routes.labelmap.parameters import MAX_LABEL
from app.routes.plain import json_file, no_such_file
from app.routes.request import Request


@endpoint("GET", "precomputed/{file*}", media=answers.OCTETS, answer="`info`, a cell, a body's or one element")
async def get_precomputed(request: Request) -> Response:
    """The elements as precomputed annotations: give neuroglancer the URL up to `precomputed`."""
    file, snapshot, workers = request.path["file"], await request.head(), request.service.workers
    if file == "info":
        described = await plain.info(request.data, snapshot, workers)
        if described is None:
            raise Absent(f"data {request.data.instance.name!r} has no elements at this version")
        return json_file(request, described)
    cell = precomputed.parse_cell(file)
    if cell is not None:
        return _ranged(request, await plain.cell(request.data, snapshot, *cell, workers))
    folder, _, name = file.partition("/")
    number = int(name) if name.isascii() and name.isdigit() and len(name) <= 20 else MAX_LABEL + 1
    if number <= MAX_LABEL:
        now = await labels_in(request, request.data)
        if folder == precomputed.BODIES and now is not None and number:
            return _ranged(request, await plain.body(request.data, snapshot, now, number))
        if folder == precomputed.BY_ID:
            found = await plain.one(request.data, snapshot, now, number)
            if found is not None:
                return _ranged(request, found)
    raise no_such_file(request, file)


def _ranged(request: Request, content: bytes) -> Response:
    return answers.ranged(content, request.header(b"range"))
