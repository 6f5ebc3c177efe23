"""Endpoints of multichan16 instances: load all channels, and look at slices of them."""

from __future__ import annotations

from starlette.responses import Response

from app.core.errors import Invalid, TooLarge
from app.datatypes.multichan16 import boxes
from app.datatypes.multichan16.load import load
from app.formats import images
from app.routes import answers, shapes
from app.routes.endpoint import Parameter, endpoint
from app.routes.request import Request

_CHANNEL = Parameter("channel", "1 for the first; 0 for the first three in red, green and blue", "integer", 0, least=0)


@endpoint("POST", "load", body="a V3D raw image stack (.v3draw)", answer='{"NumChannels": number, "Size": [x,y,z]}')
async def post_load(request: Request) -> Response:
    """Replace all channels of this version by those of a file, voxels of 8 or 16 bits; the first is at 0, 0, 0."""
    service = request.service
    limit = service.settings.max_answer_bytes
    body = await request.body()
    found = await load(request.data, service.workers, body, request.author, limit)
    return answers.json({"NumChannels": len(found.ranges), "Size": found.shape[::-1]})


@endpoint("GET", "{dims}/{size}/{offset}/{format?}", query=[_CHANNEL], media="image/png", answer="an image")
async def get_slice(request: Request) -> Response:
    """A slice (xy, 0_2, ...) of a channel in its own depth, or of the composite in colours."""
    shape = shapes.parse(request.path["dims"], request.path["size"], request.path["offset"])
    if shape.axes is None:
        raise Invalid("channels are shown in planes, not in volumes")
    form = images.parse_format(request.path.get("format", ""))
    service, box = request.service, shape.box
    limit = service.settings.max_answer_bytes
    if box.count * boxes.PIXEL_BYTES > limit:
        raise TooLarge(f"{box.count} pixels are more than one answer may hold ({limit} bytes)")
    number: int = request.query["channel"]
    snapshot = await request.head()
    if number:
        dense = await boxes.channel(request.data, snapshot, service.workers, number, box)
    else:
        dense = await boxes.composite(request.data, snapshot, service.workers, box)
    image = await service.workers.run(images.encode, shape.image(dense), form)
    return Response(image, media_type=form.media)
