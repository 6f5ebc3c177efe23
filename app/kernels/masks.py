"""Which voxels of blocks have one of some labels, as DVID's binary blocks say it?

One block is a byte: 0 none, 1 all, 2 mixed. After a 2 comes a byte of the same meaning for every sub-block of 8×8×8 (z
outermost, x fastest), and after each 2 among those 64 bytes with one bit per voxel, x fastest, least significant first.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from app.kernels.arrays import I64, U8, U64, Int, Shape, grown
from app.kernels.bit_rows import ALL, MIXED, NONE, fill, sorted_labels
from app.kernels.label_block.header import sub_blocks
from app.kernels.label_block.joining import joined
from app.kernels.words import put32

_FRONT = 12


def binary_blocks(blocks: Sequence[U8], places_zyx: npt.NDArray[np.int64], shape_zyx: Shape, wanted: U64) -> U8:
    """Return what a stream of binary blocks holds behind its header (uint8, 1-D).

    ``blocks`` are checked and of one shape, ``places_zyx`` int64 (n, 3) their block coordinates; ``wanted`` is uint64,
    sorted. For each block that has wanted voxels: int32 x, y, z of its first voxel and the binary block.
    """
    cat, starts, places = joined(blocks, places_zyx, shape_zyx)
    gz, gy, gx = sub_blocks(shape_zyx)
    return _binary_blocks(cat, starts, places, gz, gy, gx, sorted_labels(wanted))


@njit(nogil=True, cache=True)
def _binary_blocks(cat: U8, starts: I64, places: I64, gz: Int, gy: Int, gx: Int, wanted: U64) -> U8:
    subs = gz * gy * gx
    rows = np.zeros((64 * gz * gy, (gx + 7) // 8), np.uint64)
    longest = _FRONT + 1 + 65 * subs
    out = np.empty(4 * longest, np.uint8)
    end = 0
    for b in range(places.shape[0]):
        found = fill(cat[starts[b] : starts[b + 1]], gz, gy, gx, wanted, rows)
        if found == NONE:
            continue
        out = grown(out, end + longest)
        put32(out, end, 8 * gx * places[b, 2])
        put32(out, end + 4, 8 * gy * places[b, 1])
        put32(out, end + 8, 8 * gz * places[b, 0])
        if found == MIXED:
            size, found = _mixed(rows, gz, gy, gx, out, end + _FRONT + 1)
            if found == NONE:
                continue
        else:
            size = 0
        out[end + _FRONT] = found
        end += _FRONT + 1 + (size if found == MIXED else 0)
    return out[:end].copy()


@njit(nogil=True, cache=True)
def _mixed(rows: U64, gz: Int, gy: Int, gx: Int, out: U8, end: Int) -> tuple[Int, Int]:
    """Write the sub-blocks of a block from byte ``end`` on; return how many bytes, and `NONE`, `ALL` or `MIXED`."""
    begin = end
    some, all_of = np.uint8(0), np.uint8(255)
    for sz in range(gz):
        for sy in range(gy):
            first = 64 * gy * sz + 8 * sy
            for sx in range(gx):
                any_here, all_here = np.uint8(0), np.uint8(255)
                shift = np.uint64(8 * (sx & 7))
                for r in range(64):
                    bits = np.uint8(rows[first + 8 * gy * (r >> 3) + (r & 7), sx >> 3] >> shift)
                    out[end + 1 + r] = bits
                    any_here |= bits
                    all_here &= bits
                some |= any_here
                all_of &= all_here
                if any_here == 0 or all_here == 255:
                    out[end] = all_here & np.uint8(1)
                    end += 1
                else:
                    out[end] = 2
                    end += 65
    if some == 0:
        return 0, NONE
    if all_of == 255:
        return 0, ALL
    return end - begin, MIXED
