"""Slices of any size and place, put together from the tiles of scale 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.core.errors import Invalid, TooLarge
from app.core.geometry import Box, Triple
from app.core.work import Workers
from app.datatypes import values
from app.datatypes.imageblk import kinds
from app.datatypes.imagetile.settings import MAX_PIXELS, tile_size
from app.datatypes.imagetile.tiles import Tile, is_lz4
from app.formats import tile_images
from app.formats.tile_images import Array
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

#: The most bytes that a pixel has.
PIXEL_BYTES = 4
#: A slice is made of at most so many tiles.
_MAX_TILES = 1 << 16
#: So many tiles are in memory before they are decoded together.
_TOGETHER = 64


def source(data: Data) -> Data:
    """The image whose voxels the tiles show, at the version of the request."""
    name = data.instance.settings["source"]
    if not name:
        raise Invalid(f"data {data.instance.name!r} has no Source, which slices need")
    found = data.sibling(name)
    if found.instance.typename not in kinds.BY_NAME:
        raise Invalid(f"the Source {name!r} must be an image, not of type {found.instance.typename}")
    return found


def pixel_type(image: Data) -> np.dtype[Any]:
    """The type of the pixels that show an image's voxels."""
    size = kinds.image_of(image).kind.dtype.itemsize
    if size > PIXEL_BYTES:
        raise Invalid(f"tiles cannot show voxels of type {image.instance.typename}")
    return np.dtype(f"<u{size}")


async def pixels(data: Data, snapshot: Snapshot, workers: Workers, box: Box, axes: tuple[int, int]) -> Array:
    """The pixels (rows, columns) of a plane of voxels; 0 where there are no tiles."""
    dtype = pixel_type(source(data))
    size = tile_size(data, 0)
    sides = size[axes[1]], size[axes[0]]
    start, stop = (_rows_and_columns(point, axes) for point in (box.start, box.stop))
    met = _tiles(axes, box.start, start, stop, sides)
    out = np.zeros((stop[0] - start[0], stop[1] - start[1]), dtype)
    read_back = _Reading(dtype, is_lz4(data), sides if data.instance.settings["placeholder"] else None)

    def paste(tile: Tile, content: bytes | None) -> None:
        place = _rows_and_columns(tile.place[::-1], axes)
        corner = place[0] * sides[0] - start[0], place[1] * sides[1] - start[1]
        found = read_back.pixels(tile, content)
        if found is not None:
            _paste(out, found[: sides[0], : sides[1]], corner)

    waiting: list[tuple[Tile, bytes | None]] = []
    stored = values.get_many(snapshot, [tile.key for tile in met])
    for tile in met:
        value = await anext(stored)
        content = None if value is None else await values.whole(value)
        waiting.append((tile, content or None))
        if len(waiting) == _TOGETHER or tile is met[-1]:
            await workers.map(paste, waiting)
            waiting = []
    return out


class _Reading:
    """How stored tiles become pixels; with `placeholder` (rows, columns), also those that are not there."""

    def __init__(self, dtype: np.dtype[Any], in_lz4: bool, placeholder: tuple[int, int] | None) -> None:
        self._dtype = dtype
        self._in_lz4 = in_lz4
        self._placeholder = placeholder

    def pixels(self, tile: Tile, content: bytes | None) -> Array | None:
        """The pixels of a tile, which may be larger or smaller than it should."""
        if content is None:
            if self._placeholder is None:
                return None
            height, width = self._placeholder
            return tile_images.placeholder(width, height, "\n".join(str(tile).split("/")), self._dtype)
        try:
            if self._in_lz4:
                return tile_images.deepened(tile_images.unpack_grey(content), self._dtype)
            return tile_images.pixels(content, self._dtype, MAX_PIXELS)
        except Invalid as error:
            raise Invalid(f"tile {tile} cannot be shown: {error}") from None


def _rows_and_columns(zyx: Sequence[int], axes: tuple[int, int]) -> tuple[int, int]:
    return zyx[2 - axes[1]], zyx[2 - axes[0]]


def _tiles(
    axes: tuple[int, int], at_zyx: Triple, start: tuple[int, int], stop: tuple[int, int], sides: tuple[int, int]
) -> list[Tile]:
    """The tiles, of those that can be, that meet rows and columns from `start` up to but without `stop`."""
    rows, columns = (range(max(0, a // side), -(-b // side)) for a, b, side in zip(start, stop, sides, strict=True))
    if len(rows) * len(columns) > _MAX_TILES:
        raise TooLarge(f"the slice meets {len(rows) * len(columns)} tiles; at most {_MAX_TILES} are read at once")
    place = list(at_zyx[::-1])
    found = []
    for row in rows:
        for column in columns:
            place[axes[1]], place[axes[0]] = row, column
            found.append(Tile(axes, 0, (place[0], place[1], place[2])))
    return [tile for tile in found if tile.is_possible]


def _paste(out: Array, tile: Array, corner: tuple[int, int]) -> None:
    """Put what lies within `out` of a tile there whose first pixel belongs at a row and column, maybe outside."""
    first = [max(0, at) for at in corner]
    last = [min(at + side, most) for at, side, most in zip(corner, tile.shape, out.shape, strict=True)]
    if first[0] < last[0] and first[1] < last[1]:
        (top, left), (row, column) = first, corner
        part = tile[top - row : last[0] - row, left - column : last[1] - column]
        out[top : last[0], left : last[1]] = part
