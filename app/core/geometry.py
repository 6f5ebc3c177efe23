"""Boxes of voxels. Points of the API are x, y, z; arrays are z, y, x; every name says which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.core.errors import Invalid

Triple = tuple[int, int, int]

#: Coordinates beyond this do not fit the block keys of the API.
MAX_COORDINATE = 1 << 31


def parse_ints(text: str, count: int | None = None) -> tuple[int, ...]:
    """Integers written with underscores (or commas): `64_64_64`, `-1_0_2`."""
    try:
        values = tuple(int(part) for part in text.replace(",", "_").split("_"))
    except ValueError:
        raise Invalid(f"{text!r} is not a list of integers with underscores between") from None
    if count is not None and len(values) != count:
        raise Invalid(f"{text!r} has {len(values)} numbers, not {count}")
    if any(not -MAX_COORDINATE <= value < MAX_COORDINATE for value in values):
        raise Invalid(f"{text!r}: a coordinate is out of range")
    return values


def parse_point(text: str) -> Triple:
    """A point `x_y_z`."""
    x, y, z = parse_ints(text, 3)
    return x, y, z


@dataclass(frozen=True)
class Box:
    """Voxels from `start` up to but without `stop`; both z, y, x."""

    start: Triple
    stop: Triple

    @classmethod
    def at(cls, offset_xyz: Triple, size_xyz: Triple) -> Box:
        """The box of a request: offset and size as the API writes them."""
        if min(size_xyz) <= 0:
            raise Invalid(f"the size {size_xyz} is not positive")
        x, y, z = offset_xyz
        nx, ny, nz = size_xyz
        return cls((z, y, x), (z + nz, y + ny, x + nx))

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        return (
            self.stop[0] - self.start[0],
            self.stop[1] - self.start[1],
            self.stop[2] - self.start[2],
        )

    @property
    def count(self) -> int:
        """The number of voxels."""
        nz, ny, nx = self.shape
        return nz * ny * nx

    def blocks(self, block: Triple) -> Box:
        """The box of blocks (in block coordinates) that the voxels meet."""
        start = tuple(a // b for a, b in zip(self.start, block, strict=True))
        stop = tuple(-(-a // b) for a, b in zip(self.stop, block, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def is_aligned(self, block: Triple) -> bool:
        """Whether the box consists of whole blocks."""
        return all(a % b == 0 for a, b in zip((*self.start, *self.stop), block * 2, strict=True))

    def points(self) -> Iterator[Triple]:
        """All points z, y, x, in order; meant for boxes of blocks."""
        for z in range(self.start[0], self.stop[0]):
            for y in range(self.start[1], self.stop[1]):
                for x in range(self.start[2], self.stop[2]):
                    yield z, y, x

    def intersect(self, other: Box) -> Box:
        """What both boxes cover; its shape has a number below one if that is nothing."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, stop)  # type: ignore[arg-type]

    def shift(self, by: Triple) -> Box:
        """The box moved by a vector z, y, x."""
        start = tuple(a + b for a, b in zip(self.start, by, strict=True))
        stop = tuple(a + b for a, b in zip(self.stop, by, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index of an array that begins at the origin."""
        (a, b, c), (d, e, f) = self.start, self.stop
        return slice(a, d), slice(b, e), slice(c, f)


def block_key(zyx: Triple) -> bytes:
    """Block coordinates as 12 bytes whose order is z, y, x, negative ones first."""
    z, y, x = zyx
    return ((z + MAX_COORDINATE) << 64 | (y + MAX_COORDINATE) << 32 | (x + MAX_COORDINATE)).to_bytes(12, "big")


def parse_block_key(key: bytes) -> Triple:
    """The coordinates z, y, x of such a key."""
    number = int.from_bytes(key, "big")
    mask = (1 << 32) - 1
    return (
        (number >> 64) - MAX_COORDINATE,
        (number >> 32 & mask) - MAX_COORDINATE,
        (number & mask) - MAX_COORDINATE,
    )
