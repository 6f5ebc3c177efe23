"""Which supervoxels does a set of voxels cut through, and how does a block look once they are split?

The voxels are runs, int32 (n, 4) of x, y, z, length, in the order in which a client sent them. Voxels that several
runs name count once.
"""

import numpy as np
from numba import njit

from app.kernels.arrays import I32, I64, U8, U16, U32, U64, Int, Shape, frozen_c, grown
from app.kernels.bit_rows import ALL, MIXED, NONE
from app.kernels.label_block import labels
from app.kernels.label_block.header import header
from app.kernels.label_block.layout import assembled, positions
from app.kernels.packed import pack_sub, unpack_row, unpack_sub, width_of
from app.kernels.places import grouped
from app.kernels.runs import checked_runs
from app.kernels.words import get32, get64

MOST_PIECES = 1 << 26
"""As many runs as :func:`cut` makes; far more than any body needs."""


def cut(runs: I32, shape_zyx: Shape) -> tuple[I64, I64, I32]:
    """Cut runs where blocks of ``shape_zyx`` meet: (blocks, starts, pieces).

    ``blocks`` is int64 (m, 3) of z, y, x, sorted; the runs in block i are ``pieces[starts[i]:starts[i + 1]]``, int32
    rows of x, y, z, length from the block's first voxel, in the order of ``runs``. ValueError if a length is negative
    or there are too many pieces.
    """
    runs = checked_runs(runs)
    bz, by, bx = (int(side) for side in shape_zyx)
    pieces = _count_pieces(runs, bx)
    if pieces > MOST_PIECES:
        raise ValueError(f"the runs cross {pieces} blocks; at most {MOST_PIECES} are allowed")
    places, local = _cut(runs, bz, by, bx, pieces)
    blocks, order, starts = grouped(places)
    return blocks, starts, local[order]


def touched(data: U8, runs: I32) -> tuple[U64, U32]:
    """Return the labels of a checked block that runs meet, in order of first encounter, and how many of their voxels.

    ``runs`` start at the block's first voxel; what leaves the block is a ValueError. Label 0 is listed like any other.
    """
    data, runs, gz, gy, gx, n = _inside(data, runs)
    names, same = _names(data)
    order, sizes = _touched(data, gz, gy, gx, n, runs, same)
    return names[order], sizes[order]


def apply(data: U8, runs: I32, olds: U64, splits: U64, remains: U64) -> U8:
    """Return a new block: voxels of ``olds[i]`` become ``splits[i]`` inside of the runs and ``remains[i]`` outside.

    ``data`` is a checked block, ``runs`` start at its first voxel; what leaves the block is a ValueError. The labels
    are uint64 (n) each, ``olds`` without 0 and repetitions. Voxels of other labels stay, inside of the runs too.
    Sub-blocks that are cut, and the header list, name only labels that have voxels in them; others stay as packed.
    """
    data, runs, gz, gy, gx, n = _inside(data, runs)
    olds, splits, remains = (
        frozen_c(given, np.uint64, 1, name)
        for given, name in ((olds, "split supervoxels"), (splits, "split ids"), (remains, "remain ids"))
    )
    order = np.argsort(olds)
    wanted = olds[order]
    if not olds.size == splits.size == remains.size:
        raise ValueError("each supervoxel needs a split id and a remain id")
    if np.any(wanted[1:] == wanted[:-1]) or np.any(olds == 0):
        raise ValueError("supervoxels to split must differ and not be 0")
    names, same = _names(data)
    places = np.searchsorted(wanted, names)
    places[places == wanted.size] = 0
    hits = wanted[places] == names if wanted.size else np.zeros(names.size, np.bool_)
    inside, outside = names.copy(), names.copy()
    inside[hits] = splits[order][places[hits]]
    outside[hits] = remains[order][places[hits]]
    return _apply(data, gz, gy, gx, n, runs, same, hits.astype(np.uint8), inside, outside)


def _inside(data: U8, runs: I32) -> tuple[U8, I32, Int, Int, Int, Int]:
    """Return arrays as the kernels want them and the header; ValueError unless all runs lie in the block."""
    data = frozen_c(data, np.uint8, 1, "label block")
    runs = checked_runs(runs)
    gz, gy, gx, n = header(data)
    if runs.size:
        ends = runs[:, 0].astype(np.int64) + runs[:, 3]
        high = (int(ends.max()), int(runs[:, 1].max()) + 1, int(runs[:, 2].max()) + 1)
        if int(runs[:, :3].min()) < 0 or high[0] > 8 * gx or high[1] > 8 * gy or high[2] > 8 * gz:
            raise ValueError("a run leaves the label block")
    return data, runs, gz, gy, gx, n


def _names(data: U8) -> tuple[U64, I32]:
    """Return a block's distinct labels, 0 among them, and the place there of each entry of the header list and of 0."""
    names, same = np.unique(np.append(labels(data), np.uint64(0)), return_inverse=True)
    return names, same.astype(np.int32)


@njit(nogil=True, cache=True)
def _count_pieces(runs: I32, bx: Int) -> Int:
    total: Int = 0
    for i in range(runs.shape[0]):
        if runs[i, 3]:
            x = np.int64(runs[i, 0])
            total += (x + np.int64(runs[i, 3]) - 1) // bx - x // bx + 1
    return total


@njit(nogil=True, cache=True)
def _cut(runs: I32, bz: Int, by: Int, bx: Int, pieces: Int) -> tuple[I64, I32]:
    places = np.empty((pieces, 3), np.int64)
    local = np.empty((pieces, 4), np.int32)
    n = 0
    for i in range(runs.shape[0]):
        x, y, z = np.int64(runs[i, 0]), np.int64(runs[i, 1]), np.int64(runs[i, 2])
        end = x + np.int64(runs[i, 3])
        while x < end:
            place = x // bx
            stop = min(end, (place + 1) * bx)
            places[n, 0], places[n, 1], places[n, 2] = z // bz, y // by, place
            local[n, 0], local[n, 1], local[n, 2], local[n, 3] = x - place * bx, y % by, z % bz, stop - x
            n += 1
            x = stop
    return places, local


@njit(nogil=True, cache=True)
def _touched(data: U8, gz: Int, gy: Int, gx: Int, n_labels: Int, runs: I32, same: I32) -> tuple[I32, U32]:
    sizes = np.zeros(n_labels + 1, np.uint32)
    order = np.empty(n_labels + 1, np.int32)
    n_order = 0
    is_mixed = n_labels > 1
    if is_mixed:
        index, value = positions(data, gz * gy * gx, n_labels)
    else:
        index = value = np.zeros(1, np.int64)
    seen = np.zeros(64 * gz * gy * gx, np.uint8)  # a byte for eight voxels along x, lowest bit first
    row = np.zeros(8, np.uint16)
    for i in range(runs.shape[0]):
        x, y, z = np.int64(runs[i, 0]), np.int64(runs[i, 1]), np.int64(runs[i, 2])
        end = x + np.int64(runs[i, 3])
        while x < end:
            stop = min(end, (x | 7) + 1)
            s = ((z >> 3) * gy + (y >> 3)) * gx + (x >> 3)
            r = (z & 7) * 8 + (y & 7)
            fresh = ((1 << (stop - x)) - 1) << (x & 7) & ~np.int64(seen[64 * s + r])
            seen[64 * s + r] |= np.uint8(fresh)
            x = stop
            if fresh == 0:
                continue
            n = (index[s + 1] - index[s]) >> 2 if is_mixed else 0
            if n > 1:
                w = width_of(n)
                unpack_row(data, value[s] + r * w, w, row)
            for k in range(8):
                if fresh >> k & 1:
                    if n > 1:
                        label = same[get32(data, index[s] + 4 * np.int64(row[k]))]
                    elif n == 1:
                        label = same[get32(data, index[s])]
                    else:
                        label = same[n_labels if is_mixed else 0]
                    if sizes[label] == 0:
                        order[n_order] = label
                        n_order += 1
                    sizes[label] += np.uint32(1)
    return order[:n_order].copy(), sizes


@njit(nogil=True, cache=True)
def _mask(runs: I32, gz: Int, gy: Int, gx: Int) -> U8:
    """Paint runs: 64 bytes for each sub-block, one for eight voxels along x, lowest bit first."""
    mask = np.zeros(64 * gz * gy * gx, np.uint8)
    for i in range(runs.shape[0]):
        x, y, z = np.int64(runs[i, 0]), np.int64(runs[i, 1]), np.int64(runs[i, 2])
        end = x + np.int64(runs[i, 3])
        at = 64 * ((z >> 3) * gy + (y >> 3)) * gx + (z & 7) * 8 + (y & 7)
        while x < end:
            stop = min(end, (x | 7) + 1)
            mask[at + 64 * (x >> 3)] |= np.uint8(((1 << (stop - x)) - 1) << (x & 7))
            x = stop
    return mask


@njit(nogil=True, cache=True)
def _recut(values: U16, mask: U8, at: Int, from_: I32, n: Int, hits: U8, values_out: U16, out: I32) -> Int:
    """Give the voxels of a sub-block new values, numbered in order of first encounter; return how many there are.

    ``from_`` are the n labels (places in the distinct list) that the values name; ``out`` becomes those of the new
    values: 2 · place, + 1 inside of the runs.
    """
    number = np.full(2 * n, -1, np.int32)
    n_out = 0
    for i in range(512):
        local = np.int64(values[i])
        name = from_[local]
        inside = np.int64(mask[at + (i >> 3)]) >> (i & 7) & 1
        kind = inside & np.int64(hits[name])
        if number[2 * local + kind] < 0:
            number[2 * local + kind] = n_out
            out[n_out] = 2 * name + kind
            n_out += 1
        values_out[i] = np.uint16(number[2 * local + kind])
    return n_out


@njit(nogil=True, cache=True)
def _covered(mask: U8, at: Int) -> Int:
    """Say how many voxels of a sub-block are in the runs: `NONE`, `ALL` or some (`MIXED`)."""
    some, rest = np.uint64(0), np.uint64(0)
    for r in range(8):
        word = get64(mask, at + 8 * r)
        some |= word
        rest |= ~word
    if some == np.uint64(0):
        return NONE
    return MIXED if rest else ALL


@njit(nogil=True, cache=True)
def _enlist(
    new: I32, n: Int, listed: I32, names: U64, n_names: Int, inside: U64, outside: U64, indices: U32, n_indices: Int
) -> Int:
    """Write the indices of a sub-block's labels into the header list; return how many labels that has then.

    ``new`` are the labels as :func:`_recut` tells them, and ``listed`` the index of each in the list, or -1.
    """
    for i in range(n):
        k = new[i]
        if listed[k] < 0:
            listed[k] = n_names
            names[n_names] = inside[k >> 1] if k & 1 else outside[k >> 1]
            n_names += 1
        indices[n_indices + i] = listed[k]
    return n_names


@njit(nogil=True, cache=True)
def _apply(
    data: U8, gz: Int, gy: Int, gx: Int, n_labels: Int, runs: I32, same: I32, hits: U8, inside: U64, outside: U64
) -> U8:
    subs = gz * gy * gx
    mask = _mask(runs, gz, gy, gx)
    is_mixed = n_labels > 1
    if is_mixed:
        index, value = positions(data, subs, n_labels)
    else:
        index = value = np.zeros(1, np.int64)
    # what is written: per sub-block its number of labels, their indices, packed values
    n_of = np.zeros(subs, np.uint16)
    indices = np.empty(max(512, 2 * subs), np.uint32)
    n_indices = 0
    packed = np.empty(data.size + 4096, np.uint8)
    n_packed = 0
    # the header list as it grows: for 2 · place (+ 1 inside of the runs) the index in it
    listed = np.full(2 * hits.size, -1, np.int32)
    names = np.empty(2 * hits.size, np.uint64)
    n_names: Int = 0
    values, fresh = np.zeros(512, np.uint16), np.empty(512, np.uint16)
    old, new = np.empty(512, np.int32), np.empty(512, np.int32)
    has_zeros = False
    for s in range(subs):
        n = (index[s + 1] - index[s]) >> 2 if is_mixed else n_labels
        if n == 0:
            has_zeros = True
            continue
        is_cut = np.uint8(0)
        for i in range(n):
            old[i] = same[get32(data, index[s] + 4 * i) if is_mixed else 0]
            is_cut |= hits[old[i]]
        cover = _covered(mask, 64 * s) if is_cut else NONE
        size = 64 * width_of(n)
        if n_packed + 64 * 9 + 8 > packed.size:
            packed = grown(packed, n_packed + 64 * 9 + 8)
        if cover == MIXED:
            if n > 1:
                unpack_sub(data, value[s], width_of(n), values)
            else:
                values[:] = 0
            n = _recut(values, mask, 64 * s, old, n, hits, fresh, new)
            size = 64 * width_of(n)
            if n > 1:
                pack_sub(fresh, width_of(n), packed, n_packed)
        else:  # the values stay as they are
            for i in range(n):
                new[i] = 2 * old[i] + (np.int32(hits[old[i]]) if cover == ALL else 0)
            if n > 1:
                packed[n_packed : n_packed + size] = data[value[s] : value[s] + size]
        n_packed += size
        if n_indices + n > indices.size:
            indices = grown(indices, n_indices + n)
        n_names = _enlist(new, n, listed, names, n_names, inside, outside, indices, n_indices)
        n_indices += n
        n_of[s] = n
    if n_names == 1 and has_zeros:  # a list of one label would make a solid block
        names[1] = 0
        n_names = 2
    return assembled((gz, gy, gx), names[:n_names], n_of, indices[:n_indices], packed[:n_packed])
