"""Which cubes of 8×8×8 voxels hold voxels of some labels, in the bit order of VDB trees?

A leaf has a corner, x, y, z of its first voxel, and a mask of eight uint64: one for each x, with bit 8 · y + z, the
lowest bit first.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from app.kernels.arrays import I32, I64, U8, U64, Int, Shape, grown
from app.kernels.bit_rows import ALL, NONE, fill, fill_all, sorted_labels
from app.kernels.label_block.header import sub_blocks
from app.kernels.label_block.joining import joined


def leaves_of_blocks(
    blocks: Sequence[U8], places_zyx: npt.NDArray[np.int64], shape_zyx: Shape, wanted: U64
) -> tuple[I32, U64]:
    """Return corners, int32 (n, 3) of x, y, z, and masks, uint64 (n, 8), of the leaves that have wanted voxels.

    ``blocks`` are checked and of one shape, ``places_zyx`` int64 (n, 3) their block coordinates; ``wanted`` is uint64,
    sorted. ValueError if a block leaves the range of int32.
    """
    cat, starts, places = joined(blocks, places_zyx, shape_zyx)
    ends = places * np.array(shape_zyx)
    if len(places) and (int(ends.min()) < -(1 << 31) or int((ends + np.array(shape_zyx)).max()) > 1 << 31):
        raise ValueError("the blocks leave the range of int32")
    gz, gy, gx = sub_blocks(shape_zyx)
    return _leaves_of_blocks(cat, starts, places, gz, gy, gx, sorted_labels(wanted))


@njit(nogil=True, cache=True)
def _leaves_of_blocks(cat: U8, starts: I64, places: I64, gz: Int, gy: Int, gx: Int, wanted: U64) -> tuple[I32, U64]:
    rows = np.zeros((64 * gz * gy, (gx + 7) // 8), np.uint64)
    subs = gz * gy * gx
    corners = np.empty((4 * subs, 3), np.int32)
    masks = np.empty((4 * subs, 8), np.uint64)
    n = 0
    for b in range(places.shape[0]):
        found = fill(cat[starts[b] : starts[b + 1]], gz, gy, gx, wanted, rows)
        if found == NONE:
            continue
        if found == ALL:
            fill_all(gx, rows)
        corners, masks = grown(corners, n + subs), grown(masks, n + subs)
        for sz in range(gz):
            for sy in range(gy):
                first = 64 * gy * sz + 8 * sy
                for sx in range(gx):
                    shift = np.uint64(8 * (sx & 7))
                    masks[n] = 0
                    some = np.uint64(0)
                    for z in range(8):
                        for y in range(8):
                            bits = rows[first + 8 * gy * z + y, sx >> 3] >> shift & np.uint64(255)
                            some |= bits
                            for x in range(8):
                                masks[n, x] |= (bits >> np.uint64(x) & np.uint64(1)) << np.uint64(8 * y + z)
                    if some:
                        corners[n, 0] = 8 * (gx * places[b, 2] + sx)
                        corners[n, 1] = 8 * (gy * places[b, 1] + sy)
                        corners[n, 2] = 8 * (gz * places[b, 0] + sz)
                        n += 1
    return corners[:n].copy(), masks[:n].copy()
