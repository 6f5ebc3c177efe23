"""Boxes of voxels: of one channel, or of the composite in colours."""

from __future__ import annotations

from functools import partial

import numpy as np

from app.core.errors import Invalid, NotAllowed
from app.core.geometry import Box
from app.core.work import Workers
from app.datatypes.imageblk import read
from app.datatypes.imageblk.kinds import Array
from app.datatypes.multichan16 import kept
from app.datatypes.multichan16.kept import Channels
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

#: How many channels the composite shows, and the bytes of its pixels.
_COLORS, PIXEL_BYTES = 3, 4


async def _loaded(data: Data, snapshot: Snapshot) -> Channels:
    found = await kept.channels(snapshot)
    if found is None:
        raise NotAllowed(f"data {data.instance.name!r} has no channels: load some")
    return found


async def channel(data: Data, snapshot: Snapshot, workers: Workers, number: int, box: Box) -> Array:
    """The voxels z, y, x of a channel (from 1); 0 beyond the volume."""
    found = await _loaded(data, snapshot)
    if number not in found.numbers:
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
        for number, (low, high) in zip(found.numbers, found.ranges[:_COLORS], strict=False):
            dense = await _voxels(data, snapshot, workers, found, number, inside)
            shown[..., number - 1] = await workers.run(_spread, dense, low, high)
    colors: Array = out.view("<u4")[..., 0]
    return colors


def _spread(dense: Array, low: int, high: int) -> Array:
    return (dense.astype(np.uint32) - np.uint32(low)) * np.uint32(255) // np.uint32(max(1, high - low))


async def _voxels(data: Data, snapshot: Snapshot, workers: Workers, found: Channels, number: int, inside: Box) -> Array:
    image = kept.image_of(data, found.dtype)
    return await read.stored(snapshot, workers, image, inside, partial(kept.key, number))


def _within(inside: Box, box: Box) -> tuple[slice, slice, slice]:
    z, y, x = box.start
    return inside.shift((-z, -y, -x)).slices()
