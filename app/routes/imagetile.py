"""Endpoints of imagetile instances: tiles one by one, the scales they have, and slices put together from them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from starlette.responses import Response

from app.core.errors import Absent, Invalid, TooLarge
from app.core.geometry import Triple, parse_point
from app.datatypes import values
from app.datatypes.imagetile import settings, slices, tiles
from app.datatypes.imagetile.tiles import Tile
from app.formats import images, tile_images
from app.formats.images import ImageFormat
from app.routes import answers, shapes
from app.routes.endpoint import Parameter, endpoint
from app.routes.instances import edit
from app.routes.request import Request

_NO_BLANKS = Parameter("noblanks", "answer 404 where there is no tile, not a blank one", "flag", False)
_MEDIA = {"png": b"image/png", "jpg": b"image/jpeg"}
#: Blank tiles up to so many pixels are remembered, some of them.
_REMEMBERED_PIXELS, _REMEMBERED = 1 << 20, 16


def _tile(request: Request) -> Tile:
    path = request.path
    return Tile(shapes.parse_plane(path["plane"]), tiles.parse_scale(path["scale"]), parse_point(path["tile"]))


@endpoint("GET", "metadata", answer='{"MinTileCoord", "MaxTileCoord", "Levels"}')
async def get_metadata(request: Request) -> Response:
    """The first and the last tile, and for each scale the resolution and how large a tile is."""
    return answers.json(settings.metadata(request.data))


@endpoint(
    "POST",
    "metadata",
    body='{"MinTileCoord": [x,y,z], "MaxTileCoord": [x,y,z], "Levels": {"0": {"Resolution": [3], "TileSize": [3]}}}',
)
async def post_metadata(request: Request) -> Response:
    """Say which scales there are. They are the same in all versions; tiles stay as they are."""
    given = settings.parse_metadata(await request.json_object())
    await edit(request.data, settings={**request.data.instance.settings, **given})
    return answers.empty()


@endpoint(
    "GET",
    "tile/{plane}/{scale}/{tile}/{format?}",
    query=[_NO_BLANKS],
    media="image/png",
    answer="an image",
)
async def get_tile(request: Request) -> Response:
    """A tile as it was posted: `xy/0/2_3_50` is the third along x, the fourth along y, of the slice z = 50.

    The format is for tiles kept in LZ4, and for the blank tile where there is none.
    """
    data, tile = request.data, _tile(request)
    settings.metadata(data)  # without which there are no tiles to be had
    found = await tiles.get(await request.head(), tile)
    if found is None:
        if request.query["noblanks"]:
            raise Absent(f"tile {tile} not found")
        return await _blank(request, tile)
    content = await values.whole(found)
    if not tiles.is_lz4(data):
        return answers.Whole(content, _MEDIA[data.instance.settings["format"]])
    form = images.parse_format(request.path.get("format", ""))
    grey = tile_images.unpack_grey(content)
    return answers.Whole(await request.service.workers.run(images.encode, grey, form), form.media.encode())


async def _blank(request: Request, tile: Tile) -> Response:
    """A black tile. How large it is no version says, so neither does the tag of one."""
    form = images.parse_format(request.path.get("format", ""))
    size = settings.tile_size(request.data, tile.scale)
    width, height = (size[axis] for axis in tile.axes)
    request.snapshot = None
    if width * height <= _REMEMBERED_PIXELS:
        return answers.Whole(_black(width, height, form), form.media.encode())
    image = await request.service.workers.run(_black.__wrapped__, width, height, form)
    return answers.Whole(image, form.media.encode())


@lru_cache(maxsize=_REMEMBERED)
def _black(width: int, height: int, form: ImageFormat) -> bytes:
    return images.encode(np.zeros((height, width), np.uint8), form)


@endpoint("POST", "tile/{plane}/{scale}/{tile}/{format?}", body="an image in the instance's format")
async def post_tile(request: Request) -> Response:
    """Write a tile; an empty one counts as none.

    It is kept and answered as it is, unless the format is LZ4: then it is a PNG, a JPEG or a bare LZ4 block of grey
    pixels, of exactly the size that the metadata say.
    """
    tile = _tile(request)
    await tiles.put(request.data, request.service.workers, tile, await request.body(), request.author)
    return answers.empty()


@endpoint("GET", "tilekey/{plane}/{scale}/{tile}", answer='{"key": hexadecimal digits}')
async def get_tilekey(request: Request) -> Response:
    """The key of a tile in the instance's tree, whether there is such a tile or not."""
    return answers.json({"key": _tile(request).key.hex()})


@endpoint("GET", "raw/{dims}/{size}/{offset}/{format?}", media="image/png", answer="an image")
async def get_raw(request: Request) -> Response:
    """A slice of any size and place, in voxels, put together from tiles of scale 0.

    Where there are none it is black, or if the instance has `Placeholder` says which are missing.
    """
    return await _slice(request, _plane(request), None)


@endpoint("GET", "isotropic/{dims}/{size}/{offset}/{format?}", media="image/png", answer="an image")
async def get_isotropic(request: Request) -> Response:
    """As raw, but with square pixels, by the voxel size of the source: the coarser axis is repeated."""
    voxel_size = slices.source(request.data).instance.settings["voxel_size"]
    return await _slice(request, *shapes.isotropic(_plane(request), voxel_size))


def _plane(request: Request) -> shapes.Shape:
    shape = shapes.parse(request.path["dims"], request.path["size"], request.path["offset"])
    if shape.axes is None:
        raise Invalid("tiles make up planes, not volumes")
    limit = request.service.settings.max_answer_bytes
    if shape.box.count * slices.PIXEL_BYTES > limit:
        raise TooLarge(f"{shape.box.count} pixels are more than one answer may hold ({limit} bytes)")
    return shape


async def _slice(request: Request, shape: shapes.Shape, wanted: Triple | None) -> Response:
    """The pixels of a plane, spread over the size that is wanted. No tag: how large tiles are, no version says."""
    form = images.parse_format(request.path.get("format", ""))
    service, axes = request.service, shape.axes
    assert axes is not None
    pixels = await slices.pixels(request.data, await request.head(), service.workers, shape.box, axes)
    request.snapshot = None
    if wanted is not None:
        rows, columns = wanted[2 - axes[1]], wanted[2 - axes[0]]
        pixels = shapes.repeat(pixels, (rows, columns))
    return Response(await service.workers.run(images.encode, pixels, form), media_type=form.media)
