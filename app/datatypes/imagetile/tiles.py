"""Single tiles: where they are kept, how they are written, and what a reader gets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid
from app.core.geometry import Triple, block_key, parse_block_key
from app.core.work import Workers
from app.datatypes import values
from app.datatypes.author import Author
from app.datatypes.imagetile.settings import MAX_PIXELS, MAX_SCALES, tile_size
from app.datatypes.values import Large, Small
from app.formats import tile_images
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Snapshot

PREFIX = b"t/"
_AXES = "xyz"
_GREY = np.dtype(np.uint8)


@dataclass(frozen=True)
class Tile:
    """A tile: the two axes (0 x, 1 y, 2 z) of its plane, its scale, and its place.

    The place x, y, z counts tiles along the axes of the plane and slices along the third.
    """

    axes: tuple[int, int]
    scale: int
    place: Triple

    @property
    def plane(self) -> str:
        """`xy`, `xz` or `yz`."""
        first, second = self.axes
        return _AXES[first] + _AXES[second]

    @property
    def key(self) -> bytes:
        """Where the tile is kept."""
        x, y, z = self.place
        return b"%b%b/%c/%b" % (PREFIX, self.plane.encode(), self.scale, block_key((z, y, x)))

    @property
    def is_possible(self) -> bool:
        """Whether there can be such a tile: negative places are empty."""
        return min(self.place) >= 0

    def __str__(self) -> str:
        x, y, z = self.place
        return f"{self.plane}/{self.scale}/{x}_{y}_{z}"


def named(key: bytes) -> str:
    """What a key of the tree is to users: a tile as URLs name it."""
    plane, scale, place = key[2:4].decode(), key[5], key[7:]
    z, y, x = parse_block_key(place)
    return f"tile {plane}/{scale}/{x}_{y}_{z}"


def parse_scale(text: str) -> int:
    """The number of a scale."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < MAX_SCALES):
        raise Invalid(f"{text!r} is not the number of a scale: 0 to {MAX_SCALES - 1}")
    return int(text)


def is_lz4(data: Data) -> bool:
    """Whether tiles are kept as pixels, not as they were posted."""
    return bool(data.instance.settings["format"] == "lz4")


async def get(snapshot: Snapshot, tile: Tile) -> Small | Large | None:
    """The stored bytes of a tile; None if it was never posted, or what was posted last is empty."""
    found = await values.get(snapshot, tile.key) if tile.is_possible else None
    return found if found is not None and found.size else None


async def put(data: Data, workers: Workers, tile: Tile, body: bytes, author: Author) -> None:
    """Write a tile. Pictures are kept unseen; of a tile in LZ4 the pixels are looked at, as they are kept as such."""
    if not tile.is_possible:
        raise Invalid(f"there is no tile {tile}: the numbers of its place must not be negative")
    if body and is_lz4(data):
        body = await workers.run(_packed, data, tile, body)
    told = {"Tile": str(tile), "Bytes": len(body)}
    record = author.record(data, "tile", await data.mutation_id(), told)

    async def change(mutation: Mutation) -> None:
        await values.put(mutation, tile.key, body)
        mutation.record(record)

    await data.mutate(change, by_admin=author.by_admin)


def _packed(data: Data, tile: Tile, body: bytes) -> bytes:
    """What is kept of a tile in LZ4: posted as a picture, or as a bare LZ4 block of grey values, x fastest."""
    size = tile_size(data, tile.scale)
    width, height = (size[axis] for axis in tile.axes)
    if tile_images.is_picture(body):
        grey: npt.NDArray[np.uint8] = tile_images.pixels(body, _GREY, MAX_PIXELS)
        if grey.shape != (height, width):
            raise Invalid(f"the picture has {grey.shape[1]} x {grey.shape[0]} pixels, a tile {width} x {height}")
    else:
        grey = tile_images.grey_of_lz4(body, width, height)
    return tile_images.pack_grey(grey)
