"""Endpoints of labelmap voxels: read as volumes, slices, blocks and points; written as volumes and blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from starlette.responses import Response

from app.core.errors import Invalid
from app.core.geometry import Box, Triple, parse_ints, parse_point
from app.datatypes import voxels
from app.datatypes.labelmap import colors, read, write
from app.formats import block_stream, color_images, compression, images
from app.routes import answers, shapes
from app.routes.endpoint import Parameter, endpoint
from app.routes.labelmap.parameters import HASH, ROI, SCALE, SUPERVOXELS, THROTTLE, hashed_json, mapping_of, mask_of
from app.routes.request import Request

_VOLUME = Parameter(
    "compression", "of a volume", "choice", "", choices=("", "none", "lz4", "gzip", "google", "googlegzip")
)
_POSTED = Parameter("compression", "of the body", "choice", "", choices=("", "none", "lz4", "gzip"))
_PAYLOADS = ("lz4", "gzip", "blocks", "uncompressed")
_DOWNRES = Parameter("downres", "compute the coarser scales too", "flag", False)

#: Points of one `labels` request; more would hold the server for seconds.
MAX_POINTS = 10_000_000


@endpoint(
    "GET",
    "raw/{dims}/{size}/{offset}/{format?}",
    query=[_VOLUME, SCALE, SUPERVOXELS, ROI, THROTTLE],
    media=answers.OCTETS,
    answer="uint64 voxels, x fastest, or an image",
    throttled=True,
)
async def get_raw(request: Request) -> Response:
    """Labels of a box (0_1_2) as voxels, or of a plane (0_1, 0_2, 1_2) as an image: png, jpg, tiff, bmp."""
    shape = shapes.parse(request.path["dims"], request.path["size"], request.path["offset"])
    mask = await mask_of(request)
    packed: str = request.query["compression"].removeprefix("none")
    if shape.axes is not None:
        return _image(request, shape.image(await _labels(request, shape.box, mask)))
    limit = request.service.settings.max_answer_bytes
    headers = {"Content-Encoding": "gzip"} if packed == "googlegzip" else None
    if mask is None:
        snapshot, mapping = await request.head(), await mapping_of(request)
        body = await read.encoded(
            request.data, snapshot, request.query["scale"], shape.box, mapping, packed, request.service.workers, limit
        )
    else:
        dense = await _labels(request, shape.box, mask)
        body = await request.service.workers.run(read.encode_dense, dense, packed)
    return answers.octets(body, headers)


@endpoint(
    "GET",
    "isotropic/{dims}/{size}/{offset}/{format?}",
    query=[_VOLUME, SCALE, SUPERVOXELS, ROI, THROTTLE],
    media="image/png",
    answer="an image",
    throttled=True,
)
async def get_isotropic(request: Request) -> Response:
    """As raw, but pixels of a plane are square: the coarser axis is repeated."""
    shape = shapes.parse(request.path["dims"], request.path["size"], request.path["offset"])
    read_shape, wanted = shapes.isotropic(shape, request.data.instance.settings["voxel_size"])
    if wanted is None:
        return await get_raw(request)
    labels = await _labels(request, read_shape.box, await mask_of(request))
    return _image(request, shape.image(shapes.repeat(labels, wanted)))


@endpoint(
    "GET",
    "pseudocolor/{dims}/{size}/{offset}/{format?}",
    query=[SCALE, SUPERVOXELS, ROI, THROTTLE],
    media="image/png",
    answer="an image",
    throttled=True,
)
async def get_pseudocolor(request: Request) -> Response:
    """A plane of labels, each in a colour of its own."""
    shape = shapes.parse(request.path["dims"], request.path["size"], request.path["offset"])
    if shape.axes is None:
        raise Invalid("pseudocolor shows planes only")
    labels = shape.image(await _labels(request, shape.box, await mask_of(request)))
    form = images.parse_format(request.path.get("format", ""))
    return Response(color_images.encode_rgb(colors.murmur(labels), form), media_type=form.media)


async def _labels(request: Request, box: Box, mask: write.Mask | None) -> npt.NDArray[np.uint64]:
    """Dense labels of a box at the scale asked, 0 outside of a region of interest (which is of scale 0)."""
    snapshot, scale = await request.head(), request.query["scale"]
    limit = request.service.settings.max_answer_bytes
    labels = await read.volume(
        request.data, snapshot, scale, box, await mapping_of(request), request.service.workers, limit
    )
    if mask is not None and scale == 0:
        labels[~mask.mask(box)] = 0
    return labels


def _image(request: Request, plane: npt.NDArray[Any]) -> Response:
    form = images.parse_format(request.path.get("format", ""))
    return Response(images.encode(plane, form), media_type=form.media)


@endpoint(
    "GET",
    "blocks/{size}/{offset}",
    query=[
        Parameter("compression", "of each block", "choice", "lz4", choices=_PAYLOADS),
        SCALE,
        SUPERVOXELS,
        THROTTLE,
    ],
    media=answers.OCTETS,
    answer="a stream of blocks: int32 x, y, z, n and n bytes",
    throttled=True,
)
async def get_blocks(request: Request) -> Response:
    """The blocks of a box of whole blocks; those that do not exist are left out."""
    size = parse_ints(request.path["size"], 3)
    if size == (0, 0, 0):
        return answers.octets(b"")
    box = Box.at(parse_point(request.path["offset"]), (size[0], size[1], size[2]))
    block = voxels.block_shape(request.data)
    if not box.is_aligned(block):
        raise Invalid(f"size and offset must be multiples of the block size {block[::-1]}")
    if box.count * 8 > request.service.settings.max_answer_bytes:
        raise Invalid(f"{box.count} voxels are more than one answer may hold")
    return await _block_answer(request, list(box.blocks(block).points()))


@endpoint(
    "GET",
    "specificblocks",
    query=[
        Parameter("blocks", "block coordinates x,y,z,x,y,z,..."),
        Parameter("compression", "of each block", "choice", "blocks", choices=_PAYLOADS),
        SCALE,
        SUPERVOXELS,
        Parameter("prefetch", "ignored", "flag", False),
    ],
    media=answers.OCTETS,
    answer="a stream of blocks",
)
async def get_specificblocks(request: Request) -> Response:
    """The blocks at given places; those that do not exist are left out."""
    return await _block_answer(request, specific_places(request.query["blocks"]))


def specific_places(text: str) -> list[Triple]:
    """Block places z, y, x from `x,y,z,x,y,z,...`."""
    if not text:
        return []
    numbers = parse_ints(text)
    if len(numbers) % 3:
        raise Invalid(f"blocks={text!r} is not a list of x,y,z")
    return [(numbers[i + 2], numbers[i + 1], numbers[i]) for i in range(0, len(numbers), 3)]


async def _block_answer(request: Request, places: list[Triple]) -> Response:
    payloads = await read.block_payloads(
        request.data,
        await request.head(),
        request.query["scale"],
        places,
        await mapping_of(request),
        request.query["compression"],
        request.service.workers,
    )
    there = [(place, payload) for place, payload in zip(places, payloads, strict=True) if payload is not None]
    return answers.octets(block_stream.join(there))


@endpoint("GET", "label/{point}", query=[SCALE, SUPERVOXELS], answer='{"Label": n}')
async def get_label(request: Request) -> Response:
    """The label at a point."""
    point = parse_point(request.path["point"])
    snapshot, mapping = await request.head(), await mapping_of(request)
    label = await read.label_at(request.data, snapshot, request.query["scale"], point, mapping)
    return answers.spaced_json(f'{{"Label": {label}}}')


@endpoint(
    "GET",
    "labels",
    query=[SCALE, SUPERVOXELS, HASH],
    body="[[x,y,z], ...]",
    answer="[n, ...]",
    twin=True,
    writes=False,
)
async def get_labels(request: Request) -> Response:
    """The labels at points, in their order."""
    points = _points(await hashed_json(request))
    snapshot, mapping = await request.head(), await mapping_of(request)
    labels = await read.labels_at(request.data, snapshot, request.query["scale"], points, mapping)
    return answers.spaced_json(orjson.dumps(labels, option=orjson.OPT_SERIALIZE_NUMPY).decode())


def _points(value: Any) -> npt.NDArray[np.int64]:
    if value == []:
        return np.empty((0, 3), np.int64)
    try:
        points = np.array(value)
    except (ValueError, OverflowError):
        points = np.empty(0)
    if not isinstance(value, list) or points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "iu":
        raise Invalid("the body must be a JSON list of points, each a list of three integers")
    if len(points) > MAX_POINTS:
        raise Invalid(f"{len(points)} points are too many for one request; at most {MAX_POINTS} are allowed")
    if np.abs(points.astype(np.float64)).max() >= 1 << 31:
        raise Invalid("a coordinate is out of range")
    return points.astype(np.int64)


@endpoint(
    "POST",
    "raw/{dims}/{size}/{offset}",
    query=[
        _POSTED,
        Parameter("mutate", "the blocks may hold labels already; counts are exact either way", "flag", False),
        ROI,
        THROTTLE,
    ],
    body="uint64 voxels, x fastest",
    throttled=True,
)
async def post_raw(request: Request) -> Response:
    """Write a box of whole blocks at scale 0, with its index and all coarser scales."""
    data, workers = request.data, request.service.workers
    box = shapes.parse_volume(request.path["dims"], request.path["size"], request.path["offset"])
    block = voxels.block_shape(data)
    if not box.is_aligned(block):
        raise Invalid(f"size and offset must be multiples of the block size {block[::-1]}")
    if box.count * 8 > request.service.settings.max_body_bytes:
        raise Invalid(f"{box.count} voxels are more than one request may hold")
    mask = await mask_of(request)
    scales = write.check_scales(data, data.instance.settings["max_scale"])
    body = await request.body()
    async with workers.room.taken(8 * box.count):
        volume = await workers.run(_unpacked, body, request.query["compression"], box)
        del body
        prepared = await write.prepare_volume(data, volume, box.start, scales, workers)
        del volume
    await write.store(
        data,
        prepared,
        action="ingest-raw" if not request.query["mutate"] else "mutate-raw",
        workers=workers,
        author=request.author,
        mask=mask,
        scales=scales,
    )
    return answers.empty()


def _unpacked(body: bytes, packed: str, box: Box) -> npt.NDArray[np.uint64]:
    size = box.count * 8
    if packed == "lz4":
        volume = np.empty(box.shape, "<u8")  # large pages, unlike a string of bytes
        compression.unlz4_into(body, volume)
        return volume
    if packed == "gzip":
        body = compression.ungzip(body, size)
    if len(body) != size:
        raise Invalid(f"the body holds {len(body)} bytes; {box.count} voxels of 8 bytes are {size}")
    return np.frombuffer(body, "<u8").reshape(box.shape)


@endpoint(
    "POST",
    "blocks",
    query=[
        SCALE,
        Parameter("compression", "of each block", "choice", "blocks", choices=("", "blocks")),
        _DOWNRES,
        Parameter("noindexing", "leave the label index as it is", "flag", False),
        THROTTLE,
    ],
    body="a stream of blocks, each gzip of a label block",
    throttled=True,
)
async def post_blocks(request: Request) -> Response:
    """Write blocks of one scale. At scale 0 index, extents and largest label follow."""
    scale = request.query["scale"]
    if scale and request.query["downres"]:
        raise Invalid("coarser scales are computed from scale 0 only")
    await _store_stream(request, "post-blocks", request.query["downres"], not request.query["noindexing"])
    return answers.empty()


@endpoint("POST", "ingest-supervoxels", query=[SCALE], body="a stream of blocks, each gzip of a label block")
async def post_ingest_supervoxels(request: Request) -> Response:
    """Write blocks of one scale and nothing else: no index, no extents, no largest label, no coarser scales."""
    await _store_stream(request, "ingest-supervoxels", False, False)
    return answers.empty()


async def _store_stream(request: Request, action: str, reduce: bool, indexing: bool) -> None:
    data, workers = request.data, request.service.workers
    if not data.instance.compression.startswith("gzip"):
        raise Invalid("blocks come as gzip, and this instance was created with another Compression")
    shape = voxels.block_shape(data)
    scales = write.check_scales(data, data.instance.settings["max_scale"]) if reduce else 0
    splitter = block_stream.Splitter(64 + 16 * shape[0] * shape[1] * shape[2])
    items: list[tuple[object, ...]] = []
    async for piece in request.stream():
        for place, payload in splitter.feed(piece):
            if not payload:
                raise Invalid(f"block {place[::-1]} has no bytes")
            items.append((place, bytes(payload), shape, scales))
    splitter.close()
    await write.store(
        data,
        await workers.map(write.prepare_packed, items),
        action=action,
        workers=workers,
        author=request.author,
        scale=request.query["scale"],
        indexing=indexing,
        scales=scales,
    )
