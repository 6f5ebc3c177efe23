"""A volume at a version as chunks in files: what plain URLs ask of every kind of volume."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from app.core.geometry import Box
from app.core.pyramid import Level, Pyramid, Size

#: How many nanometres the units of `VoxelUnits` are.
_NANOMETERS = {
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1.0),
    **dict.fromkeys(("um", "µm", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"), 1e3),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1e6),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e9),
    **dict.fromkeys(("a", "å", "angstrom", "angstroms"), 0.1),
}


class Chunks(Protocol):
    """Chunks of a volume, all of one snapshot. Boxes are z, y, x in voxels of the scale."""

    #: The precomputed format's name of how chunks are encoded: compressed_segmentation, raw, jpeg.
    encoding: str
    channels: int

    async def pyramid(self) -> Pyramid | None:
        """All scales and the type of voxels; None if nothing has been written yet."""

    async def level(self, scale: int) -> Level | None:
        """One scale; None if there is no such scale, or nothing has been written yet."""

    async def precomputed(self, scale: int, box: Box, in_gzip: bool) -> bytes | memoryview | None:
        """A chunk in `encoding`, in gzip if wanted; None if none of its voxels was ever written."""

    async def zarr(self, scale: int, box: Box) -> bytes | memoryview | None:
        """The gzip of a whole chunk's voxels, little-endian, C order of z, y, x (c, z, y, x); None as above."""


def voxel_size(settings: Mapping[str, Any]) -> Size:
    """The nanometres of a volume's voxel along z, y, x. Units that are not known count as nanometres."""
    x, y, z = (
        size * _NANOMETERS.get(unit.lower(), 1.0)
        for size, unit in zip(settings["voxel_size"], settings["voxel_units"], strict=True)
    )
    return z, y, x
