"""Endpoints of annotation instances."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response, StreamingResponse

from app.core.errors import Invalid
from app.core.geometry import Box, Triple, parse_ints, parse_point
from app.datatypes.annotation import blocks, finding, labels, read, reloading, write
from app.datatypes.annotation.labels import Labels
from app.datatypes.annotation.writer import Writer
from app.formats import element_json
from app.routes import answers
from app.routes.endpoint import Parameter, endpoint
from app.routes.labelmap.parameters import body_label
from app.routes.request import Request
from app.routes.roi import region
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

_JSON = "application/json"
_ELEMENTS = "[element, ...]"
_KEPT = "makes no difference here; clients of DVID send it"
_KAFKALOG = Parameter("kafkalog", "off sends no message about the mutation")
_RELATIONS = Parameter("relationships", "true adds relations, verbose also what is known of the partners")


def _writer(request: Request) -> Writer:
    is_silent = request.query.get("kafkalog") == "off"
    return Writer(request.data, request.author, is_silent)


def _relations(request: Request) -> read.Relations:
    text = request.query["relationships"].lower()
    if text == "verbose":
        return "verbose"
    return "true" if text in ("true", "on", "1") else ""


async def labels_in(request: Request, data: Data) -> Labels | None:
    """The labels in which the elements of an instance lie, if it is synced with any; as this request sees them."""
    source = labels.source(data)
    return None if source is None else await Labels.at(source, await request.head_of(source))


@endpoint("GET", "elements/{size}/{offset}", answer=f"{_ELEMENTS}, or null")
async def get_elements(request: Request) -> Response:
    """The elements in a box."""
    box = _box(request)
    if box is None:
        return Response(read.NOTHING, media_type=_JSON)
    return Response(await read.in_box(request.data, await request.head(), box), media_type=_JSON)


def _box(request: Request) -> Box | None:
    """The box of a request; None if it has no voxels."""
    sizes = parse_ints(request.path["size"], 3)
    offset = parse_point(request.path["offset"])
    if 0 in sizes:
        return None
    return Box.at(offset, (sizes[0], sizes[1], sizes[2]))


@endpoint("POST", "elements", query=[_KAFKALOG], body=_ELEMENTS)
async def post_elements(request: Request) -> Response:
    """Add elements, all or none; one at the position of another replaces it."""
    body = await request.body()
    elements = await request.service.workers.run(element_json.parse_elements, body)
    await write.post_elements(_writer(request), elements, request.service.workers)
    return answers.empty()


@endpoint("GET", "blocks/{size}/{offset}", answer='{"x,y,z": [element, ...], ...}')
async def get_blocks(request: Request) -> Response:
    """The elements of all blocks that meet a box, by block coordinates."""
    box, snapshot = _box(request), await request.head()
    if box is None:
        return answers.json({})
    grid = await labels.grid(request.data, snapshot)
    return await _blocks_answer(snapshot, await finding.places_in(snapshot, box.blocks(grid)))


@endpoint("POST", "blocks", query=[_KAFKALOG], body='{"x,y,z": [element, ...], ...}')
async def post_blocks(request: Request) -> Response:
    """Replace all elements of blocks."""
    body = await request.body()
    given = await request.service.workers.run(element_json.parse_blocks, body)
    await write.post_blocks(_writer(request), given, request.service.workers)
    return answers.empty()


@endpoint("GET", "all-elements", answer='{"x,y,z": [element, ...], ...}')
async def get_all_elements(request: Request) -> Response:
    """All elements by block coordinates, in order of z, y, x."""
    snapshot = await request.head()
    return await _blocks_answer(snapshot, await finding.all_places(snapshot))


async def _blocks_answer(snapshot: Snapshot, places: Sequence[Triple]) -> Response:
    pieces = read.in_blocks(snapshot, places)
    if len(places) > read.BATCH:
        return StreamingResponse(pieces, media_type=_JSON)
    return Response(b"".join([piece async for piece in pieces]), media_type=_JSON)


@endpoint(
    "GET",
    "scan",
    query=[
        Parameter("byCoord", "kept for DVID's clients", "flag", False),
        Parameter("keysOnly", "as well", "flag", False),
    ],
    answer='{"num kv pairs": n, "num empty blocks": n}',
)
async def get_scan(request: Request) -> Response:
    """How many blocks have elements. A block without any is not stored, so none is counted as empty."""
    snapshot = await request.head()
    places = await finding.all_places(snapshot)
    count = sum(len(rows) > 0 for rows in await blocks.fetch_rows(snapshot, places))
    return answers.spaced_json(f'{{"num kv pairs": {count}, "num empty blocks": 0}}')


@endpoint("DELETE", "element/{point}", query=[_KAFKALOG])
async def delete_element(request: Request) -> Response:
    """Remove the element at a point, and the relations of its partners to it."""
    await write.delete(_writer(request), parse_point(request.path["point"]))
    return answers.empty()


@endpoint("POST", "move/{start}/{end}", query=[_KAFKALOG])
async def post_move(request: Request) -> Response:
    """Move an element to a point where there is none; the relations of its partners follow."""
    await write.move(_writer(request), parse_point(request.path["start"]), parse_point(request.path["end"]))
    return answers.empty()


@endpoint("GET", "label/{label}", query=[_RELATIONS], answer=_ELEMENTS)
async def get_label(request: Request) -> Response:
    """The elements in a body of the labels that the instance is synced with."""
    label, snapshot, relations = body_label(request.path["label"]), await request.head(), _relations(request)
    now = await labels_in(request, request.data)
    return Response(await read.by_label(request.data, snapshot, now, label, relations), media_type=_JSON)


@endpoint("POST", "labels", body='{"label": "[element, ...]", ...}')
async def post_labels(request: Request) -> Response:
    """Set the lists that are answered for labels until a reload; the values are JSON texts."""
    lists = element_json.parse_lists(await request.body())
    await write.post_lists(_writer(request), {body_label(label): elements for label, elements in lists.items()})
    return answers.empty()


@endpoint("GET", "tag/{tag}", query=[_RELATIONS], answer=_ELEMENTS)
async def get_tag(request: Request) -> Response:
    """The elements with a tag."""
    snapshot = await request.head()
    answer = await read.by_tag(request.data, snapshot, request.path["tag"], _relations(request))
    return Response(answer, media_type=_JSON)


@endpoint("GET", "roi/{roi}", answer=f"{_ELEMENTS}, or null")
async def get_roi(request: Request) -> Response:
    """The elements in a region of interest, `name` or `name,version`, whose blocks must be those of the elements."""
    name = request.path["roi"]
    if name.count(",") > 1:
        raise Invalid(f"{name!r} is neither the name of a region nor name,version")
    mask = await region(request, name)
    return Response(await read.in_region(request.data, await request.head(), mask), media_type=_JSON)


@endpoint(
    "POST",
    "reload",
    query=[
        Parameter("check", "kept for DVID's clients", "flag", False),
        Parameter("inmemory", "as well", "flag", True),
    ],
)
async def post_reload(request: Request) -> Response:
    """Look up the labels of all elements anew, and forget posted lists. Answers are right without it."""
    await reloading.reload(_writer(request))
    return answers.empty()
