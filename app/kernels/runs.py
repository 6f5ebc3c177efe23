"""Where along x do the voxels of some labels run?

A run is a row x, y, z, length of int32, the order of DVID's run-length encoded sparse volumes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from app.kernels.arrays import I32, I64, U8, U64, Int, Mask, Shape, frozen_c, grown
from app.kernels.bit_rows import ALL, NONE, clip, fill, fill_all, sorted_labels
from app.kernels.label_block.header import sub_blocks
from app.kernels.label_block.joining import joined

OPEN: tuple[tuple[int, int, int], tuple[int, int, int]] = ((-(1 << 40),) * 3, (1 << 40,) * 3)
"""Bounds that leave out nothing."""

_CLOSED = -(1 << 40)
_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACES = np.zeros(64, np.uint8)
for _place in range(64):
    _PLACES[((1 << _place) * int(_DE_BRUIJN) & ((1 << 64) - 1)) >> 58] = _place


def runs_of_blocks(
    blocks: Sequence[U8],
    places_zyx: npt.NDArray[np.int64],
    shape_zyx: Shape,
    wanted: U64,
    bounds_zyx: tuple[tuple[int, int, int], tuple[int, int, int]] = OPEN,
) -> I32:
    """Return the runs, int32 (n, 4) of x, y, z, length, of the voxels that have a wanted label.

    ``blocks`` are checked and of one shape, ``places_zyx`` int64 (n, 3) their block coordinates, sorted; ``wanted`` is
    uint64, sorted; ``bounds_zyx`` are the first and the last voxel, exact. Runs are as long as they can be: they join
    different wanted labels and go on from block to block. They come in the order of the blocks in which they end, and
    there by z, y, x, but those that end with a row of blocks come together behind it.
    """
    return _call(blocks, places_zyx, shape_zyx, wanted, bounds_zyx, True)[0]


def count_runs_of_blocks(
    blocks: Sequence[U8],
    places_zyx: npt.NDArray[np.int64],
    shape_zyx: Shape,
    wanted: U64,
    bounds_zyx: tuple[tuple[int, int, int], tuple[int, int, int]] = OPEN,
) -> int:
    """Return how many runs :func:`runs_of_blocks` would give."""
    return int(_call(blocks, places_zyx, shape_zyx, wanted, bounds_zyx, False)[1])


def _call(
    blocks: Sequence[U8],
    places_zyx: npt.NDArray[np.int64],
    shape_zyx: Shape,
    wanted: U64,
    bounds_zyx: tuple[tuple[int, int, int], tuple[int, int, int]],
    is_kept: bool,
) -> tuple[I32, Int]:
    cat, starts, places = joined(blocks, places_zyx, shape_zyx)
    if not len(blocks):
        return np.empty((0, 4), np.int32), 0
    sides = np.array(shape_zyx, np.int64)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    if (low * sides < -(1 << 31)).any() or (high * sides > 1 << 31).any():
        raise ValueError("the blocks leave the range of int32")
    if len(blocks) * sides[2] >= 1 << 31:
        raise ValueError("so many blocks could make a run too long for int32")
    gz, gy, gx = sub_blocks(shape_zyx)
    first, last = (np.array(bound, np.int64) for bound in bounds_zyx)
    return _runs_of_blocks(cat, starts, places, gz, gy, gx, sorted_labels(wanted), first, last, is_kept)


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


@njit(nogil=True, cache=True)
def lowest(bits: np.uint64) -> Int:
    """Return the place of the lowest bit that is set; ``bits`` is not 0."""
    return np.int64(_PLACES[(bits & (~bits + np.uint64(1))) * _DE_BRUIJN >> np.uint64(58)])


@njit(nogil=True, cache=True)
def _end(start: I64, corner: I64, gy: Int, gx: Int, out: I32, n: Int, is_kept: bool) -> tuple[I32, Int]:
    """Write the runs that reach the end of a block along x behind which there is no other; see :func:`_go_on`."""
    if is_kept:
        out = grown(out, n + start.size)
    for r in range(start.size):
        if start[r] != _CLOSED:
            if is_kept:
                out[n, 0], out[n, 1] = start[r], corner[1] + r % (8 * gy)
                out[n, 2], out[n, 3] = corner[0] + r // (8 * gy), corner[2] + 8 * gx - start[r]
            n += 1
            start[r] = _CLOSED
    return out, n


@njit(nogil=True, cache=True)
def _go_on(
    rows: U64, start: I64, corner: I64, gy: Int, gx: Int, out: I32, n: Int, is_kept: bool
) -> tuple[I32, Int, bool]:
    """Write the runs that end in a block; return the runs, their number and whether one goes on behind it.

    ``start`` says for each row where the run begins that reaches the end of the block before, and is brought forward;
    ``corner`` is the block's first voxel, z, y, x. Without ``is_kept`` runs are only counted.
    """
    zero, one = np.uint64(0), np.uint64(1)
    z, y0, x0 = corner
    y = y0 - 1
    is_open = False
    for r in range(rows.shape[0]):
        if is_kept and n + 4 * gx + 1 > out.shape[0]:
            out = grown(out, n + 4 * gx + 1)
        y += 1
        if y == y0 + 8 * gy:
            y, z = y0, z + 1
        begin = start[r]
        for k in range(rows.shape[1]):
            word = rows[r, k]
            before = word << one | np.uint64(begin != _CLOSED)  # of each voxel the one before it
            if word == before:
                continue
            begins, ends = word & ~before, before & ~word
            size = 8 * gx - 64 * k
            if size < 64:
                ends &= (one << np.uint64(size)) - one
            x = x0 + 64 * k
            while ends != zero:
                if begin == _CLOSED:
                    begin = x + lowest(begins)
                    begins &= begins - one
                if is_kept:
                    p = np.uint64(n)
                    out[p, 0], out[p, 1], out[p, 2], out[p, 3] = begin, y, z, x + lowest(ends) - begin
                ends &= ends - one
                begin = _CLOSED
                n += 1
            if begins != zero:
                begin = x + lowest(begins)
        start[r] = begin
        is_open |= begin != _CLOSED
    return out, n, is_open


@njit(nogil=True, cache=True)
def _runs_of_blocks(
    cat: U8, starts: I64, places: I64, gz: Int, gy: Int, gx: Int, wanted: U64, low: I64, high: I64, is_kept: bool
) -> tuple[I32, Int]:
    n_rows = 64 * gz * gy
    rows = np.zeros((n_rows, (gx + 7) // 8), np.uint64)
    start = np.full(n_rows, _CLOSED, np.int64)
    out = np.empty((1024 * places.shape[0] if is_kept else 0, 4), np.int32)
    n: Int = 0
    is_open = False
    sides = 8 * np.array([gz, gy, gx])
    for b in range(places.shape[0]):
        if is_open and (
            places[b, 2] != places[b - 1, 2] + 1 or places[b, 1] != places[b - 1, 1] or places[b, 0] != places[b - 1, 0]
        ):
            out, n = _end(start, places[b - 1] * sides, gy, gx, out, n, is_kept)
            is_open = False
        found = fill(cat[starts[b] : starts[b + 1]], gz, gy, gx, wanted, rows)
        if found == NONE and not is_open:
            continue
        if found == NONE:
            rows[:] = 0
        elif found == ALL:
            fill_all(gx, rows)
        corner = places[b] * sides
        if (low > corner).any() or (high < corner + sides - 1).any():
            clip(rows, gy, low - corner, high - corner)
        out, n, is_open = _go_on(rows, start, corner, gy, gx, out, n, is_kept)
    if is_open:
        out, n = _end(start, places[-1] * sides, gy, gx, out, n, is_kept)
    return out[:n].copy() if is_kept else out, n


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
