"""How do label volumes become LZ4 faster than LZ4 itself can?

DVID sends dense labels as one raw LZ4 block (no size in front) of little-endian uint64, x fastest. A general
compressor hashes every few bytes. Labels need no hashing: a voxel nearly always equals the one above it in the row
before, or the one before it. So matches are looked for at those distances only, whole voxels at a time; the rules of
the LZ4 block format (token, literals, 16-bit offset, matches of at least 4 bytes, the last 12 bytes free of match
starts and the last 5 literal) are all that the result shares with LZ4's own.

Volumes are C order (z, y, x).
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from app.kernels import lz4_blocks
from app.kernels.arrays import I64, U8, U64, Int, Shape, frozen_c, grown
from app.kernels.label_block import decode_box
from app.kernels.label_block.header import sub_blocks
from app.kernels.label_block.joining import check_box, check_grid, gathered
from app.kernels.lz4_stream import FARTHEST, TAIL, finish, sequence
from app.kernels.words import put64

_ENOUGH = 4
"""A match of this many voxels is taken without looking for a longer one."""


def compress(volume: U64) -> U8:
    """Return the raw LZ4 block (uint8, 1-D) of ``volume``, uint64 (z, y, x); copied first if it is not C-contiguous."""
    volume = frozen_c(volume, np.uint64, 3, "label volume")
    return _compress(volume.reshape(-1), volume.shape[1], volume.shape[2])


def compress_blocks(
    blocks: Sequence[U8 | None],
    grid_zyx: Shape,
    block_shape_zyx: Shape,
    box_start_zyx: Shape,
    box_shape_zyx: Shape,
) -> U8:
    """Return the raw LZ4 block (uint8, 1-D) of the labels of a box, straight from checked label blocks.

    ``blocks`` lists a grid in C order (z outermost), None standing for zeros; all have ``block_shape_zyx``. The box
    starts at ``box_start_zyx`` in voxels from the grid's corner. Only a few rows of voxels exist at a time.
    ValueError if the sizes do not agree.
    """
    check_box(grid_zyx, block_shape_zyx, box_start_zyx, box_shape_zyx)
    rows, row = int(box_shape_zyx[1]), int(box_shape_zyx[2])
    if row < lz4_blocks.NARROWEST or (rows * row <= FARTHEST and len(blocks) <= 8):
        # planes this small are within reach of a match, which pays for the whole box being there
        return compress(_dense(blocks, grid_zyx, block_shape_zyx, box_start_zyx, box_shape_zyx))
    cat, starts = gathered(blocks, grid_zyx, block_shape_zyx, pad=16)
    subs = sub_blocks(block_shape_zyx)
    return lz4_blocks.compress(cat, starts, _triple(grid_zyx), subs, _triple(box_start_zyx), _triple(box_shape_zyx))


def _dense(
    blocks: Sequence[U8 | None], grid_zyx: Shape, block_shape_zyx: Shape, start_zyx: Shape, shape_zyx: Shape
) -> U64:
    check_grid(blocks, grid_zyx, block_shape_zyx)
    out = np.zeros(_triple(shape_zyx), np.uint64)
    for i, block in enumerate(blocks):
        if block is None:
            continue
        corner = [int(g) * b for g, b in zip(np.unravel_index(i, grid_zyx), block_shape_zyx, strict=True)]
        a = [max(c, s) for c, s in zip(corner, start_zyx, strict=True)]
        e = [min(c + b, s + n) for c, b, s, n in zip(corner, block_shape_zyx, start_zyx, shape_zyx, strict=True)]
        if all(p < q for p, q in zip(a, e, strict=True)):
            inside = tuple(slice(p - s, q - s) for p, q, s in zip(a, e, start_zyx, strict=True))
            decode_box(block, _triple([p - c for p, c in zip(a, corner, strict=True)]), out[inside])
    return out


def _triple(values: Sequence[int]) -> Shape:
    a, b, c = values
    return int(a), int(b), int(c)


@njit(nogil=True, cache=True)
def _extent(buf: U64, i: Int, stop: Int, distance: Int) -> Int:
    """Return how far voxels from ``i`` on equal those ``distance`` before them (an index, at most ``stop``)."""
    p = np.uint64(i)
    q = np.uint64(i - distance)
    e = np.uint64(stop)
    while p + np.uint64(8) <= e:
        differ = np.uint64(0)
        for k in range(8):
            differ |= buf[p + np.uint64(k)] ^ buf[q + np.uint64(k)]
        if differ != np.uint64(0):
            break
        p += np.uint64(8)
        q += np.uint64(8)
    while p < e and buf[p] == buf[q]:
        p += np.uint64(1)
        q += np.uint64(1)
    return np.int64(p)


@njit(nogil=True, cache=True)
def _feed(buf: U64, low: Int, i: Int, stop: Int, row: Int, plane: Int, out: U8, lits: U8, state: I64) -> tuple[U8, U8]:
    """Compress ``buf[i:stop]``; matches may reach back to ``buf[low]``.

    ``state`` carries over: end of ``out``, number of pending literal bytes, distance and size in bytes of the match
    that is still growing (size 0: none). ``out`` and ``lits`` are returned because longer ones may have replaced them.
    """
    end, n_lits, distance, size = state[0], state[1], state[2], state[3]
    near = np.array([row, row + 1, row - 1, row + 2, row - 2, plane])
    if size:
        to = _extent(buf, i, stop, distance >> 3)
        size += 8 * (to - i)
        i = to
    while i < stop:
        # a match that was growing has ended here
        if size:
            if end + n_lits + (n_lits + size) // 255 + 64 > out.size:
                out = grown(out, end + n_lits + (n_lits + size) // 255 + 64)
            end = sequence(out, end, lits, n_lits, distance, size)
            n_lits, size = 0, 0
        v = buf[i]
        best, best_to = 0, i
        for c in range(near.size):
            d = near[c]
            if 1 < d <= FARTHEST and i - d >= low and buf[i - d] == v:
                to = _extent(buf, i, stop, d)
                if to > best_to:
                    best, best_to = d, to
                    if to - i >= _ENOUGH:
                        break
        if best_to - i < _ENOUGH and i > low and buf[i - 1] == v:
            to = _extent(buf, i, stop, 1)
            if to > best_to:
                best, best_to = 1, to
        if best:
            distance, size = 8 * best, 8 * (best_to - i)
            i = best_to
            continue
        if n_lits + 8 > lits.size:
            lits = grown(lits, n_lits + 8)
        put64(lits, n_lits, v)
        n_lits += 8
        i += 1
        if i - 1 > low:
            # the match may begin inside this voxel, where its high bytes are those of the voxel before
            x = v ^ buf[i - 2]
            same = 0
            while same < 7 and (x >> np.uint64(56 - 8 * same)) == np.uint64(0):
                same += 1
            if same >= 4:
                to = _extent(buf, i, stop, 1)
                n_lits -= same
                distance, size = 8, same + 8 * (to - i)
                i = to
    state[0], state[1], state[2], state[3] = end, n_lits, distance, size
    return out, lits


@njit(nogil=True, cache=True)
def _compress(flat: U64, rows: Int, row: Int) -> U8:
    out = np.empty(max(1024, flat.size // 8), np.uint8)
    lits = np.empty(1024, np.uint8)
    state = np.zeros(4, np.int64)
    stop = max(flat.size - TAIL, 0)
    out, lits = _feed(flat, 0, 0, stop, row, row * rows, out, lits, state)
    return finish(flat[stop:], out, lits, state)
