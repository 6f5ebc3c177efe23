"""multichan16: a volume of several channels of 8 or 16 bits, such as fluorescence, loaded as a whole.

    c/{channel}{z}{y}{x}    a block of a channel (uint16, from 1), as an image's; none where all voxels are 0
    state/channels          which channels there are: their type, the least and the greatest value of each

The composite, a picture in the colours of the first three channels, is made when it is asked for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import orjson

from app.core.errors import Invalid, NotAllowed
from app.core.geometry import Box, Triple, block_key
from app.core.work import Workers
from app.datatypes import voxels
from app.datatypes.author import Author
from app.datatypes.config import Config
from app.datatypes.datatype import Datatype
from app.datatypes.imageblk import blocks, kinds, read
from app.datatypes.imageblk import settings as image_settings
from app.datatypes.imageblk.kinds import Array, Image
from app.formats import v3d_raw
from app.versioning.datastore import Data
from app.versioning.merge import Sides
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader, Snapshot

_CHANNELS = b"state/channels"
_PREFIX, _END = b"c/", b"c0"
_MOST = (1 << 16) - 1
#: How many channels the composite shows, and the bytes of its pixels.
_COLORS, PIXEL_BYTES = 3, 4
#: What two sides of a version merge disagree about.
_NAMED = "the channels, which are loaded as a whole"


@dataclass(frozen=True)
class Channels:
    """What a version holds: voxels of `shape` z, y, x, of a type, and the least and greatest value of each channel."""

    dtype: str
    shape: Triple
    ranges: list[tuple[int, int]]

    @property
    def box(self) -> Box:
        """Where there are voxels."""
        return Box((0, 0, 0), self.shape)


def _settings(config: Config) -> dict[str, Any]:
    found = image_settings.initial(kinds.BY_NAME["uint16blk"], config)
    return {name: value for name, value in found.items() if name != "source"}


async def _extended(data: Data, snapshot: Snapshot) -> dict[str, Any]:
    found = await channels(snapshot)
    values = [{"DataType": found.dtype, "Label": f"channel{n}"} for n in _numbers(found)] if found else None
    described = await voxels.extended(data, snapshot, "", "", True)
    return {**described, "Values": values, "NumChannels": len(found.ranges) if found else 0}


async def _merge(sides: Sides) -> list[str]:
    """Bring in what a side has loaded: all of it or nothing, as blocks of different loads make no volume."""
    base, ours, theirs = [await reader.get(_CHANNELS) for reader in (sides.base, sides.target, sides.side)]
    if theirs in (base, ours):
        return []
    if not await sides.join(_CHANNELS):
        return [_NAMED]
    for key in sides.changes:
        sides.take(key)
    return []


DATATYPE = Datatype("multichan16", settings=_settings, extended=_extended, merge=_merge)


def _numbers(found: Channels) -> range:
    return range(1, len(found.ranges) + 1)


async def channels(snapshot: Reader) -> Channels | None:
    """The channels of a version; None if none were loaded."""
    value = await snapshot.get(_CHANNELS)
    if value is None:
        return None
    told = orjson.loads(value)
    return Channels(told["dtype"], tuple(told["shape"]), [(low, high) for low, high in told["ranges"]])


def _key(channel: int, place: Triple) -> bytes:
    return _PREFIX + channel.to_bytes(2, "big") + block_key(place)


def _image(data: Data, dtype: str) -> Image:
    """A channel's blocks, as those of an image."""
    return Image(kinds.BY_NAME[f"{dtype}blk"], voxels.block_shape(data), data.instance.compression, 0, "")


async def load(data: Data, workers: Workers, body: bytes, author: Author, limit_bytes: int) -> Channels:
    """Replace all channels by those of a V3D raw image stack."""
    dense = v3d_raw.channels(body)
    if len(dense) > _MOST:
        raise Invalid(f"{len(dense)} channels are more than {_MOST}")
    shape = dense.shape[1], dense.shape[2], dense.shape[3]
    image = _image(data, dense.dtype.newbyteorder("=").name)
    box = Box((0, 0, 0), shape)
    read.check_size(box, image, limit_bytes)
    ranges = await workers.map(_range, [(channel,) for channel in dense])
    loaded = Channels(image.kind.dtype.name, shape, ranges)
    places = list(box.blocks(image.block).points())
    packed = await workers.map(
        partial(_packed, dense, image), [(number, place) for number, place in product(_numbers(loaded), places)]
    )
    digest = await workers.run(lambda: hashlib.sha256(body).hexdigest())
    state = {"dtype": loaded.dtype, "shape": shape, "ranges": ranges, "digest": digest}
    told = {"Channels": len(dense), "Size": list(shape[::-1])}
    record = author.record(data, "load", await data.mutation_id(), told)

    async def change(mutation: Mutation) -> None:
        mutation.delete_range(_PREFIX, _END)
        for key, value in packed:
            if value is not None:
                mutation.put(key, value)
        mutation.put(_CHANNELS, orjson.dumps(state))
        mutation.put(voxels.EXTENTS, orjson.dumps([[0, 0, 0], [side - 1 for side in shape[::-1]]]))
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)
    return loaded


def _range(channel: Array) -> tuple[int, int]:
    return int(channel.min()), int(channel.max())


def _packed(dense: Array, image: Image, channel: int, place: Triple) -> tuple[bytes, bytes | None]:
    """The stored bytes of a block, with 0 beyond the volume; None if there is nothing else in it."""
    box = Box((0, 0, 0), image.block).shift(tuple(a * b for a, b in zip(place, image.block, strict=True)))  # type: ignore[arg-type]
    part = dense[channel - 1][box.slices()]
    if not part.any():
        return _key(channel, place), None
    block = np.zeros(image.block, image.kind.dtype)
    block[tuple(map(slice, part.shape))] = part
    return _key(channel, place), blocks.pack(block, image)


async def _loaded(data: Data, snapshot: Snapshot) -> Channels:
    found = await channels(snapshot)
    if found is None:
        raise NotAllowed(f"data {data.instance.name!r} has no channels: load some")
    return found


async def channel(data: Data, snapshot: Snapshot, workers: Workers, number: int, box: Box) -> Array:
    """The voxels z, y, x of a channel (from 1); 0 beyond the volume."""
    found = await _loaded(data, snapshot)
    if number not in _numbers(found):
        raise Invalid(f"there is no channel {number}: data {data.instance.name!r} has {len(found.ranges)}")
    out = np.zeros(box.shape, found.dtype)
    inside = box.intersect(found.box)
    if min(inside.shape) > 0:
        out[_within(inside, box)] = await _voxels(data, snapshot, workers, found, number, inside)
    return out


async def composite(data: Data, snapshot: Snapshot, workers: Workers, box: Box) -> Array:
    """A box z, y, x of colours, uint32 of red, green, blue and alpha; transparent black beyond the volume.

    Channels 1, 2 and 3 are red, green and blue, each spread from its least value in the volume to its greatest.
    """
    found = await _loaded(data, snapshot)
    out = np.zeros((*box.shape, PIXEL_BYTES), np.uint8)
    inside = box.intersect(found.box)
    if min(inside.shape) > 0:
        shown = out[_within(inside, box)]
        shown[..., -1] = 255
        for number, (low, high) in zip(_numbers(found), found.ranges[:_COLORS], strict=False):
            dense = await _voxels(data, snapshot, workers, found, number, inside)
            shown[..., number - 1] = await workers.run(_spread, dense, low, high)
    colors: Array = out.view("<u4")[..., 0]
    return colors


def _spread(dense: Array, low: int, high: int) -> Array:
    return (dense.astype(np.uint32) - np.uint32(low)) * np.uint32(255) // np.uint32(max(1, high - low))


async def _voxels(data: Data, snapshot: Snapshot, workers: Workers, found: Channels, number: int, inside: Box) -> Array:
    image = _image(data, found.dtype)
    return await read.stored(snapshot, workers, image, inside, partial(_key, number))


def _within(inside: Box, box: Box) -> tuple[slice, slice, slice]:
    z, y, x = box.start
    return inside.shift((-z, -y, -x)).slices()
