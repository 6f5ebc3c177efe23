"""Shapes in URLs: `raw/{dims}/{size}/{offset}` is a box of voxels or a plane of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid
from app.core.geometry import Box, Triple, parse_ints, parse_point

_PLANES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2), "0_1": (0, 1), "0_2": (0, 2), "1_2": (1, 2)}
VOLUMES = ("vol", "xyz", "0_1_2")

#: A plane must be readable at once; so is the limit of PNG viewers.
MAX_SIDE = 1 << 20


@dataclass(frozen=True)
class Shape:
    """What a URL asks for: a box, and the two axes (0 x, 1 y, 2 z) of the image if it is a plane."""

    box: Box
    axes: tuple[int, int] | None

    def image(self, voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The rows and columns of a plane's voxels (z, y, x)."""
        assert self.axes is not None
        missing = ({0, 1, 2} - set(self.axes)).pop()
        plane: npt.NDArray[Any] = voxels[(slice(None),) * (2 - missing) + (0,)]
        return plane


def parse(dims: str, size: str, offset: str) -> Shape:
    """The shape of a URL; `dims` is `xy`, `0_2`, `vol`, `0_1_2` ..."""
    dims = dims.lower().replace(",", "_")
    at = parse_point(offset)
    if dims in VOLUMES:
        return Shape(Box.at(at, _three(parse_ints(size, 3))), None)
    axes = parse_plane(dims)
    sides = [1, 1, 1]
    for axis, side in zip(axes, parse_ints(size, 2), strict=True):
        if side > MAX_SIDE:
            raise Invalid(f"an image of {side} pixels is too large")
        sides[axis] = side
    return Shape(Box.at(at, _three(tuple(sides))), axes)


def parse_plane(dims: str) -> tuple[int, int]:
    """The two axes (0 x, 1 y, 2 z) of a plane: `xy`, `0_2` ..."""
    axes = _PLANES.get(dims.lower().replace(",", "_"))
    if axes is None:
        raise Invalid(f"{dims!r} is no shape: xy, xz, yz and vol are, or axes such as 0_1_2")
    return axes


def parse_volume(dims: str, size: str, offset: str) -> Box:
    """The box of a write, which must be three-dimensional."""
    shape = parse(dims, size, offset)
    if shape.axes is not None:
        raise Invalid("only volumes can be written: dims 0_1_2")
    return shape.box


def isotropic(shape: Shape, voxel_size: list[float]) -> tuple[Shape, Triple | None]:
    """The box to read for an image with square pixels, and the size (z, y, x) to which its voxels are repeated.

    The finer of the image's two resolutions becomes that of both axes.
    """
    if shape.axes is None:
        return shape, None
    finest = min(voxel_size[axis] for axis in shape.axes)
    wanted = shape.box.shape
    sides = [wanted[2], wanted[1], wanted[0]]
    for axis in shape.axes:
        sides[axis] = max(1, int(sides[axis] * finest / voxel_size[axis] + 0.5))
    z, y, x = shape.box.start
    return Shape(Box.at((x, y, z), _three(tuple(sides))), shape.axes), wanted


def repeat(voxels: npt.NDArray[Any], wanted: Sequence[int]) -> npt.NDArray[Any]:
    """Voxels (z, y, x), or pixels (rows, columns), spread over another size, each the nearest one."""
    for axis, size in enumerate(wanted):
        if size != voxels.shape[axis]:
            voxels = voxels.take(np.arange(size) * voxels.shape[axis] // size, axis=axis)
    return voxels


def _three(values: tuple[int, ...]) -> Triple:
    a, b, c = values
    return a, b, c
