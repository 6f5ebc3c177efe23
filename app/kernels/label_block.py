"""What is in a DVID compressed label block, and how is one made?

The layout is that of DVID's ``labels.Block`` (Janelia's DVID), as this project's description of DVID's wire
formats gives it. All words are little-endian:

* uint32 gx, gy, gz: the sides in sub-blocks of 8 voxels; uint32 N; N uint64 labels (the *header list*);
* N = 0: a block of zeros, N = 1: a solid block; in both cases nothing follows. Otherwise
* gx·gy·gz uint16: the number n of labels of each sub-block (z outermost, x fastest), 0 for one of zeros;
* for every sub-block its n uint32 indices into the header list;
* for every sub-block with n > 1, 512 values below n of ceil(log2 n) bits, most significant bit first.

Volumes are C order (z, y, x). Everything but :func:`check`, :func:`shape`, :func:`encode` and :func:`solid`
expects a block that :func:`check` has accepted: the compiled code does not look at its sizes again.
"""

import struct
from collections.abc import Sequence
from operator import gt
from typing import Any

import numpy as np
from numba import njit

from app.kernels.words import (
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Int,
    frozen_c,
    get16,
    get32,
    get64,
    get64_big,
    grown8,
    put16,
    put32,
    put64,
    put64_big,
    unpack_sub,
    width_of,
)

SUB = 8
"""Side of a sub-block in voxels."""
MIN_SIDE, MAX_SIDE = 16, 1024
"""Smallest and largest side of a block in voxels."""

Shape = tuple[int, int, int]


def shape(data: U8) -> Shape:
    """Return the shape (z, y, x) in voxels that the header names; ValueError if no block can have it."""
    gz, gy, gx, _ = _header(data)
    for side in (gz, gy, gx):
        if not MIN_SIDE <= side * SUB <= MAX_SIDE:
            raise ValueError(
                f"label block of {gx}×{gy}×{gz} sub-blocks (x, y, z): "
                f"each must be {MIN_SIDE // SUB} to {MAX_SIDE // SUB}"
            )
    return gz * SUB, gy * SUB, gx * SUB


def check(data: U8, shape_zyx: Shape | None = None) -> None:
    """Raise ValueError unless ``data`` (uint8, 1-D) is one well-formed block, of ``shape_zyx`` if given.

    Everything the other functions rely on is looked at: the sides, the length to the byte, the number of
    labels of each sub-block, each index into the header list and each packed value.
    """
    data = frozen_c(data, np.uint8, 1, "label block")
    found = shape(data)
    if shape_zyx is not None and found != tuple(shape_zyx):
        raise ValueError(f"label block is {_xyz(found)} voxels (x, y, z), not {_xyz(shape_zyx)}")
    gz, gy, gx, n = _header(data)
    end = 16 + 8 * n
    if n > 1:
        end += 2 * gz * gy * gx
    if data.size < end:
        raise ValueError(f"label block of {data.size} bytes is too short for {n} labels")
    if n <= 1:
        if data.size != end:
            raise ValueError(f"solid label block has {data.size - end} bytes too many")
        return
    problem, where = _check(data, gz * gy * gx, n)
    if problem:
        raise ValueError(
            f"label block, sub-block {where}: {_PROBLEMS[int(problem)]}" if where >= 0 else _PROBLEMS[int(problem)]
        )


_PROBLEMS = {
    1: "more than 512 labels",
    2: "label block ends too early for its sub-blocks",
    3: "an index points outside the list of labels",
    4: "a packed value points outside the sub-block's labels",
    5: "label block has bytes after its last sub-block",
}


def encode(volume: U64) -> U8:
    """Compress ``volume``, uint64 (z, y, x) of any strides (copied unless C), to a new block (uint8, 1-D).

    Sides must be multiples of 8 from 16 to 1024, or ValueError. Labels are listed once each, in order of
    first encounter (sub-block after sub-block); a uniform volume gives a solid block.
    """
    volume = frozen_c(volume, np.uint64, 3, "label volume")
    _check_shape(volume.shape)
    return _encode(volume)


def solid(label: int, shape_zyx: Shape) -> U8:
    """Return the block (24 bytes) all of whose voxels are ``label``."""
    _check_shape(shape_zyx)
    if not 0 <= label < 1 << 64:
        raise ValueError(f"label {label} does not fit into 64 bits")
    z, y, x = (int(side) // SUB for side in shape_zyx)
    return np.frombuffer(bytearray(struct.pack("<4IQ", x, y, z, 1, int(label))), np.uint8)


def decode(data: U8, out: U64) -> None:
    """Expand a checked block into ``out``, uint64 (z, y, x) of the block's shape and any strides."""
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, n = _header(data)
    _check_out(out)
    if out.shape != (gz * SUB, gy * SUB, gx * SUB):
        raise ValueError(
            f"label block of {_xyz((gz * SUB, gy * SUB, gx * SUB))} voxels does not fill {_xyz(out.shape)}"
        )
    _decode(data, gz, gy, gx, n, 0, 0, 0, out)


def decode_box(data: U8, start_zyx: Shape, out: U64) -> None:
    """Expand the part of a checked block that starts at voxel ``start_zyx`` and has the shape of ``out``.

    ``out`` is uint64 (z, y, x) of any strides. Sub-blocks outside of the box are skipped. ValueError if the
    box leaves the block.
    """
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, n = _header(data)
    _check_out(out)
    z, y, x = (int(start) for start in start_zyx)
    if min(z, y, x) < 0 or z + out.shape[0] > gz * SUB or y + out.shape[1] > gy * SUB or x + out.shape[2] > gx * SUB:
        raise ValueError(f"box of {_xyz(out.shape)} voxels at {_xyz((z, y, x))} (x, y, z) leaves the label block")
    if out.size:
        _decode(data, gz, gy, gx, n, z, y, x, out)


def labels(data: U8) -> U64:
    """Return the header list of a checked block as a view (uint64, N); read-only if ``data`` is."""
    n = _header(data)[3]
    return data[16 : 16 + 8 * n].view(np.uint64)


def relabel(data: U8, labels: U64) -> U8:
    """Return a copy of a checked block with ``labels`` (uint64, N, repetitions allowed) as its header list."""
    n = _header(data)[3]
    labels = np.asarray(labels)
    if labels.shape != (n,) or labels.dtype != np.uint64:
        raise ValueError(f"label block needs {n} uint64 labels, not {labels.dtype} of shape {labels.shape}")
    new = np.array(data, dtype=np.uint8)
    new[16 : 16 + 8 * n] = np.ascontiguousarray(labels, "<u8").view(np.uint8)
    return new


def label_at(data: U8, z: int, y: int, x: int) -> int:
    """Return the label of one voxel of a checked block; ValueError if the voxel is outside of it."""
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, n = _header(data)
    if not (0 <= z < gz * SUB and 0 <= y < gy * SUB and 0 <= x < gx * SUB):
        raise ValueError(f"voxel {_xyz((z, y, x))} (x, y, z) is outside of the label block")
    return int(_label_at(data, gz, gy, gx, n, int(z), int(y), int(x)))


def labels_at(data: U8, points_zyx: I32) -> U64:
    """Return the labels (uint64, n) of the voxels ``points_zyx`` (int32, n×3) of a checked block.

    ValueError if a point is outside of the block.
    """
    points = frozen_c(points_zyx, np.int32, 2, "points")
    return labels_of_blocks([data], points, [0, len(points)])


def labels_of_blocks(blocks: Sequence[U8 | None], points_zyx: I32, starts: Sequence[int]) -> U64:
    """Return the labels (uint64, n) of voxels of several checked blocks, 0 where there is no block.

    ``points_zyx`` (int32, n×3) are within their blocks; those of ``blocks[i]`` are the rows from ``starts[i]`` to
    ``starts[i + 1]``. ValueError if a point is outside of its block.
    """
    points = frozen_c(points_zyx, np.int32, 2, "points")
    if points.shape[1] != 3:
        raise ValueError(f"points must be rows of z, y, x, not of {points.shape[1]} numbers")
    if len(starts) != len(blocks) + 1 or any(map(gt, starts, starts[1:])) or starts[0] < 0 or starts[-1] > len(points):
        raise ValueError("the points of each block must follow those of the one before")
    found = np.zeros(len(points), np.uint64)
    for data, start, stop in zip(blocks, starts, starts[1:], strict=False):
        if data is None:
            continue
        outside = _labels_at(frozen_c(data, np.uint8, 1, "label block"), points, start, stop, found)
        if outside >= 0:
            raise ValueError(f"voxel {_xyz(points[outside])} (x, y, z) is outside of the label block")
    return found


def counts(data: U8) -> tuple[U64, U32]:
    """Count the voxels of each label of a checked block: (sorted unique labels, counts uint32), no zeros.

    Label 0 is counted like any other.
    """
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, n = _header(data)
    sizes = _counts(data, gz * gy * gx, n)
    found, where = np.unique(np.append(data[16 : 16 + 8 * n].view(np.uint64), np.uint64(0)), return_inverse=True)
    joined = np.zeros(found.size, np.uint32)
    np.add.at(joined, where, sizes)
    return found[joined > 0], joined[joined > 0]


def _header(data: U8) -> tuple[int, int, int, int]:
    """Return sub-blocks along z, y, x and the number of labels."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError("label block must be a 1-D array of uint8")
    if data.size < 16:
        raise ValueError(f"label block of {data.size} bytes is too short for its header")
    gx, gy, gz, n = struct.unpack_from("<4I", data[:16].tobytes())
    return gz, gy, gx, n


def _check_shape(shape_zyx: tuple[int, ...]) -> None:
    if len(shape_zyx) != 3 or any(s % SUB or not MIN_SIDE <= s <= MAX_SIDE for s in shape_zyx):
        raise ValueError(
            f"sides of a label block must be multiples of {SUB}, {MIN_SIDE} to {MAX_SIDE}, not {_xyz(shape_zyx)}"
        )


def _check_out(out: U64) -> None:
    if not isinstance(out, np.ndarray) or out.dtype != np.uint64 or out.ndim != 3 or not out.dtype.isnative:
        raise ValueError("label blocks expand into an array of uint64 with 3 axes")
    if not out.flags.writeable or not out.flags.aligned:
        raise ValueError("label blocks expand into a writeable, aligned array")


def _xyz(zyx: Any) -> str:
    return "×".join(str(int(side)) for side in reversed(tuple(zyx)))


@njit(nogil=True, cache=True)
def total_of(data: U8, at: Int, n: Int) -> Int:
    """Sum the ``n`` uint16 at byte ``at``."""
    total = 0
    for i in range(n):
        total += get16(data, at + 2 * i)
    return total


@njit(nogil=True, cache=True)
def _check(data: U8, subs: Int, n_labels: Int) -> tuple[Int, Int]:
    at_count = 16 + 8 * n_labels
    at_index = at_count + 2 * subs
    total = 0
    end = at_index
    for s in range(subs):
        n = get16(data, at_count + 2 * s)
        if n > 512:
            return 1, s
        total += n
        end += 4 * n + 64 * width_of(n)
    if end > data.size:
        return 2, -1
    if end < data.size:
        return 5, -1
    at_value = at_index + 4 * total
    values = np.empty(512, np.uint16)
    for s in range(subs):
        n = get16(data, at_count + 2 * s)
        bad: Int = 0
        for i in range(n):
            bad = max(bad, get32(data, at_index + 4 * i))
        if bad >= n_labels:
            return 3, s
        at_index += 4 * n
        w = width_of(n)
        if (1 << w) > n and w > 0:
            unpack_sub(data, at_value, w, values)
            high = np.uint16(0)
            for i in range(512):
                high = max(high, values[i])
            if high >= n:
                return 4, s
        at_value += 64 * w
    return 0, 0


@njit(nogil=True, cache=True)
def _decode(data: U8, gz: Int, gy: Int, gx: Int, n_labels: Int, z0: Int, y0: Int, x0: Int, out: U64) -> None:
    nz, ny, nx = out.shape
    if n_labels <= 1:
        label = get64(data, 16) if n_labels else np.uint64(0)
        for z in range(nz):
            for y in range(ny):
                for x in range(nx):
                    out[z, y, x] = label
        return
    subs = gz * gy * gx
    at_count = 16 + 8 * n_labels
    at_index = at_count + 2 * subs
    at_value = at_index + 4 * total_of(data, at_count, subs)
    table = np.zeros(512, np.uint64)
    for sz in range(gz):
        za, zb = max(8 * sz, z0), min(8 * sz + 8, z0 + nz)
        for sy in range(gy):
            ya, yb = max(8 * sy, y0), min(8 * sy + 8, y0 + ny)
            for sx in range(gx):
                xa, xb = max(8 * sx, x0), min(8 * sx + 8, x0 + nx)
                n = get16(data, at_count)
                w = width_of(n)
                if za < zb and ya < yb and xa < xb:
                    if n <= 1:
                        label = get64(data, 16 + 8 * get32(data, at_index)) if n else np.uint64(0)
                        if xb - xa == 8:
                            for z in range(za - z0, zb - z0):
                                for y in range(ya - y0, yb - y0):
                                    for i in range(8):
                                        out[z, y, xa - x0 + i] = label
                        else:
                            for z in range(za - z0, zb - z0):
                                for y in range(ya - y0, yb - y0):
                                    for x in range(xa - x0, xb - x0):
                                        out[z, y, x] = label
                    else:
                        for i in range(n):
                            table[i] = get64(data, 16 + 8 * get32(data, at_index + 4 * i))
                        at_end = at_value + 64 * w + 8
                        if zb - za == 8 and yb - ya == 8 and xb - xa == 8 and w <= 8 and at_end <= data.size:
                            _decode_sub(data, at_value, w, table, out, za - z0, ya - y0, xa - x0)
                        else:
                            for z in range(za, zb):
                                for y in range(ya, yb):
                                    at = at_value + ((z & 7) * 8 + (y & 7)) * w
                                    _decode_row(data, at, w, table, out, z - z0, y - y0, xa - x0, xb - x0, 8 * sx - x0)
                at_count += 2
                at_index += 4 * n
                at_value += 64 * w


@njit(nogil=True, cache=True)
def _decode_wide(data: U8, at: Int, width: Int, table: U64, out: U64, z0: Int, y0: Int, x0: Int) -> None:
    w = np.uint64(width)
    shift = np.uint64(64) - w
    for r in range(64):
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
        z = np.uint64(z0 + (r >> 3))
        y = np.uint64(y0 + (r & 7))
        x = np.uint64(x0)
        for i in range(8):
            out[z, y, x + np.uint64(i)] = table[v >> shift]
            v <<= w


@njit(nogil=True, cache=True)
def _decode_sub(data: U8, at: Int, width: Int, table: U64, out: U64, z: Int, y: Int, x: Int) -> None:
    """Write a whole sub-block of values of at most 8 bits; 8 bytes at its last row must be readable."""
    if width == 1:  # a literal width lets the compiler unroll with constant shifts
        _decode_wide(data, at, 1, table, out, z, y, x)
    elif width == 2:
        _decode_wide(data, at, 2, table, out, z, y, x)
    else:
        _decode_wide(data, at, width, table, out, z, y, x)


@njit(nogil=True, cache=True)
def _decode_row(
    data: U8, at: Int, width: Int, table: U64, out: U64, z: Int, y: Int, xa: Int, xb: Int, origin: Int
) -> None:
    """Write voxels xa..xb of one row of eight that begins at ``origin`` (both in coordinates of ``out``)."""
    v = get64_big(data, at)
    w = np.uint64(width)
    shift = np.uint64(64) - w
    if width <= 8:
        if xb - xa == 8:
            for i in range(8):
                out[z, y, xa + i] = table[v >> shift]
                v <<= w
        else:
            v <<= np.uint64(width * (xa - origin))
            for x in range(xa, xb):
                out[z, y, x] = table[v >> shift]
                v <<= w
    else:
        second = get64_big(data, at + 1) << np.uint64(28)
        for i in range(8):
            if i == 4:
                v = second
            if xa <= origin + i < xb:
                out[z, y, origin + i] = table[v >> shift]
            v <<= w


@njit(nogil=True, cache=True)
def _mix(label: np.uint64) -> np.uint64:
    h = (label ^ (label >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return h ^ (h >> np.uint64(29))


@njit(nogil=True, cache=True)
def _slot(keys: U64, used: I32, label: np.uint64) -> Int:
    """Find the slot of ``label``, or the free one where it belongs; the table's size is a power of two."""
    mask = np.uint64(keys.size - 1)
    at = _mix(label) & mask
    while used[at] >= 0 and keys[at] != label:
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@njit(nogil=True, cache=True)
def _encode(vol: U64) -> U8:
    gz, gy, gx = vol.shape[0] // 8, vol.shape[1] // 8, vol.shape[2] // 8
    subs = gz * gy * gx
    # the header list: a list, and a hash table over it
    listed = np.empty(256, np.uint64)
    n_listed = 0
    keys = np.empty(1024, np.uint64)
    used = np.full(1024, -1, np.int32)
    recent = vol[0, 0, 0]
    recent_at = np.int32(-1)
    # what is written per sub-block
    n_of = np.empty(subs, np.uint16)
    indices = np.empty(max(64, 2 * subs), np.uint32)
    n_indices = 0
    packed = np.empty(256 * subs, np.uint8)
    n_packed = 0
    # the labels of one sub-block: a list, and a hash table over those beyond the first 8
    local = np.empty(512, np.uint64)
    slots = np.zeros(1024, np.int64)  # serial number of the sub-block * 1024 + place in the list
    values = np.empty(512, np.uint16)
    serial = 0
    for sz in range(gz):
        for sy in range(gy):
            for sx in range(gx):
                sub = vol[8 * sz : 8 * sz + 8, 8 * sy : 8 * sy + 8, 8 * sx : 8 * sx + 8]
                prev = sub[0, 0, 0]
                local[0] = prev
                n = 1
                cur = np.uint16(0)
                serial += 1
                at_row = 0
                for z in range(8):
                    for y in range(8):
                        differ = np.uint64(0)
                        for x in range(8):
                            differ |= sub[z, y, x] ^ prev
                        if differ == np.uint64(0):
                            for x in range(8):
                                values[at_row + x] = cur
                        else:
                            for x in range(8):
                                v = sub[z, y, x]
                                if v != prev:
                                    prev = v
                                    found = -1
                                    for i in range(min(n, 8)):
                                        if local[i] == v:
                                            found = i
                                    if found < 0:
                                        if n < 8:
                                            found = n
                                            local[n] = v
                                            n += 1
                                        else:
                                            h = _mix(v) & np.uint64(1023)
                                            while True:
                                                if slots[h] >> 10 != serial:
                                                    slots[h] = serial << 10 | n
                                                    found = n
                                                    local[n] = v
                                                    n += 1
                                                    break
                                                found = slots[h] & 1023
                                                if local[found] == v:
                                                    break
                                                h = (h + np.uint64(1)) & np.uint64(1023)
                                    cur = np.uint16(found)
                                values[at_row + x] = cur
                        at_row += 8
                # indices of its labels
                s = (sz * gy + sy) * gx + sx
                n_of[s] = n
                if n_indices + n > indices.size:
                    more = np.empty(max(2 * indices.size, n_indices + n), np.uint32)
                    more[:n_indices] = indices[:n_indices]
                    indices = more
                for i in range(n):
                    v = local[i]
                    if v != recent or recent_at < 0:
                        at = _slot(keys, used, v)
                        if used[at] < 0:
                            if n_listed == listed.size:
                                longer = np.empty(2 * n_listed, np.uint64)
                                longer[:n_listed] = listed
                                listed = longer
                            if 2 * n_listed >= keys.size:
                                keys = np.empty(4 * keys.size, np.uint64)
                                used = np.full(keys.size, -1, np.int32)
                                for k in range(n_listed):
                                    at = _slot(keys, used, listed[k])
                                    keys[at] = listed[k]
                                    used[at] = k
                                at = _slot(keys, used, v)
                            listed[n_listed] = v
                            keys[at] = v
                            used[at] = n_listed
                            n_listed += 1
                        recent = v
                        recent_at = used[at]
                    indices[n_indices + i] = recent_at
                n_indices += n
                # its values
                if n > 1:
                    w = width_of(n)
                    packed = grown8(packed, n_packed + 64 * w + 8)
                    _pack(values, w, packed, n_packed)
                    n_packed += 64 * w
    if n_listed == 1:
        out = np.empty(24, np.uint8)
    else:
        out = np.empty(16 + 8 * n_listed + 2 * subs + 4 * n_indices + n_packed, np.uint8)
    put32(out, 0, gx)
    put32(out, 4, gy)
    put32(out, 8, gz)
    put32(out, 12, n_listed)
    for i in range(n_listed):
        put64(out, 16 + 8 * i, listed[i])
    if n_listed == 1:
        return out
    at_out = 16 + 8 * n_listed
    for i in range(subs):
        put16(out, at_out + 2 * i, np.int64(n_of[i]))
    at_out += 2 * subs
    for i in range(n_indices):
        put32(out, at_out + 4 * i, np.int64(indices[i]))
    at_out += 4 * n_indices
    out[at_out:] = packed[:n_packed]
    return out


@njit(nogil=True, cache=True)
def _pack(values: U16, width: Int, out: U8, at: Int) -> None:
    """Pack 512 values, most significant bit first; up to 8 bytes after the last one may be overwritten."""
    w = np.uint64(width)
    if width <= 8:
        top = np.uint64(64 - 8 * width)
        for r in range(64):
            v = np.uint64(0)
            for i in range(8):
                v = (v << w) | np.uint64(values[8 * r + i])
            put64_big(out, at + r * width, v << top)
    else:
        for r in range(64):
            v = np.uint64(0)
            for i in range(4):
                v = (v << w) | np.uint64(values[8 * r + i])
            last = np.uint64(0)
            for i in range(4, 8):
                last = (last << w) | np.uint64(values[8 * r + i])
            put64_big(out, at + 9 * r, (v << np.uint64(28)) | (last >> np.uint64(8)))
            out[at + 9 * r + 8] = np.uint8(last)


@njit(nogil=True, cache=True)
def layout(data: U8, subs: Int, n_labels: Int) -> tuple[I64, I64]:
    """Return the byte positions of each sub-block's indices and values, subs + 1 of each (for n_labels > 1)."""
    at_count = 16 + 8 * n_labels
    index = np.empty(subs + 1, np.int64)
    value = np.empty(subs + 1, np.int64)
    at_index = at_count + 2 * subs
    at_value = at_index + 4 * total_of(data, at_count, subs)
    for s in range(subs):
        index[s] = at_index
        value[s] = at_value
        n = get16(data, at_count + 2 * s)
        at_index += 4 * n
        at_value += 64 * width_of(n)
    index[subs] = at_index
    value[subs] = at_value
    return index, value


@njit(nogil=True, cache=True)
def _one(data: U8, at_index: Int, at_value: Int, n: Int, z: Int, y: Int, x: Int) -> np.uint64:
    """Look up one voxel of a sub-block with n labels."""
    if n == 0:
        return np.uint64(0)
    found: Int = 0
    if n > 1:
        w = width_of(n)
        bit = ((z & 7) * 64 + (y & 7) * 8 + (x & 7)) * w
        v = get64_big(data, at_value + (bit >> 3)) << np.uint64(bit & 7)
        found = np.int64(v >> np.uint64(64 - w))
    return get64(data, 16 + 8 * get32(data, at_index + 4 * found))


@njit(nogil=True, cache=True)
def _label_at(data: U8, gz: Int, gy: Int, gx: Int, n_labels: Int, z: Int, y: Int, x: Int) -> np.uint64:
    if n_labels <= 1:
        return get64(data, 16) if n_labels else np.uint64(0)
    subs = gz * gy * gx
    s = ((z >> 3) * gy + (y >> 3)) * gx + (x >> 3)
    at_count = 16 + 8 * n_labels
    at_index = at_count + 2 * subs
    at_value = at_index
    for i in range(subs):
        n = get16(data, at_count + 2 * i)
        at_value += 4 * n
        if i < s:
            at_index += 4 * n
            at_value += 64 * width_of(n)
    return _one(data, at_index, at_value, get16(data, at_count + 2 * s), z, y, x)


@njit(nogil=True, cache=True)
def _labels_at(data: U8, points: I32, start: Int, stop: Int, out: U64) -> Int:
    """Look up the points from one to another; the first one outside of the block, or -1."""
    gx, gy, gz, n_labels = get32(data, 0), get32(data, 4), get32(data, 8), get32(data, 12)
    for p in range(start, stop):
        z, y, x = points[p, 0], points[p, 1], points[p, 2]
        if z < 0 or y < 0 or x < 0 or z >= 8 * gz or y >= 8 * gy or x >= 8 * gx:
            return p
    if n_labels <= 1:
        out[start:stop] = get64(data, 16) if n_labels else np.uint64(0)
        return -1
    index, value = layout(data, gz * gy * gx, n_labels)
    at_count = 16 + 8 * n_labels
    for p in range(start, stop):
        z, y, x = np.int64(points[p, 0]), np.int64(points[p, 1]), np.int64(points[p, 2])
        s = ((z >> 3) * gy + (y >> 3)) * gx + (x >> 3)
        out[p] = _one(data, index[s], value[s], get16(data, at_count + 2 * s), z, y, x)
    return -1


@njit(nogil=True, cache=True)
def _counts(data: U8, subs: Int, n_labels: Int) -> U32:
    """Count voxels per entry of the header list, and at the end those of sub-blocks without labels."""
    sizes = np.zeros(n_labels + 1, np.uint32)  # the last one: voxels of sub-blocks without labels
    if n_labels <= 1:
        sizes[0] = 512 * subs
    else:
        at_count = 16 + 8 * n_labels
        at_index = at_count + 2 * subs
        at_value = at_index + 4 * total_of(data, at_count, subs)
        values = np.empty(512, np.uint16)
        even = np.zeros(512, np.uint32)
        odd = np.zeros(512, np.uint32)
        for s in range(subs):
            n = get16(data, at_count + 2 * s)
            w = width_of(n)
            if n == 0:
                sizes[n_labels] += np.uint32(512)
            elif n == 1:
                sizes[get32(data, at_index)] += np.uint32(512)
            else:
                unpack_sub(data, at_value, w, values)
                for i in range(0, 512, 2):
                    even[values[i]] += np.uint32(1)
                    odd[values[i + 1]] += np.uint32(1)
                for i in range(n):
                    sizes[get32(data, at_index + 4 * i)] += even[i] + odd[i]
                    even[i] = 0
                    odd[i] = 0
            at_index += 4 * n
            at_value += 64 * w
    return sizes
