"""Where along x do the voxels of some labels run?

A run is a row x, y, z, length of int32, the order of DVID's run-length encoded sparse volumes.
"""

import numpy as np
from numba import njit

from app.kernels.label_block import Shape, _header, layout
from app.kernels.words import (
    I32,
    U8,
    U64,
    Int,
    Mask,
    frozen_c,
    get32,
    get64,
    unpack_sub,
    width_of,
)


def block_runs(data: U8, wanted: U64, offset_zyx: Shape) -> I32:
    """Return the runs, int32 (n, 4) of x, y, z, length, of the voxels of a checked block that have a wanted label.

    ``wanted`` is uint64, sorted; ``offset_zyx`` is the voxel where the block begins. Runs come in order of z, y, x and
    are as long as they can be inside the block: neighbours of different wanted labels share a run.
    """
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, n = _header(data)
    z, y, x = (int(v) for v in offset_zyx)
    low, high = -(1 << 31), (1 << 31) - 1
    if any(not low <= v <= high - 8 * g for v, g in ((z, gz), (y, gy), (x, gx))):
        raise ValueError(f"a block at {x}, {y}, {z} (x, y, z) leaves the range of int32")
    return _block_runs(data, gz, gy, gx, n, sorted_labels(wanted), z, y, x)


def join_runs(runs: I32) -> I32:
    """Sort runs (int32, n×4) by z, y, x and merge those that touch or overlap; empty ones are left out.

    ValueError if a length is negative or the runs spread along x over more than an int32 can count.
    """
    runs = checked_runs(runs)
    if runs.size:
        ends = runs[:, 0].astype(np.int64) + runs[:, 3]
        if int(ends.max()) - int(runs[:, 0].min()) >= 1 << 31:
            raise ValueError("runs spread too far along x to be joined")
    order = np.lexsort((runs[:, 0], runs[:, 1], runs[:, 2]))
    return _join(np.ascontiguousarray(runs[order]))


def paint_runs(runs: I32, start_zyx: Shape, shape_zyx: Shape) -> Mask:
    """Return the bool mask (z, y, x) of the box at voxel ``start_zyx``, True where a run (int32, n×4) covers it.

    What lies outside of the box is ignored. ValueError if a length is negative.
    """
    runs = checked_runs(runs)
    if min(shape_zyx) < 0:
        raise ValueError("a box cannot have a negative side")
    mask = np.zeros(tuple(int(side) for side in shape_zyx), np.bool_)
    z, y, x = (int(v) for v in start_zyx)
    if abs(z) >> 32 or abs(y) >> 32 or abs(x) >> 32:
        raise ValueError(f"a box at {x}, {y}, {z} (x, y, z) leaves the range of int32")
    if mask.size:
        _paint(runs, mask, z, y, x)
    return mask


def checked_runs(runs: I32) -> I32:
    """Return ``runs`` ready for compiled code; ValueError unless int32 (n, 4) without negative lengths."""
    runs = frozen_c(runs, np.int32, 2, "runs")
    if runs.shape[1] != 4:
        raise ValueError(f"runs must be rows of x, y, z, length, not of {runs.shape[1]} numbers")
    if runs.size and int(runs[:, 3].min()) < 0:
        raise ValueError("a run cannot have a negative length")
    return runs


def sorted_labels(wanted: U64) -> U64:
    """Return ``wanted`` (uint64, 1-D) ready for :func:`flags_of`; ValueError unless it is sorted."""
    wanted = frozen_c(wanted, np.uint64, 1, "wanted labels")
    if np.any(wanted[1:] < wanted[:-1]):
        raise ValueError("wanted labels must be sorted")
    return wanted


@njit(nogil=True, cache=True)
def contains(wanted: U64, label: np.uint64) -> bool:
    """Look up ``label`` in a sorted list."""
    low, high = 0, wanted.size
    while low < high:
        middle = (low + high) >> 1
        if wanted[middle] < label:
            low = middle + 1
        else:
            high = middle
    return low < wanted.size and wanted[low] == label


@njit(nogil=True, cache=True)
def flags_of(data: U8, n_labels: Int, wanted: U64) -> U8:
    """Return per entry of a block's header list whether it is wanted (uint8, n_labels + 1; the last: is label 0)."""
    flags = np.zeros(n_labels + 1, np.uint8)
    for i in range(n_labels):
        flags[i] = contains(wanted, get64(data, 16 + 8 * i))
    flags[n_labels] = contains(wanted, np.uint64(0))
    return flags


@njit(nogil=True, cache=True)
def _block_runs(data: U8, gz: Int, gy: Int, gx: Int, n_labels: Int, wanted: U64, z0: Int, y0: Int, x0: Int) -> I32:
    flags = flags_of(data, n_labels, wanted)
    if n_labels <= 1:
        if flags[0] == 0:
            return np.empty((0, 4), np.int32)
        full = np.empty((64 * gz * gy, 4), np.int32)
        for r in range(64 * gz * gy):
            full[r, 0] = x0
            full[r, 1] = y0 + r % (8 * gy)
            full[r, 2] = z0 + r // (8 * gy)
            full[r, 3] = 8 * gx
        return full
    if flags.max() == 0:
        return np.empty((0, 4), np.int32)
    index, value = layout(data, gz * gy * gx, n_labels)
    out = np.empty((1024, 4), np.int32)
    n_out = 0
    values = np.zeros(512, np.uint16)
    local = np.zeros(512, np.uint8)
    rows = np.empty((64, gx), np.uint8)  # of one row of sub-blocks: eight voxels to a byte, x fastest = lowest bit
    for sz in range(gz):
        for sy in range(gy):
            any_wanted = np.uint8(0)
            for sx in range(gx):
                s = (sz * gy + sy) * gx + sx
                n = (index[s + 1] - index[s]) >> 2
                some, all_of = np.uint8(0), np.uint8(1)
                if n == 0:
                    some = all_of = flags[n_labels]
                for i in range(n):
                    local[i] = flags[get32(data, index[s] + 4 * i)]
                    some |= local[i]
                    all_of &= local[i]
                any_wanted |= some
                if some == all_of:
                    for r in range(64):
                        rows[r, sx] = np.uint8(255) if some else np.uint8(0)
                else:
                    unpack_sub(data, value[s], width_of(n), values)
                    for r in range(64):
                        bits: Int = 0
                        for i in range(8):
                            bits |= np.int64(local[values[8 * r + i]]) << i
                        rows[r, sx] = np.uint8(bits)
            if any_wanted == 0:
                continue
            # rows come out in order of z, y within this row of sub-blocks
            for r in range(64):
                open_at = -1
                for sx in range(gx):
                    row = np.int64(rows[r, sx])
                    if (row == 0 and open_at < 0) or (row == 255 and open_at >= 0):
                        continue
                    if n_out + 8 > out.shape[0]:
                        more = np.empty((2 * out.shape[0], 4), np.int32)
                        more[:n_out] = out[:n_out]
                        out = more
                    for i in range(8):
                        if (row >> i) & 1:
                            if open_at < 0:
                                open_at = 8 * sx + i
                        elif open_at >= 0:
                            out[n_out, 0] = x0 + open_at
                            out[n_out, 1] = y0 + 8 * sy + (r & 7)
                            out[n_out, 2] = z0 + 8 * sz + (r >> 3)
                            out[n_out, 3] = 8 * sx + i - open_at
                            n_out += 1
                            open_at = -1
                if open_at >= 0:
                    if n_out == out.shape[0]:
                        more = np.empty((2 * out.shape[0], 4), np.int32)
                        more[:n_out] = out[:n_out]
                        out = more
                    out[n_out, 0] = x0 + open_at
                    out[n_out, 1] = y0 + 8 * sy + (r & 7)
                    out[n_out, 2] = z0 + 8 * sz + (r >> 3)
                    out[n_out, 3] = 8 * gx - open_at
                    n_out += 1
    # sorted by (sub-block z, sub-block y, z, y): put z before y
    return _by_z_y(out[:n_out], gy, y0, z0, gz)


@njit(nogil=True, cache=True)
def _by_z_y(runs: I32, gy: Int, y0: Int, z0: Int, gz: Int) -> I32:
    """Counting sort by row (z, y), which keeps the order along x."""
    first = np.zeros(64 * gz * gy + 1, np.int64)
    for i in range(runs.shape[0]):
        first[(np.int64(runs[i, 2]) - z0) * 8 * gy + np.int64(runs[i, 1]) - y0 + 1] += 1
    for r in range(64 * gz * gy):
        first[r + 1] += first[r]
    out = np.empty_like(runs)
    for i in range(runs.shape[0]):
        row = (np.int64(runs[i, 2]) - z0) * 8 * gy + np.int64(runs[i, 1]) - y0
        for k in range(4):
            out[first[row], k] = runs[i, k]
        first[row] += 1
    return out


@njit(nogil=True, cache=True)
def _join(runs: I32) -> I32:
    out = np.empty_like(runs)
    n = 0
    for i in range(runs.shape[0]):
        if runs[i, 3] == 0:
            continue
        if n:
            end = np.int64(out[n - 1, 0]) + np.int64(out[n - 1, 3])
            if out[n - 1, 2] == runs[i, 2] and out[n - 1, 1] == runs[i, 1] and np.int64(runs[i, 0]) <= end:
                end = max(end, np.int64(runs[i, 0]) + np.int64(runs[i, 3]))
                out[n - 1, 3] = end - np.int64(out[n - 1, 0])
                continue
        for k in range(4):
            out[n, k] = runs[i, k]
        n += 1
    return out[:n].copy()


@njit(nogil=True, cache=True)
def _paint(runs: I32, mask: Mask, z0: Int, y0: Int, x0: Int) -> None:
    nz, ny, nx = mask.shape
    for i in range(runs.shape[0]):
        z, y = np.int64(runs[i, 2]) - z0, np.int64(runs[i, 1]) - y0
        if 0 <= z < nz and 0 <= y < ny:
            a = np.int64(runs[i, 0]) - x0
            b = min(a + np.int64(runs[i, 3]), nx)
            for x in range(max(a, 0), b):
                mask[z, y, x] = True
