"""How are the blocks of a volume handed to one call of compiled code? As the bytes of all, one after another."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.kernels.arrays import I64, U8, Shape, frozen, frozen_c, xyz
from app.kernels.label_block.header import header, sub_blocks


def joined(blocks: Sequence[U8], places_zyx: npt.NDArray[np.int64], shape_zyx: Shape) -> tuple[U8, I64, I64]:
    """Join checked blocks that lie anywhere: (their bytes, where each begins and the last ends, their places).

    The places are int64 (n, 3) of z, y, x in blocks. ValueError if their number or a block's shape is wrong.
    """
    places = frozen_c(places_zyx, np.int64, 2, "block coordinates")
    if places.shape != (len(blocks), 3):
        raise ValueError(f"{len(blocks)} blocks need as many coordinates z, y, x, not {places.shape}")
    _check_shapes(blocks, shape_zyx)
    starts = np.zeros(len(blocks) + 1, np.int64)
    np.cumsum([block.size for block in blocks], out=starts[1:])
    cat = np.concatenate([*blocks, np.zeros(0, np.uint8)])
    return frozen(cat, np.uint8, 1, "label blocks"), starts, places


def gathered(blocks: Sequence[U8 | None], grid_zyx: Shape, shape_zyx: Shape, pad: int = 0) -> tuple[U8, I64]:
    """Join checked blocks of a grid: (their bytes and ``pad`` zeros, where each begins or -1 for None).

    They are listed in C order (z outermost), None standing for zeros. ValueError as for :func:`check_grid`.
    """
    check_grid(blocks, grid_zyx, shape_zyx)
    starts = np.full(len(blocks), -1, np.int64)
    parts: list[U8] = []
    size = 0
    for i, block in enumerate(blocks):
        if block is not None:
            parts.append(block)
            starts[i] = size
            size += block.size
    cat = np.concatenate([*parts, np.zeros(pad, np.uint8)])
    return frozen(cat, np.uint8, 1, "label blocks"), starts


def check_grid(blocks: Sequence[U8 | None], grid_zyx: Shape, shape_zyx: Shape) -> None:
    """Raise ValueError unless the blocks fill a grid and each that is there has ``shape_zyx`` in voxels."""
    if len(blocks) != grid_zyx[0] * grid_zyx[1] * grid_zyx[2] or min(grid_zyx) < 1:
        raise ValueError(f"{len(blocks)} label blocks do not fill a grid of {xyz(grid_zyx)}")
    _check_shapes(blocks, shape_zyx)


def check_box(grid_zyx: Shape, block_shape_zyx: Shape, start_zyx: Sequence[int], shape_zyx: Sequence[int]) -> None:
    """Raise ValueError unless a box of voxels, counted from the grid's corner, is not empty and lies in the grid."""
    extent = [g * b for g, b in zip(grid_zyx, block_shape_zyx, strict=True)]
    if any(s < 0 or n <= 0 or s + n > e for s, n, e in zip(start_zyx, shape_zyx, extent, strict=True)):
        raise ValueError(f"box of {xyz(shape_zyx)} voxels at {xyz(start_zyx)} (x, y, z) leaves the grid of blocks")


def _check_shapes(blocks: Sequence[U8 | None], shape_zyx: Shape) -> None:
    want = sub_blocks(shape_zyx)
    for i, block in enumerate(blocks):
        if block is not None and header(block)[:3] != want:
            raise ValueError(f"label block {i} does not have {xyz(shape_zyx)} voxels (x, y, z)")
