"""A volume as files: scales in chunks of one shape. What precomputed and zarr describe, each in its own words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from app.core.geometry import Box, Triple

Size = tuple[float, float, float]


@dataclass(frozen=True)
class Level:
    """One scale. Chunks lie on a grid that begins at the box's first voxel; the last ones may reach beyond the box."""

    #: Voxels of this scale, z, y, x; their coordinates are those of the API at the same scale.
    box: Box
    #: Voxels of a chunk along z, y, x.
    chunk: Triple
    #: Nanometres of a voxel along z, y, x.
    voxel_size: Size

    @property
    def grid(self) -> Triple:
        """Chunks along z, y, x."""
        z, y, x = (-(-side // step) for side, step in zip(self.box.shape, self.chunk, strict=True))
        return z, y, x

    def chunk_at(self, place: Triple) -> Box | None:
        """The whole chunk (not clipped to the box) at a place z, y, x of the grid, or None outside of it."""
        if not all(0 <= index < count for index, count in zip(place, self.grid, strict=True)):
            return None
        z, y, x = (first + index * step for first, index, step in zip(self.box.start, place, self.chunk, strict=True))
        return Box((z, y, x), (z + self.chunk[0], y + self.chunk[1], x + self.chunk[2]))


@dataclass(frozen=True)
class Pyramid:
    """All scales of a volume, the finest first; each next one has half the resolution."""

    dtype: str
    levels: tuple[Level, ...]
    channels: int = 1
    is_labels: bool = False
    #: What voxels are that were never written.
    fill: int = 0


@lru_cache(maxsize=1024)
def levels(first: Triple, last: Triple, chunk: Triple, voxel_size: Size, count: int) -> tuple[Level, ...]:
    """The scales of a volume whose voxels reach from `first` to `last`, both included; all z, y, x.

    At scale 0 the volume is rounded to whole chunks. A coarser scale covers at least the same space: it begins at a
    multiple of its chunk, so that chunks of all scales are blocks, and ends with the last voxel that is needed.
    """
    base = [a // side * side for a, side in zip(first, chunk, strict=True)]
    ends = [(a // side + 1) * side for a, side in zip(last, chunk, strict=True)]
    found = []
    for scale in range(count):
        step = 1 << scale
        za, ya, xa = (a // (step * side) * side for a, side in zip(base, chunk, strict=True))
        zb, yb, xb = (-(-b // step) for b in ends)
        z, y, x = (size * step for size in voxel_size)
        found.append(Level(Box((za, ya, xa), (zb, yb, xb)), chunk, (z, y, x)))
    return tuple(found)
