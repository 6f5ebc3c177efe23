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

from app.kernels.label_block import Shape, _xyz, decode_box, shape
from app.kernels.segmentation import gathered
from app.kernels.words import (
    I64,
    U8,
    U64,
    Int,
    frozen_c,
    get16,
    get32,
    get64,
    get64_big,
    grown8,
    put16,
    put64,
    width_of,
)

_TAIL = 2
"""Voxels at the end that are never part of a match: 16 bytes, which satisfies LZ4's two rules for the end."""

_FARTHEST = 8191
"""Voxels that a match can reach back: 65535 bytes."""
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
    extent = tuple(g * b for g, b in zip(grid_zyx, block_shape_zyx, strict=True))
    if any(s < 0 or n <= 0 or s + n > e for s, n, e in zip(box_start_zyx, box_shape_zyx, extent, strict=True)):
        raise ValueError(
            f"box of {_xyz(box_shape_zyx)} voxels at {_xyz(box_start_zyx)} (x, y, z) leaves the grid of blocks"
        )
    rows, row = int(box_shape_zyx[1]), int(box_shape_zyx[2])
    if rows * row <= _FARTHEST and len(blocks) <= 8:
        # planes this small are within reach of a match, which pays for the whole box being there
        return compress(_dense(blocks, grid_zyx, block_shape_zyx, box_start_zyx, box_shape_zyx))
    cat, starts = gathered(blocks, grid_zyx, block_shape_zyx, pad=16)
    subs = _triple([int(side) // 8 for side in block_shape_zyx])
    return _compress_blocks(cat, starts, _triple(grid_zyx), subs, _triple(box_start_zyx), _triple(box_shape_zyx))


def _dense(
    blocks: Sequence[U8 | None], grid_zyx: Shape, block_shape_zyx: Shape, start_zyx: Shape, shape_zyx: Shape
) -> U64:
    if len(blocks) != grid_zyx[0] * grid_zyx[1] * grid_zyx[2]:
        raise ValueError(f"{len(blocks)} label blocks do not fill a grid of {_xyz(grid_zyx)}")
    out = np.zeros(_triple(shape_zyx), np.uint64)
    for i, block in enumerate(blocks):
        if block is None:
            continue
        if shape(block) != tuple(block_shape_zyx):
            raise ValueError(f"label block {i} of the grid does not have {_xyz(block_shape_zyx)} voxels")
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
def _sequence(out: U8, end: Int, lits: U8, n_lits: Int, distance: Int, size: Int) -> Int:
    """Write literals and a match of ``size`` bytes ``distance`` bytes back (none if size is 0); return the new end."""
    token_at = end
    end += 1
    token = min(n_lits, 15) << 4
    if n_lits >= 15:
        rest = n_lits - 15
        while rest >= 255:
            out[end] = 255
            end += 1
            rest -= 255
        out[end] = np.uint8(rest)
        end += 1
    if n_lits <= 8:  # room for 8 is always there
        put64(out, end, get64(lits, 0))
    else:
        for i in range(n_lits):
            out[end + i] = lits[i]
    end += n_lits
    if size:
        put16(out, end, distance)
        end += 2
        token |= min(size - 4, 15)
        if size - 4 >= 15:
            rest = size - 19
            while rest >= 255:
                out[end] = 255
                end += 1
                rest -= 255
            out[end] = np.uint8(rest)
            end += 1
    out[token_at] = np.uint8(token)
    return end


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
                out = grown8(out, end + n_lits + (n_lits + size) // 255 + 64)
            end = _sequence(out, end, lits, n_lits, distance, size)
            n_lits, size = 0, 0
        v = buf[i]
        best, best_to = 0, i
        for c in range(near.size):
            d = near[c]
            if 1 < d <= _FARTHEST and i - d >= low and buf[i - d] == v:
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
            lits = grown8(lits, n_lits + 8)
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
def _finish(tail: U64, out: U8, lits: U8, state: I64) -> U8:
    """Write what is pending and the last voxels as literals."""
    end, n_lits, distance, size = state[0], state[1], state[2], state[3]
    out = grown8(out, end + n_lits + n_lits // 255 + size // 255 + 64 + 8 * tail.size)
    if size:
        end = _sequence(out, end, lits, n_lits, distance, size)
        n_lits = 0
    lits = grown8(lits, n_lits + 8 * tail.size)
    for i in range(tail.size):
        put64(lits, n_lits, tail[i])
        n_lits += 8
    end = _sequence(out, end, lits, n_lits, 0, 0)
    return out[:end]


@njit(nogil=True, cache=True)
def _compress(flat: U64, rows: Int, row: Int) -> U8:
    out = np.empty(max(1024, flat.size // 8), np.uint8)
    lits = np.empty(1024, np.uint8)
    state = np.zeros(4, np.int64)
    stop = max(flat.size - _TAIL, 0)
    out, lits = _feed(flat, 0, 0, stop, row, row * rows, out, lits, state)
    return _finish(flat[stop:], out, lits, state)


@njit(nogil=True, cache=True)
def _unpack_rows(data: U8, at: Int, width: Int, table: U64, base: Int, buf: U64, to: Int, row: Int) -> None:
    """Write eight rows of eight voxels, ``row`` apart, of values of at most 8 bits."""
    w = np.uint64(width)
    shift = np.uint64(64) - w
    b = np.uint64(base)
    for r in range(8):
        p = np.uint64(at + r * width)
        v = (
            np.uint64(data[p + np.uint64(7)])
            | (np.uint64(data[p + np.uint64(6)]) << np.uint64(8))
            | (np.uint64(data[p + np.uint64(5)]) << np.uint64(16))
            | (np.uint64(data[p + np.uint64(4)]) << np.uint64(24))
            | (np.uint64(data[p + np.uint64(3)]) << np.uint64(32))
            | (np.uint64(data[p + np.uint64(2)]) << np.uint64(40))
            | (np.uint64(data[p + np.uint64(1)]) << np.uint64(48))
            | (np.uint64(data[p]) << np.uint64(56))
        )
        q = np.uint64(to + r * row)
        for i in range(8):
            buf[q + np.uint64(i)] = table[b + (v >> shift)]
            v <<= w


@njit(nogil=True, cache=True)
def _compress_blocks(
    cat: U8,
    starts: I64,
    grid: tuple[Int, Int, Int],
    block: tuple[Int, Int, Int],
    start: tuple[Int, Int, Int],
    size: tuple[Int, Int, Int],
) -> U8:
    """Compress; grid in blocks, block in sub-blocks, start and size in voxels; ``cat`` ends in 16 spare bytes."""
    subs = block[0] * block[1] * block[2]
    # per sub-block of the grid: where its labels are in one table, its width and where its values are
    n_table = 1
    for b in range(starts.size):
        if starts[b] >= 0:
            n_labels = get32(cat, starts[b] + 12)
            if n_labels == 1:
                n_table += 1
            elif n_labels > 1:
                at = starts[b] + 16 + 8 * n_labels
                for s in range(subs):
                    n_table += get16(cat, at + 2 * s)
    table = np.empty(n_table, np.uint64)
    table[0] = 0
    n_table = 1
    table_at = np.zeros((starts.size, subs), np.int64)
    value_at = np.zeros((starts.size, subs), np.int64)
    width = np.zeros((starts.size, subs), np.uint8)
    for b in range(starts.size):
        n_labels = get32(cat, starts[b] + 12) if starts[b] >= 0 else 0
        if n_labels == 1:
            table[n_table] = get64(cat, starts[b] + 16)
            table_at[b] = n_table
            n_table += 1
        elif n_labels > 1:
            at_count = starts[b] + 16 + 8 * n_labels
            at_index = at_count + 2 * subs
            at_value = at_index
            for s in range(subs):
                at_value += 4 * get16(cat, at_count + 2 * s)
            for s in range(subs):
                n = get16(cat, at_count + 2 * s)
                w = width_of(n)
                width[b, s] = w
                value_at[b, s] = at_value
                at_value += 64 * w
                if n:
                    table_at[b, s] = n_table
                    for _ in range(n):
                        table[n_table] = get64(cat, starts[b] + 16 + 8 * get32(cat, at_index))
                        at_index += 4
                        n_table += 1

    row = size[2]
    history = 3 * row + 8
    buf = np.zeros(history + 8 * row, np.uint64)
    out = np.empty(1 << 16, np.uint8)
    lits = np.empty(1024, np.uint8)
    state = np.zeros(4, np.int64)
    valid, held = 0, 0  # voxels of history, and how many of them are not yet compressed
    left = size[0] * size[1] * size[2]
    edge = np.empty(64, np.uint64)
    for z in range(start[0], start[0] + size[0]):
        bz, sz = z // (8 * block[0]), (z >> 3) % block[0]
        y = start[1]
        while y < start[1] + size[1]:
            by, sy = y // (8 * block[1]), (y >> 3) % block[1]
            rows = min(8 - (y & 7), start[1] + size[1] - y)
            for gx in range(start[2] >> 3, (start[2] + size[2] + 7) >> 3):  # columns of sub-blocks
                b = (bz * grid[1] + by) * grid[2] + gx // block[2]
                s = (sz * block[1] + sy) * block[2] + gx % block[2]
                w = np.int64(width[b, s])
                x = 8 * gx - start[2]
                base = table_at[b, s]
                at = value_at[b, s] + (z & 7) * 8 * w
                if x >= 0 and x + 8 <= row and rows == 8 and w <= 8:
                    to = history + x
                    if w == 0:
                        label = table[base]
                        for r in range(8):
                            for i in range(8):
                                buf[to + r * row + i] = label
                    elif w == 1:
                        _unpack_rows(cat, at, 1, table, base, buf, to, row)
                    elif w == 2:
                        _unpack_rows(cat, at, 2, table, base, buf, to, row)
                    else:
                        _unpack_rows(cat, at, w, table, base, buf, to, row)
                else:  # at the edges of the box: all eight rows aside, then the part that is inside
                    if w == 0:
                        edge[:] = table[base]
                    elif w <= 8:
                        _unpack_rows(cat, at, w, table, base, edge, 0, 8)
                    else:
                        for k in range(64):
                            bit = k * w
                            v = get64_big(cat, at + (bit >> 3)) << np.uint64(bit & 7)
                            edge[k] = table[np.uint64(base) + (v >> np.uint64(64 - w))]
                    for r in range(rows):
                        for i in range(max(0, -x), min(8, row - x)):
                            buf[history + r * row + x + i] = edge[((y & 7) + r) * 8 + i]
            n = rows * row
            left -= n
            first = history - held  # voxels of the strip before that had to wait for this one
            stop = max(first, history + n - max(0, _TAIL - left))
            held = history + n - stop
            out, lits = _feed(buf, history - valid, first, stop, row, 0, out, lits, state)
            if left == 0:
                return _finish(buf[stop : history + n], out, lits, state)
            valid = min(history, valid + n)
            buf[history - valid : history] = buf[history + n - valid : history + n].copy()
            y += rows
    return out[:0]
