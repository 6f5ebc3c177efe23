"""Loading V3D raw image stacks: all channels of a version at once."""

from __future__ import annotations

import hashlib
from functools import partial
from itertools import product

import numpy as np

from app.core.errors import Invalid, TooLarge
from app.core.geometry import Box, Triple
from app.core.work import Workers
from app.datatypes.author import Author
from app.datatypes.imageblk import blocks, read
from app.datatypes.imageblk.kinds import Array, Image
from app.datatypes.multichan16 import kept
from app.datatypes.multichan16.kept import Channels
from app.formats import v3d_raw
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation


async def load(data: Data, workers: Workers, body: bytes, author: Author, limit_bytes: int) -> Channels:
    """Replace all channels by those of a stack, whose first voxel is at 0, 0, 0."""
    dense = v3d_raw.channels(body)
    if len(dense) > kept.MAX_CHANNELS:
        raise Invalid(f"{len(dense)} channels are more than {kept.MAX_CHANNELS}")
    shape = dense.shape[1], dense.shape[2], dense.shape[3]
    image = kept.image_of(data, f"uint{8 * dense.itemsize}")
    box = Box((0, 0, 0), shape)
    read.check_size(box, image, limit_bytes)
    if len(dense) * image.block_bytes > limit_bytes:
        raise TooLarge(f"blocks of {len(dense)} channels are more than one answer may hold ({limit_bytes} bytes)")
    ranges = await workers.map(_range, [(channel,) for channel in dense])
    loaded = Channels(image.kind.dtype.name, shape, ranges)
    places = list(product(loaded.numbers, box.blocks(image.block).points()))
    packed = await workers.map(partial(_packed, dense, image), places)
    found = {kept.key(*place): value for place, value in zip(places, packed, strict=True) if value is not None}
    digest = await workers.run(lambda: hashlib.sha256(body).hexdigest())
    told = {"Channels": len(dense), "Size": list(shape[::-1])}
    record = author.record(data, "load", await data.mutation_id(), told)

    async def change(mutation: Mutation) -> None:
        kept.replace(mutation, loaded, found, digest)
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)
    return loaded


def _range(channel: Array) -> tuple[int, int]:
    return int(channel.min()), int(channel.max())


def _packed(dense: Array, image: Image, channel: int, place: Triple) -> bytes | None:
    """The stored bytes of a block, with 0 beyond the volume; None if there is nothing else in it."""
    first = [at * side for at, side in zip(place, image.block, strict=True)]
    part = dense[channel - 1][tuple(slice(at, at + side) for at, side in zip(first, image.block, strict=True))]
    if not part.any():
        return None
    block = np.zeros(image.block, image.kind.dtype)
    block[tuple(map(slice, part.shape))] = part
    return blocks.pack(block, image)
