"""What an instance holds at a version: which channels, where their blocks are, and what becomes of them in merges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from app.core.geometry import Box, Triple, block_key
from app.datatypes import voxels
from app.datatypes.config import Config
from app.datatypes.imageblk import kinds
from app.datatypes.imageblk import settings as image_settings
from app.datatypes.imageblk.kinds import Image
from app.versioning.datastore import Data
from app.versioning.merge import Sides
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader, Snapshot

_CHANNELS = b"state/channels"
_PREFIX, _END = b"c/", b"c0"
MAX_CHANNELS = 255
#: What two sides of a version merge disagree about.
_NAMED = "the channels, which are loaded as a whole"


@dataclass(frozen=True)
class Channels:
    """Voxels of `shape` z, y, x, of a type, and the least and the greatest value of each channel."""

    dtype: str
    shape: Triple
    ranges: list[tuple[int, int]]

    @property
    def box(self) -> Box:
        """Where there are voxels."""
        return Box((0, 0, 0), self.shape)

    @property
    def numbers(self) -> range:
        """The channels as they are counted."""
        return range(1, len(self.ranges) + 1)


def initial(config: Config) -> dict[str, Any]:
    """The settings of a new instance: those of an image that clients write."""
    found = image_settings.initial(kinds.BY_NAME["uint16blk"], config)
    return {name: value for name, value in found.items() if name != "source"}


async def extended(data: Data, snapshot: Snapshot) -> dict[str, Any]:
    """The `Extended` part of the instance's JSON."""
    found = await channels(snapshot)
    values = [{"DataType": found.dtype, "Label": f"channel{n}"} for n in found.numbers] if found else None
    described = await voxels.extended(data, snapshot, "", "", True)
    return {**described, "Values": values, "NumChannels": len(found.ranges) if found else 0}


async def merge(sides: Sides) -> list[str]:
    """Bring in what a side has loaded: all of it or nothing, as blocks of different loads make no volume."""
    base, ours, theirs = [await reader.get(_CHANNELS) for reader in (sides.base, sides.target, sides.side)]
    if theirs in (base, ours):
        return []
    if not await sides.join(_CHANNELS):
        return [_NAMED]
    for changed in sides.changes:
        sides.take(changed)
    return []


async def channels(snapshot: Reader) -> Channels | None:
    """The channels of a version; None if none were loaded."""
    value = await snapshot.get(_CHANNELS)
    if value is None:
        return None
    told = orjson.loads(value)
    return Channels(told["dtype"], tuple(told["shape"]), [(low, high) for low, high in told["ranges"]])


def replace(mutation: Mutation, loaded: Channels, blocks: dict[bytes, bytes], digest: str) -> None:
    """Stage other channels in place of all that are there; `digest` tells what was loaded from anything else."""
    mutation.delete_range(_PREFIX, _END)
    for place, value in blocks.items():
        mutation.put(place, value)
    mutation.put(_CHANNELS, orjson.dumps({**vars(loaded), "digest": digest}))
    mutation.put(voxels.EXTENTS, orjson.dumps([[0, 0, 0], [side - 1 for side in loaded.shape[::-1]]]))


def key(channel: int, place: Triple) -> bytes:
    """Where a block of a channel is kept."""
    return _PREFIX + bytes([channel]) + block_key(place)


def image_of(data: Data, dtype: str) -> Image:
    """What reading and writing must know of a channel, whose blocks are those of an image."""
    return Image(kinds.BY_NAME[f"{dtype}blk"], voxels.block_shape(data), data.instance.compression, 0, "")
