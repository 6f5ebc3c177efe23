"""How do label blocks become the LZ4 block of a dense box in a time that goes with their boundaries, not their voxels?

A row of voxels nearly always equals the row before it, and where it does is mostly plain from the packed form: a
sub-block of one label, or eight packed values that equal the eight before them. Such segments of eight voxels extend a
match at the distance of one row, unseen. Only segments that may differ are unpacked, into one row that is kept up to
date, and compared voxel by voxel with the row above.

Work goes plane by plane: `_differences` lists the segments, `_matches` makes LZ4's sequences of them, `_write` spells
them out. Numba counts references whenever a function is called with arrays, which costs more than a segment does: so
no inner loop calls a function.
"""

from typing import Any

import numpy as np
from numba import njit

from app.kernels.arrays import I64, U8, U64, Int, grown
from app.kernels.lz4_stream import FARTHEST, TAIL, finish
from app.kernels.packed import width_of
from app.kernels.words import get16, get32, get64, get64_big_inside, put16, put64

_MARGIN = 8
"""Voxels kept before and after the two rows, so that looking a little too far is harmless."""

NARROWEST = 16
"""A row must hold the voxels at the end that no match may cover, and be worth the trouble."""

_Grid = tuple[Int, Int, Int]
_Pair = tuple[Int, Int]


@njit(nogil=True, cache=True)
def _tables(cat: U8, starts: I64, subs: Int) -> tuple[U64, I64]:
    """Return all labels in one table, and per sub-block its width, where its values are, and its place in the table."""
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
    table = np.zeros(n_table, np.uint64)
    packed = np.zeros((starts.size * subs, 3), np.int64)
    n_table = 1
    for b in range(starts.size):
        n_labels = get32(cat, starts[b] + 12) if starts[b] >= 0 else 0
        if n_labels == 1:
            table[n_table] = get64(cat, starts[b] + 16)
            packed[b * subs : (b + 1) * subs, 2] = n_table
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
                packed[b * subs + s, 0] = w
                packed[b * subs + s, 1] = at_value
                at_value += 64 * w
                if n:
                    packed[b * subs + s, 2] = n_table
                    for _ in range(n):
                        table[n_table] = get64(cat, starts[b] + 16 + 8 * get32(cat, at_index))
                        at_index += 4
                        n_table += 1
    return table, packed


@njit(nogil=True, cache=True)
def _places(z: Int, low: _Pair, grid: _Grid, block: _Grid, places: I64) -> None:
    """Number the sub-blocks of a plane of voxels: places[row of sub-blocks, column], from `low` (y, x) on."""
    for i in range(places.shape[0]):
        y = low[0] + i
        b = ((z // (8 * block[0])) * grid[1] + y // block[1]) * grid[2]
        s = (((z >> 3) % block[0]) * block[1] + y % block[1]) * block[2]
        for j in range(places.shape[1]):
            x = low[1] + j
            places[i, j] = (b + x // block[2]) * block[0] * block[1] * block[2] + s + x % block[2]


@njit(nogil=True, cache=True)
def _differences(
    cat: U8, table: U64, packed: I64, places: I64, z: Int, y: Int, changed: I64, n_changed: I64, is_far: bool
) -> Int:
    """List per row the columns that may differ from the row above; return their number.

    The plane's rows begin at `y` voxels from the first row of sub-blocks.
    """
    n_changed[:] = 0
    rows, columns = n_changed.size, places.shape[1]
    for i in range(places.shape[0]):
        first, last = max(0, 8 * i - y), min(rows, 8 * i + 8 - y)
        for c in range(columns):
            width = packed[places[i, c], 0]
            is_same = False
            if width == 0 and i > 0 and packed[places[i - 1, c], 0] == 0:
                is_same = table[packed[places[i, c], 2]] == table[packed[places[i - 1, c], 2]]
            if is_far or width > 8:
                for r in range(first, last):
                    changed[r, n_changed[r]] = c
                    n_changed[r] += 1
                continue
            if not is_same:
                changed[first, n_changed[first]] = c
                n_changed[first] += 1
            if width:
                at = packed[places[i, c], 1] + (z & 7) * 8 * width + (first + y - 8 * i) * width
                unused = np.uint64(64 - 8 * width)
                before = get64_big_inside(cat, at) >> unused
                for r in range(first + 1, last):
                    at += width
                    now = get64_big_inside(cat, at) >> unused
                    changed[r, n_changed[r]] = c  # stays if it counts; a branch would be guessed wrong too often
                    n_changed[r] += np.int64(now != before)
                    before = now
    total: Int = n_changed.sum()
    return total


@njit(nogil=True, cache=True)
def _matches(
    cat: U8,
    table: U64,
    packed: I64,
    places: I64,
    corner: _Grid,
    row: Int,
    tail: Int,
    above: bool,
    changed: I64,
    n_changed: I64,
    buf: U64,
    found: I64,
    lits: U8,
    state: I64,
) -> Int:
    """Make sequences of a plane: (bytes of literals, distance, size) in `found`, whose number is returned.

    `corner` is where the plane begins within its first sub-block. `buf` holds two rows, after one another as in the
    stream: first both are the row above; in the end both are the last row. The last `tail` voxels are left out.
    `state` carries over: literals in `lits`, and the sequence that may still grow.
    """
    n_lits, n_own, distance, size = state[0], state[1], state[2], state[3]
    n_found = 0
    is_far = row + 2 > FARTHEST
    near = np.array([row, row - 1, row + 1, row - 2, row + 2, 1])  # the row above, boundaries that run askew, runs
    for r in range(n_changed.size):
        for k in range(n_changed[r]):
            c = changed[r, k]
            sub = places[(r + corner[1]) >> 3, c]
            width, base = np.uint64(packed[sub, 0]), np.uint64(packed[sub, 2])
            at = packed[sub, 1] + (corner[0] * 8 + ((r + corner[1]) & 7)) * packed[sub, 0]
            x = 8 * c - corner[2]
            first, last = max(0, -x), min(8, row - x)  # less than the whole at the edges of the box
            q = np.uint64(_MARGIN + row + x)
            if width == np.uint64(0):
                for n in range(first, last):
                    buf[q + np.uint64(n)] = table[base]
            elif width <= np.uint64(8):
                bits = get64_big_inside(cat, at) << (width * np.uint64(first))
                for n in range(first, last):
                    buf[q + np.uint64(n)] = table[base + (bits >> (np.uint64(64) - width))]
                    bits <<= width
            else:  # four values in 36 bits, four in the next 36
                for n in range(first, last):
                    bits = get64_big_inside(cat, at + (n >> 2)) << np.uint64(28 * (n >> 2) + 9 * (n & 3))
                    buf[q + np.uint64(n)] = table[base + (bits >> np.uint64(55))]
        stop = row if r < n_changed.size - 1 else row - tail
        k = 0
        i: Int = 0
        known: Int = 0  # the voxels from i to known are not those above
        while i < stop:
            best: Int = row
            literal = False
            if i >= known:
                if k < n_changed[r]:
                    j = min(max(i, 8 * changed[r, k] - corner[2]), stop)
                    known = 8 * changed[r, k] + 8 - corner[2]
                    k += 1
                    while k < n_changed[r] and 8 * changed[r, k] - corner[2] == known:
                        known += 8
                        k += 1
                    if known <= i:
                        continue
                else:
                    j, known = stop, stop
                if i == j:
                    continue
            else:
                p = np.uint64(_MARGIN + row + i)
                v, after, third, fourth = buf[p], buf[p + np.uint64(1)], buf[p + np.uint64(2)], buf[p + np.uint64(3)]
                floor = np.uint64(_MARGIN if above else _MARGIN + row)
                best = 0
                most: Int = 0
                for n in range(near.size):  # how many of four voxels agree is told without a branch
                    q = p - np.uint64(near[n])
                    alike = np.int64(after == buf[q + np.uint64(1)]) * (
                        1 + np.int64(third == buf[q + np.uint64(2)]) * (1 + np.int64(fourth == buf[q + np.uint64(3)]))
                    )
                    alike = np.int64(v == buf[q]) * np.int64(q >= floor) * (1 + alike)
                    best, most = (near[n], alike) if alike > most else (best, most)
                literal = best == 0
                limit = np.uint64(_MARGIN + row + (min(known, stop) if best == row else stop))
                d = np.uint64(best)
                m: Any = p + np.uint64(1)
                if literal:
                    limit = m
                while m < limit and buf[m] == buf[m - d]:
                    m += np.uint64(1)
                j = np.int64(m) - _MARGIN - row
            if not literal and size and 8 * best == distance:
                size += 8 * (j - i)
                i = j
                continue
            if size:
                found[n_found, 0], found[n_found, 1], found[n_found, 2] = n_own, distance, size
                n_found += 1
                n_own, size = 0, 0
            if not literal:
                distance, size = 8 * best, 8 * (j - i)
                i = j
                continue
            put64(lits, n_lits, v)
            n_lits += 8
            n_own += 8
            if i or above:  # a match may begin inside this voxel, where its high bytes are those of the voxel before
                diff = v ^ buf[p - np.uint64(1)]
                same = 0
                while same < 7 and (diff >> np.uint64(56 - 8 * same)) == np.uint64(0):
                    same += 1
                if same >= 4:
                    n_lits -= same
                    n_own -= same
                    distance, size = 8, same
            i += 1
        for k in range(n_changed[r]):
            x = 8 * changed[r, k] - corner[2]
            for n in range(_MARGIN + max(0, x), _MARGIN + min(row, x + 8)):
                buf[n] = buf[n + row]
        above = not is_far
    state[0], state[1], state[2], state[3] = n_lits, n_own, distance, size
    return n_found


@njit(nogil=True, cache=True)
def _write(found: I64, n_found: Int, lits: U8, out: U8, end: Int) -> tuple[U8, Int]:
    """Write sequences; return the bytes, which may have moved, and their new end."""
    covered, taken = 0, 0
    for i in range(n_found):
        taken += found[i, 0]
        covered += found[i, 0] + found[i, 2]
    out = grown(out, end + taken + covered // 255 + 6 * n_found + 64)
    taken = 0
    for i in range(n_found):
        n_own, distance, size = found[i, 0], found[i, 1], found[i, 2]
        token_at = np.uint64(end)
        out[token_at] = np.uint8(min(n_own, 15) << 4 | min(size - 4, 15))
        end += 1
        if n_own:
            rest = n_own - 15
            while rest >= 0:
                out[np.uint64(end)] = np.uint8(min(rest, 255))
                end += 1
                rest -= 255
            for k in range(n_own):
                out[np.uint64(end + k)] = lits[np.uint64(taken + k)]
            end += n_own
            taken += n_own
        put16(out, end, distance)
        end += 2
        rest = size - 19
        out[np.uint64(end)] = np.uint8(min(rest, 255))  # stays if it counts
        end += np.int64(rest >= 0)
        while rest >= 255:
            rest -= 255
            out[np.uint64(end)] = np.uint8(min(rest, 255))
            end += 1
    return out, end


@njit(nogil=True, cache=True)
def compress(cat: U8, starts: I64, grid: _Grid, block: _Grid, start: _Grid, size: _Grid) -> U8:
    """Return the raw LZ4 block of a box: ``grid`` in blocks, ``block`` in sub-blocks, ``start`` and ``size`` in voxels.

    ``cat`` holds the blocks and 16 spare bytes, ``starts`` says where each begins (-1: zeros). Rows must have at least
    ``NARROWEST`` voxels. All triples are z, y, x.
    """
    table, packed = _tables(cat, starts, block[0] * block[1] * block[2])
    rows, row = size[1], size[2]
    is_far = row + 2 > FARTHEST
    low = (start[1] >> 3, start[2] >> 3)
    places = np.empty((((start[1] + rows + 7) >> 3) - low[0], ((start[2] + row + 7) >> 3) - low[1]), np.int64)
    columns = places.shape[1]
    buf = np.zeros(2 * row + 2 * _MARGIN, np.uint64)
    changed = np.empty((rows, columns + 1), np.int64)
    n_changed = np.empty(rows, np.int64)
    out = np.empty(1 << 16, np.uint8)
    lits = np.empty(1024, np.uint8)
    found = np.empty((1024, 3), np.int64)
    state = np.zeros(4, np.int64)
    end: Int = 0
    for z in range(start[0], start[0] + size[0]):
        _places(z, low, grid, block, places)
        n = _differences(cat, table, packed, places, z, start[1] & 7, changed, n_changed, is_far)
        if found.shape[0] < 9 * n + 2 * rows + 2:  # a segment gives at most one sequence for each voxel
            found = np.empty((9 * n + 2 * rows + 2, 3), np.int64)
        lits = grown(lits, state[0] + 64 * n + 16 * TAIL + 8)
        corner = (z & 7, start[1] & 7, start[2] & 7)
        tail = TAIL if z == start[0] + size[0] - 1 else 0
        above = bool(z > start[0] and not is_far)
        n = _matches(cat, table, packed, places, corner, row, tail, above, changed, n_changed, buf, found, lits, state)
        out, end = _write(found, n, lits, out, end)
        if state[0] > state[1]:  # what is written makes room
            lits[: state[1]] = lits[state[0] - state[1] : state[0]].copy()
            state[0] = state[1]
    state[0] = end
    return finish(buf[_MARGIN + 2 * row - TAIL : _MARGIN + 2 * row], out, lits, state)
