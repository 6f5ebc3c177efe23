"""Where do voxels of two bodies share faces?"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import njit

from app.kernels.arrays import I64, U8, U64, Int, Mask, Shape, frozen_c
from app.kernels.bit_rows import ALL, fill, fill_all, sorted_labels
from app.kernels.label_block.header import sub_blocks
from app.kernels.label_block.joining import joined
from app.kernels.runs import lowest

F64 = npt.NDArray[np.float64]


def contacts(
    blocks: Sequence[U8], places_zyx: npt.NDArray[np.int64], is_home: Mask, shape_zyx: Shape, first: U64, second: U64
) -> tuple[I64, I64, F64, I64]:
    """Return (faces, voxels, middles, samples) of the contacts of two sets of labels in blocks.

    ``blocks`` are checked and of one shape, ``places_zyx`` int64 (n, 3) their block coordinates, sorted; ``first`` and
    ``second`` are uint64, sorted. Only blocks of which ``is_home`` (bool, n) is true are counted; the others are their
    neighbours. For each block ``faces`` is int64 (n, 3): faces across z, y, x, those towards the next block included;
    ``voxels`` int64 (n, 2): voxels of the one and of the other with such a face; ``middles`` float64 (n, 3): the mean
    z, y, x of the faces in voxels, 0.5 being the middle of the first voxel; ``samples`` int64 (3, 2, 3): for each axis
    z, y, x one voxel of the first and one of the second, z, y, x, on both sides of a face, if there is any.
    """
    cat, starts, places = joined(blocks, places_zyx, shape_zyx)
    gz, gy, gx = sub_blocks(shape_zyx)
    home = frozen_c(is_home, np.bool_, 1, "home blocks")
    return _contacts(
        cat, starts, places, _neighbours(places), home, gz, gy, gx, sorted_labels(first), sorted_labels(second)
    )


def _neighbours(places: I64) -> I64:
    """Return int64 (n, 6): which block lies before and behind each along z, y, x; -1 for none."""
    known = {place: number for number, place in enumerate(map(tuple, places.tolist()))}
    found = np.full((len(places), 6), -1, np.int64)
    for number, (z, y, x) in enumerate(places.tolist()):
        around = ((z - 1, y, x), (z + 1, y, x), (z, y - 1, x), (z, y + 1, x), (z, y, x - 1), (z, y, x + 1))
        found[number] = [known.get(place, -1) for place in around]
    return found


@njit(nogil=True, cache=True)
def _ones(bits: np.uint64) -> Int:
    """Count the bits that are set."""
    bits = bits - (bits >> np.uint64(1) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + (bits >> np.uint64(2) & np.uint64(0x3333333333333333))
    bits = bits + (bits >> np.uint64(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64(bits * np.uint64(0x0101010101010101) >> np.uint64(56))


@njit(nogil=True, cache=True)
def _rows(cat: U8, starts: I64, gz: Int, gy: Int, gx: Int, wanted: U64) -> U64:
    """Return the bits of all blocks: (n, rows, words)."""
    n = starts.size - 1
    rows = np.zeros((n, 64 * gz * gy, (gx + 7) // 8), np.uint64)
    for b in range(n):
        if fill(cat[starts[b] : starts[b + 1]], gz, gy, gx, wanted, rows[b]) == ALL:
            fill_all(gx, rows[b])
    return rows


@njit(nogil=True, cache=True)
def _beside(rows: U64, around: I64, b: Int, r: Int, k: Int, gz: Int, gy: Int, gx: Int, way: Int) -> np.uint64:
    """Return the word of the voxels one step before (even ``way``) or behind, along z (0, 1), y (2, 3) or x (4, 5)."""
    wide, last_row = 8 * gy, 64 * gz * gy - 1
    other = around[b, way]
    one = np.uint64(1)
    if way < 4:
        step = wide if way < 2 else 1
        size = last_row + 1 if way < 2 else wide
        inside = r if way < 2 else r % wide
        if way & 1:
            source, at = (b, r + step) if inside + step < size else (other, r + step - size)
        else:
            source, at = (b, r - step) if inside >= step else (other, r - step + size)
        return np.uint64(rows[source, at, k]) if source >= 0 else np.uint64(0)
    last_word, last_bit = (8 * gx - 1) >> 6, np.uint64((8 * gx - 1) & 63)
    word = np.uint64(rows[b, r, k])
    if way == 4:
        word <<= one
        if k:
            word |= rows[b, r, k - 1] >> np.uint64(63)
        elif other >= 0:
            word |= rows[other, r, last_word] >> last_bit & one
        return word
    word >>= one
    if k < last_word:
        word |= rows[b, r, k + 1] << np.uint64(63)
    elif other >= 0:
        word |= (rows[other, r, 0] & one) << last_bit
    return word


@njit(nogil=True, cache=True)
def _contacts(
    cat: U8,
    starts: I64,
    places: I64,
    around: I64,
    is_home: Mask,
    gz: Int,
    gy: Int,
    gx: Int,
    first: U64,
    second: U64,
) -> tuple[I64, I64, F64, I64]:
    n = places.shape[0]
    ours, theirs = _rows(cat, starts, gz, gy, gx, first), _rows(cat, starts, gz, gy, gx, second)
    faces, voxels = np.zeros((n, 3), np.int64), np.zeros((n, 2), np.int64)
    middles = np.zeros((n, 3), np.float64)
    samples = np.zeros((3, 2, 3), np.int64)
    has_sample = np.zeros(3, np.bool_)
    for b in range(n):
        if not is_home[b]:
            continue
        z0, y0, x0 = 8 * gz * places[b, 0], 8 * gy * places[b, 1], 8 * gx * places[b, 2]
        for r in range(ours.shape[1]):
            z, y = z0 + r // (8 * gy), y0 + r % (8 * gy)
            for k in range(ours.shape[2]):
                a, c = ours[b, r, k], theirs[b, r, k]
                if a == np.uint64(0) and c == np.uint64(0):
                    continue
                touched_a, touched_c = np.uint64(0), np.uint64(0)
                for way in range(6):
                    beside_a = _beside(theirs, around, b, r, k, gz, gy, gx, way) & a
                    beside_c = _beside(ours, around, b, r, k, gz, gy, gx, way) & c
                    touched_a |= beside_a
                    touched_c |= beside_c
                    if way & 1 == 0:
                        continue  # each face is counted from its side with the smaller coordinate
                    axis = way >> 1
                    for side in range(2):
                        left = beside_a if side == 0 else beside_c
                        faces[b, axis] += _ones(left)
                        while left != np.uint64(0):
                            x = x0 + 64 * k + lowest(left)
                            left &= left - np.uint64(1)
                            middles[b, 0] += z + (1.0 if axis == 0 else 0.5)
                            middles[b, 1] += y + (1.0 if axis == 1 else 0.5)
                            middles[b, 2] += x + (1.0 if axis == 2 else 0.5)
                            if not has_sample[axis]:
                                has_sample[axis] = True
                                samples[axis, side, 0], samples[axis, 1 - side, 0] = z, z + (axis == 0)
                                samples[axis, side, 1], samples[axis, 1 - side, 1] = y, y + (axis == 1)
                                samples[axis, side, 2], samples[axis, 1 - side, 2] = x, x + (axis == 2)
                voxels[b, 0] += _ones(touched_a)
                voxels[b, 1] += _ones(touched_c)
        total = faces[b].sum()
        if total:
            middles[b] /= total
    return faces, voxels, middles, samples
