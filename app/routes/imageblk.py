"""Endpoints of images: voxels of boxes and slices, streams and rows of blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from app.core.errors import Invalid, TooLarge
from app.core.geometry import Box, Triple, parse_ints, parse_point
from app.datatypes import roi
from app.datatypes.imageblk import blocks, oblique, read, write
from app.datatypes.imageblk.kinds import Array, image_of
from app.formats import block_stream, images
from app.routes import answers, shapes
from app.routes.endpoint import Parameter, endpoint
from app.routes.request import Request
from app.routes.roi import region

_ROI = Parameter("roi", "name of a region of interest, or name,version: outside of it voxels are 0 or stay as they are")
_ATTENUATION = Parameter("attenuation", "accepted for old clients", "integer", None, least=1, most=7)
_THROTTLE = Parameter("throttle", "refuse with 503 when too many such operations run", "flag", False)
_MUTATE = Parameter("mutate", "say that voxels are replaced, not new", "flag", False)
_COMPRESSION = Parameter(
    "compression",
    "of each block: as stored, jpeg (which must be how they are stored), or uncompressed",
    "choice",
    "",
    choices=("", "jpeg", "uncompressed"),
)
#: Longer streams are sent piece by piece, each of about so many uncompressed bytes.
_PIECE_BYTES = 16 << 20


def _is_volume(path: Mapping[str, str]) -> bool:
    """Slices are never throttled."""
    return path["dims"].lower().replace(",", "_") in shapes.VOLUMES


@endpoint(
    "GET",
    "raw/{dims}/{size}/{offset}/{format?}",
    query=[_ROI, _ATTENUATION, _THROTTLE],
    media=answers.OCTETS,
    answer="voxels, x fastest, or an image",
    throttled=_is_volume,
)
async def get_raw(request: Request) -> Response:
    """Voxels of a box (0_1_2), or with `jpeg` one JPEG of its stacked slices; of a plane (0_1, ...) an image."""
    shape = shapes.parse(request.path["dims"], request.path["size"], request.path["offset"])
    return await _answer(request, shape, None)


@endpoint(
    "GET",
    "isotropic/{dims}/{size}/{offset}/{format?}",
    query=[_ROI, _ATTENUATION, _THROTTLE],
    media="image/png",
    answer="an image",
    throttled=_is_volume,
)
async def get_isotropic(request: Request) -> Response:
    """As raw, but pixels of a plane are square: the coarser axis is repeated."""
    shape = shapes.parse(request.path["dims"], request.path["size"], request.path["offset"])
    return await _answer(request, *shapes.isotropic(shape, request.data.instance.settings["voxel_size"]))


async def _answer(request: Request, shape: shapes.Shape, wanted: Triple | None) -> Response:
    """The voxels of a shape, spread over the size that is wanted, in the form of the path."""
    suffix = request.path.get("format", "")
    service, data = request.service, request.data
    limit = service.settings.max_answer_bytes
    as_jpeg = suffix.partition(":")[0] in ("jpg", "jpeg")
    form = images.parse_format(suffix) if shape.axes is not None or as_jpeg else None
    mask = await _mask(request)
    snapshot = await request.head()
    if shape.axes is None and form is not None and mask is None:
        jpeg = await read.stacked_jpeg(data, snapshot, service.workers, shape.box, form.level, limit)
        return Response(jpeg, media_type=form.media)
    dense = await read.volume(data, snapshot, service.workers, shape.box, limit)
    if mask is not None:
        dense = await service.workers.run(_masked, dense, mask, shape.box)
    if form is None:
        return answers.voxels(blocks.flat(dense))
    if shape.axes is None:
        return Response(await service.workers.run(images.stacked_jpeg, dense, form.level), media_type=form.media)
    if wanted is not None:
        dense = shapes.repeat(dense, wanted)
    image = await service.workers.run(images.encode, shape.image(dense), form)
    return Response(image, media_type=form.media)


def _masked(dense: Array, mask: roi.Mask, box: Box) -> Array:
    if not dense.flags.writeable:
        dense = dense.copy()
    dense[~mask.mask(box)] = 0
    return dense


async def _mask(request: Request) -> roi.Mask | None:
    name: str = request.query["roi"]
    return await region(request, name) if name else None


@endpoint(
    "POST",
    "raw/{dims}/{size}/{offset}",
    query=[_MUTATE, _ROI, _ATTENUATION, _THROTTLE],
    body="voxels, x fastest",
    throttled=True,
)
async def post_raw(request: Request) -> Response:
    """Write the voxels of a box of whole blocks."""
    box = shapes.parse_volume(request.path["dims"], request.path["size"], request.path["offset"])
    mask = await _mask(request)
    await write.volume(
        request.data,
        request.service.workers,
        box,
        await request.body(),
        mask,
        request.author,
        mutate=request.query["mutate"],
    )
    return answers.empty()


@endpoint("GET", "rawkey", media="text/plain", answer="nothing")
async def get_rawkey(request: Request) -> Response:
    """DVID's key of a block, which this server does not have: the answer is empty."""
    return answers.empty()


@endpoint(
    "GET",
    "specificblocks",
    query=[
        Parameter("blocks", "block coordinates x,y,z,x,y,z,..."),
        _COMPRESSION,
        Parameter("prefetch", "only look the blocks up, so that they are read faster soon", "flag", False),
    ],
    media=answers.OCTETS,
    answer="a stream of blocks: int32 x, y, z, n and n bytes",
)
async def get_specificblocks(request: Request) -> Response:
    """Some blocks; those that do not exist are left out."""
    text: str = request.query["blocks"]
    numbers = parse_ints(text.replace(",", "_")) if text else ()
    if len(numbers) % 3:
        raise Invalid("blocks must be three coordinates for each block")
    places = [(numbers[at + 2], numbers[at + 1], numbers[at]) for at in range(0, len(numbers), 3)]
    return await _blocks(request, places, is_prefetch=request.query["prefetch"])


@endpoint(
    "GET",
    "subvolblocks/{size}/{offset}",
    query=[_COMPRESSION, _THROTTLE],
    media=answers.OCTETS,
    answer="a stream of blocks: int32 x, y, z, n and n bytes",
    throttled=True,
)
async def get_subvolblocks(request: Request) -> Response:
    """The blocks of a box of whole blocks; those that do not exist are left out."""
    x, y, z = parse_ints(request.path["size"], 3)
    box = Box.at(parse_point(request.path["offset"]), (x, y, z))
    image = image_of(request.data)
    if not box.is_aligned(image.block):
        raise Invalid(f"size and offset must be multiples of the block size {image.block[::-1]}")
    read.check_size(box, image, request.service.settings.max_answer_bytes)
    return await _blocks(request, list(box.blocks(image.block).points()))


async def _blocks(request: Request, places: Sequence[Triple], *, is_prefetch: bool = False) -> Response:
    """A stream of blocks, in one answer or, if it is long, in pieces."""
    image, snapshot = image_of(request.data), await request.head()
    if len(places) * image.block_bytes > request.service.settings.max_answer_bytes:
        raise TooLarge(f"{len(places)} blocks are more than one answer may hold")
    each = max(1, _PIECE_BYTES // image.block_bytes)

    async def piece(start: int) -> bytes:
        part = places[start : start + each]
        return block_stream.join(
            await read.payloads(request.data, snapshot, request.service.workers, part, request.query["compression"])
        )

    starts = range(0, len(places), each)
    if is_prefetch:
        for start in starts:
            await piece(start)
        return answers.empty()
    return await answers.in_pieces(starts, piece)


def _span(request: Request) -> tuple[Triple, int]:
    """The first block z, y, x of a row, and how many there are."""
    x, y, z = parse_point(request.path["block"])
    (count,) = parse_ints(request.path["count"], 1)
    if count < 0:
        raise Invalid(f"{count} blocks cannot be")
    return (z, y, x), count


@endpoint("GET", "blocks/{block}/{count}", media=answers.OCTETS, answer="the voxels of one block after the other")
async def get_blocks(request: Request) -> Response:
    """Blocks that follow each other along x, beginning with `x_y_z`; background where there are none."""
    first, count = _span(request)
    limit = request.service.settings.max_answer_bytes
    row = await read.row(request.data, await request.head(), request.service.workers, first, count, limit)
    return answers.octets(b"".join(row))


@endpoint("POST", "blocks/{block}/{count}", query=[_MUTATE], body="the voxels of one block after the other")
async def post_blocks(request: Request) -> Response:
    """Write blocks that follow each other along x, beginning with `x_y_z`."""
    first, count = _span(request)
    body = await request.body()
    if count == 0:
        raise Invalid("a write of no blocks")
    await write.row(
        request.data,
        request.service.workers,
        first,
        count,
        body,
        request.author,
        mutate=request.query["mutate"],
    )
    return answers.empty()


@endpoint(
    "GET",
    "arb/{top_left}/{top_right}/{bottom_left}/{resolution}/{format?}",
    query=[_THROTTLE],
    media="image/png",
    answer="an image",
    throttled=True,
)
async def get_arb(request: Request) -> Response:
    """An oblique slice through three corners `x_y_z`, in the units of the voxel size; so is the resolution."""
    form = images.parse_format(request.path.get("format", ""))
    corners = [_floats(request.path[name], 3) for name in ("top_left", "top_right", "bottom_left")]
    (resolution,) = _floats(request.path["resolution"], 1)
    voxel_size: Any = request.data.instance.settings["voxel_size"]
    wanted = oblique.plane(corners[0], corners[1], corners[2], resolution, voxel_size)
    service = request.service
    limit = service.settings.max_answer_bytes
    pixels = await oblique.sample(request.data, await request.head(), service.workers, wanted, limit)
    return Response(await service.workers.run(images.encode, pixels, form), media_type=form.media)


def _floats(text: str, count: int) -> list[float]:
    """Numbers with underscores between."""
    try:
        values = [float(part) for part in text.replace(",", "_").split("_")]
    except ValueError:
        raise Invalid(f"{text!r} is not a list of numbers with underscores between") from None
    if len(values) != count:
        raise Invalid(f"{text!r} has {len(values)} numbers, not {count}")
    return values
