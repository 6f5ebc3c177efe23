"""What does the front of a label block say: its shape and its labels?"""

import struct
from collections.abc import Sequence

import numpy as np

from app.kernels.arrays import U8, U64, Shape, xyz

SUB = 8
"""Side of a sub-block in voxels."""
MIN_SIDE, MAX_SIDE = 16, 1024
"""Smallest and largest side of a block in voxels."""


def shape(data: U8) -> Shape:
    """Return the shape (z, y, x) in voxels that the header names; ValueError if no block can have it."""
    gz, gy, gx, _ = header(data)
    for side in (gz, gy, gx):
        if not MIN_SIDE <= side * SUB <= MAX_SIDE:
            raise ValueError(
                f"label block of {gx}×{gy}×{gz} sub-blocks (x, y, z): "
                f"each must be {MIN_SIDE // SUB} to {MAX_SIDE // SUB}"
            )
    return gz * SUB, gy * SUB, gx * SUB


def labels(data: U8) -> U64:
    """Return the header list of a checked block as a view (uint64, N); read-only if ``data`` is."""
    n = header(data)[3]
    return data[16 : 16 + 8 * n].view(np.uint64)


def relabel(data: U8, labels: U64) -> U8:
    """Return a copy of a checked block with ``labels`` (uint64, N, repetitions allowed) as its header list."""
    n = header(data)[3]
    labels = np.asarray(labels)
    if labels.shape != (n,) or labels.dtype != np.uint64:
        raise ValueError(f"label block needs {n} uint64 labels, not {labels.dtype} of shape {labels.shape}")
    new = np.array(data, dtype=np.uint8)
    new[16 : 16 + 8 * n] = np.ascontiguousarray(labels, "<u8").view(np.uint8)
    return new


def solid(label: int, shape_zyx: Shape) -> U8:
    """Return the block (24 bytes) all of whose voxels are ``label``."""
    check_shape(shape_zyx)
    if not 0 <= label < 1 << 64:
        raise ValueError(f"label {label} does not fit into 64 bits")
    z, y, x = sub_blocks(shape_zyx)
    return np.frombuffer(bytearray(struct.pack("<4IQ", x, y, z, 1, int(label))), np.uint8)


def header(data: U8) -> tuple[int, int, int, int]:
    """Return sub-blocks along z, y, x and the number of labels."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError("label block must be a 1-D array of uint8")
    if data.size < 16:
        raise ValueError(f"label block of {data.size} bytes is too short for its header")
    gx, gy, gz, n = struct.unpack_from("<4I", data[:16].tobytes())
    return gz, gy, gx, n


def sub_blocks(shape_zyx: Sequence[int]) -> Shape:
    """Return how many sub-blocks along z, y, x make so many voxels, which are multiples of 8."""
    z, y, x = shape_zyx
    return int(z) // SUB, int(y) // SUB, int(x) // SUB


def check_shape(shape_zyx: tuple[int, ...]) -> None:
    """Raise ValueError unless a block can have this shape in voxels."""
    if len(shape_zyx) != 3 or any(s % SUB or not MIN_SIDE <= s <= MAX_SIDE for s in shape_zyx):
        raise ValueError(
            f"sides of a label block must be multiples of {SUB}, {MIN_SIDE} to {MAX_SIDE}, not {xyz(shape_zyx)}"
        )
