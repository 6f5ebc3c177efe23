"""How a volume is cut into slabs: boxes of whole blocks that fit memory, each written by one request."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from app.core.errors import Invalid
from app.core.geometry import MAX_COORDINATE, Box, Triple

#: Bytes of one slab's voxels as they are written.
SLAB_BYTES = 64 << 20


@dataclass(frozen=True)
class Plan:
    """A volume at its place in the instance, the shape of a block, and the shape of a slab in blocks; all z, y, x."""

    volume: Box
    block: Triple
    slab_blocks: Triple

    @cached_property
    def slabs(self) -> list[Box]:
        """All slabs: whole blocks, which reach beyond the volume at its edges. No block is in two of them."""
        blocks = self.volume.blocks(self.block)
        found = []
        for zyx in blocks.blocks(self.slab_blocks).points():
            start = _times(zyx, self.slab_blocks)
            stop = (start[0] + self.slab_blocks[0], start[1] + self.slab_blocks[1], start[2] + self.slab_blocks[2])
            part = Box(start, stop).intersect(blocks)
            found.append(Box(_times(part.start, self.block), _times(part.stop, self.block)))
        return found

    def inside(self, slab: Box) -> Box:
        """The part of a slab that the volume fills."""
        return slab.intersect(self.volume)


def make_plan(shape: Triple, offset_xyz: Triple, block: Triple, voxel_bytes: int, slab_bytes: int = SLAB_BYTES) -> Plan:
    """A plan for a volume of this shape (z, y, x) whose first voxel goes to `offset_xyz`."""
    x, y, z = offset_xyz
    volume = Box((z, y, x), (z + shape[0], y + shape[1], x + shape[2]))
    if max(map(abs, (*volume.start, *volume.stop))) >= MAX_COORDINATE:
        raise Invalid(f"the volume would reach beyond coordinate {MAX_COORDINATE}")
    needed = volume.blocks(block).shape
    sides = [1, 1, 1]
    # Slabs grow by doubling, x first: blocks of coarser scales then rarely belong to two slabs.
    while True:
        grown = next(
            (
                axis
                for axis in sorted((2, 1, 0), key=lambda axis: sides[axis])
                if sides[axis] < needed[axis]
                and 2 * int(np.prod(sides)) * int(np.prod(block)) * voxel_bytes <= slab_bytes
            ),
            None,
        )
        if grown is None:
            return Plan(volume, block, (sides[0], sides[1], sides[2]))
        sides[grown] *= 2


def downres_levels(shape: Triple, block: Triple) -> int:
    """Scales until the volume fits one block; at least one, which neuroglancer needs, and no more than blocks halve."""
    longest = max(-(-side // length) for side, length in zip(shape, block, strict=True))
    possible = min((length & -length).bit_length() - 1 for length in block)
    return min(max(1, (longest - 1).bit_length()), possible)


def _times(zyx: Triple, shape: Triple) -> Triple:
    return zyx[0] * shape[0], zyx[1] * shape[1], zyx[2] * shape[2]
