"""How do label blocks become neuroglancer's compressed segmentation, and how is that read?

The format is that of neuroglancer's ``compressed_segmentation`` (its README in sliceview), here always with uint64
labels, blocks of 8×8×8 voxels and one channel: a first uint32 word 1 (where the channel begins), then per block
two words: the position of its table (24 bits) with the bits per value above it (0, 1, 2, 4, 8, 16 or 32), and the
position of its 512 values, least significant bit first. Positions are counted in words from the start of the channel.

Both formats have the same 8×8×8 sub-blocks in the same order, so a label block is carried over table by table. Tables
come first and values after them, because the position of a table has 24 bits only. Volumes are C order (z, y, x).
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from app.kernels.arrays import I64, U8, U16, U64, Int, Shape, frozen, frozen_c, xyz
from app.kernels.label_block.encoding import encode_any
from app.kernels.label_block.header import header, sub_blocks
from app.kernels.label_block.joining import check_box, gathered
from app.kernels.label_block.layout import positions
from app.kernels.packed import unpack_sub, width_of
from app.kernels.words import get16, get32, get64, get64_big, put32, put64

_LIMIT = 1 << 24

_Triple = tuple[Int, Int, Int]


def from_block(data: U8) -> U8:
    """Convert a checked label block (uint8, 1-D) without expanding it. The result is a uint8 array.

    A sub-block all of whose labels are equal (as merges leave them) is written as uniform.
    """
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, _ = header(data)
    return _convert(data, np.zeros(1, np.int64), (1, 1, 1), (gz, gy, gx), (0, 0, 0), (gz, gy, gx))


def from_blocks(
    blocks: Sequence[U8 | None],
    grid_zyx: Shape,
    block_shape_zyx: Shape,
    start_zyx: Shape | None = None,
    shape_zyx: Shape | None = None,
) -> U8:
    """Convert a box of a grid of checked label blocks to one compressed segmentation (a uint8 array).

    ``blocks`` lists the grid in C order (z outermost), None standing for zeros; all have ``block_shape_zyx``. The box
    starts at ``start_zyx`` in voxels from the grid's corner (default 0) and has ``shape_zyx`` (default: the rest of the
    grid); both must be multiples of 8. ValueError for anything else, or if the tables outgrow their 24-bit positions.
    """
    cat, starts = gathered(blocks, grid_zyx, block_shape_zyx)
    extent = tuple(g * b for g, b in zip(grid_zyx, block_shape_zyx, strict=True))
    start = start_zyx or (0, 0, 0)
    size = shape_zyx or tuple(e - s for e, s in zip(extent, start, strict=True))
    if any(v % 8 for v in (*start, *size)):
        raise ValueError(f"box of {xyz(size)} voxels at {xyz(start)} (x, y, z) is not made of sub-blocks of 8")
    check_box(grid_zyx, block_shape_zyx, start, size)
    z, y, x = (int(side) for side in grid_zyx)
    return _convert(cat, starts, (z, y, x), sub_blocks(block_shape_zyx), sub_blocks(start), sub_blocks(size))


def encode(volume: U64) -> U8:
    """Encode ``volume``, uint64 (z, y, x) of any strides whose sides are multiples of 8, to a uint8 array."""
    volume = frozen_c(volume, np.uint64, 3, "label volume")
    if any(side % 8 or side == 0 for side in volume.shape):
        raise ValueError(f"sides of a compressed segmentation must be multiples of 8, not {xyz(volume.shape)}")
    subs = sub_blocks(volume.shape)
    return _convert(encode_any(volume), np.zeros(1, np.int64), (1, 1, 1), subs, (0, 0, 0), subs)


def decode(data: U8, shape_zyx: Shape) -> U64:
    """Decode compressed segmentation (uint8, 1-D) of ``shape_zyx`` (any sides) to a new uint64 volume (z, y, x).

    The bytes are not trusted: ValueError if they are malformed or too few.
    """
    data = frozen_c(data, np.uint8, 1, "compressed segmentation")
    z, y, x = (int(side) for side in shape_zyx)
    if min(z, y, x) < 1:
        raise ValueError(f"compressed segmentation cannot have {xyz(shape_zyx)} voxels")
    if data.size % 4 or data.size < 4 or int.from_bytes(data[:4].tobytes(), "little") != 1:
        raise ValueError("compressed segmentation must be whole words and begin with the word 1")
    subs = -(-z // 8) * -(-y // 8) * -(-x // 8)
    if data.size - 4 < 8 * subs:
        raise ValueError(f"compressed segmentation of {data.size} bytes is too short for {xyz(shape_zyx)} voxels")
    out = np.empty((z, y, x), np.uint64)
    problem, where = _decode(data, out)
    if problem:
        raise ValueError(f"compressed segmentation, block {where}: {_PROBLEMS[int(problem)]}")
    return out


_PROBLEMS = {
    1: "bits per value must be 0, 1, 2, 4, 8, 16 or 32",
    2: "values lie outside the data",
    3: "table lies outside the data",
}


def _convert(cat: U8, starts: I64, grid: Shape, block: Shape, start: Shape, size: Shape) -> U8:
    out = _from_blocks(frozen(cat, np.uint8, 1, "label blocks"), starts, grid, block, start, size)
    if out.size == 0:
        raise ValueError("box has too many different labels for the table positions of a compressed segmentation")
    return out


@njit(nogil=True, cache=True)
def _same_table(data: U8, a: Int, b: Int, size: Int) -> bool:
    same = True
    for i in range(size):
        if data[a + i] != data[b + i]:
            same = False
    return same


@njit(nogil=True, cache=True)
def _bits(width: Int) -> Int:
    """Bits per value that hold ``width`` bits: the next power of two."""
    if width <= 2:
        return width
    if width <= 4:
        return 4
    return 8 if width <= 8 else 16


@njit(nogil=True, cache=True)
def _room(cat: U8, starts: I64, subs: Int) -> Int:
    """Return how many words the tables and values of blocks can need."""
    words: Int = 2
    for begin in starts:
        n_labels = get32(cat, begin + 12) if begin >= 0 else 0
        if n_labels <= 1:
            words += 2
        else:
            at = begin + 16 + 8 * n_labels
            for s in range(subs):
                n = get16(cat, at + 2 * s)
                words += 2 * max(n, 1) + 16 * _bits(width_of(n))
    return words


@njit(nogil=True, cache=True)
def _shared(b: Int, grid: _Triple, block: _Triple, start: _Triple, size: _Triple, part: I64) -> Int:
    """List the sub-blocks that block b and the box have in common; return how many they are.

    A row of ``part`` is a sub-block's number in the block and its number in the box.
    """
    z0, y0, x0 = b // (grid[1] * grid[2]) * block[0], b // grid[2] % grid[1] * block[1], b % grid[2] * block[2]
    n = 0
    for z in range(max(z0, start[0]), min(z0 + block[0], start[0] + size[0])):
        for y in range(max(y0, start[1]), min(y0 + block[1], start[1] + size[1])):
            s = ((z - z0) * block[1] + y - y0) * block[2] - x0
            to = ((z - start[0]) * size[1] + y - start[1]) * size[2] - start[2]
            for x in range(max(x0, start[2]), min(x0 + block[2], start[2] + size[2])):
                part[n, 0], part[n, 1] = s + x, to + x
                n += 1
    return n


@njit(nogil=True, cache=True)
def _zeros(out: U8, state: I64) -> Int:
    """Return the position of the table of zeros, which is written when it is first needed.

    ``state`` is where the next table goes, and the table of zeros (-1: none yet).
    """
    if state[1] < 0:
        state[1] = state[0]
        put64(out, 4 + 4 * state[0], np.uint64(0))
        state[0] += 2
    here: Int = state[1]
    return here


@njit(nogil=True, cache=True)
def _tables(
    data: U8, index: I64, value: I64, part: I64, n_part: Int, out: U8, state: I64, seen: I64, packed: I64
) -> bool:
    """Write the tables of a block of several labels, and where its sub-blocks in the box find theirs.

    ``index`` and ``value`` are the block's positions, ``packed`` becomes for each sub-block of the box the position and
    the width of its values. Return whether the tables are within reach.
    """
    solid = np.full(get32(data, 12), -1, np.int64)
    seen[:] = -1
    mask = np.uint64(seen.size - 1)
    table: Int = state[0]
    for i in range(n_part):
        s, to = part[i, 0], part[i, 1]
        at, n = index[s], (index[s + 1] - index[s]) >> 2
        bits: Int = 0
        if n == 0:
            state[0] = table
            here = _zeros(out, state)
            table = state[0]
        else:
            first = get32(data, at)
            label = get64(data, 16 + 8 * first)
            is_uniform = True
            for k in range(1, n):
                if get64(data, 16 + 8 * get32(data, at + 4 * k)) != label:
                    is_uniform = False
                    break
            if is_uniform:
                if solid[first] < 0:
                    solid[first] = table
                    put64(out, 4 + 4 * table, label)
                    table += 2
                here = solid[first]
            else:
                w = width_of(n)
                bits = _bits(w)
                packed[to, 0], packed[to, 1] = value[s], w
                h = np.uint64(n)
                for k in range(n):
                    h = (h ^ np.uint64(get32(data, at + 4 * k))) * np.uint64(0x9E3779B97F4A7C15)
                    h ^= h >> np.uint64(31)
                h &= mask
                while seen[h] >= 0:
                    t = seen[h] >> 32
                    if index[t + 1] - index[t] == 4 * n and _same_table(data, index[t], at, 4 * n):
                        break
                    h = (h + np.uint64(1)) & mask
                if seen[h] < 0:
                    seen[h] = s << 32 | table
                    for k in range(n):
                        put64(out, 4 + 4 * table, get64(data, 16 + 8 * get32(data, at + 4 * k)))
                        table += 2
                here = seen[h] & 0xFFFFFFFF
        if here >= _LIMIT:
            return False
        put32(out, 4 + 8 * to, here | bits << 24)
    state[0] = table
    return True


@njit(nogil=True, cache=True)
def _from_blocks(cat: U8, starts: I64, grid: _Triple, block: _Triple, start: _Triple, size: _Triple) -> U8:
    """Convert; all sizes in sub-blocks. An empty result says that the tables do not fit."""
    subs, total = block[0] * block[1] * block[2], size[0] * size[1] * size[2]
    out = np.empty(4 * (1 + 2 * total + _room(cat, starts, subs)) + 8, np.uint8)
    put32(out, 0, 1)
    state = np.array([2 * total, -1])  # see _zeros; in words of the channel
    packed = np.full((total, 2), -1, np.int64)
    part = np.empty((subs, 2), np.int64)
    room = 2
    while room < 2 * subs:
        room *= 2
    seen = np.empty(room, np.int64)
    for b in range(starts.size):
        n_part = _shared(b, grid, block, start, size, part)
        if n_part == 0:
            continue
        n_labels = get32(cat, starts[b] + 12) if starts[b] >= 0 else 0
        if n_labels <= 1:
            if n_labels == 0:
                here = _zeros(out, state)
            else:
                here = state[0]
                put64(out, 4 + 4 * here, get64(cat, starts[b] + 16))
                state[0] += 2
            if here >= _LIMIT:
                return out[:0]
            for i in range(n_part):
                put32(out, 4 + 8 * part[i, 1], here)
            continue
        data = cat[starts[b] :]
        index, value = positions(data, subs, n_labels)
        value += starts[b]
        if not _tables(data, index, value, part, n_part, out, state, seen, packed):
            return out[:0]
    word = state[0]
    values = np.empty(512, np.uint16)
    for to in range(total):
        put32(out, 8 + 8 * to, word)
        if packed[to, 0] >= 0:
            _repack(cat, packed[to, 0], packed[to, 1], out, 4 + 4 * word, values)
            word += 16 * _bits(packed[to, 1])
    return out[: 4 + 4 * word]


@njit(nogil=True, cache=True)
def _repack(data: U8, at: Int, width: Int, out: U8, to: Int, values: U16) -> None:
    """Turn 512 values of ``width`` bits, most significant bit first, into the next power of two, least first."""
    if width == 1:
        a, b, c = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
        for i in range(8):
            v = get64(data, at + 8 * i)
            v = ((v >> np.uint64(1)) & a) | ((v & a) << np.uint64(1))
            v = ((v >> np.uint64(2)) & b) | ((v & b) << np.uint64(2))
            put64(out, to + 8 * i, ((v >> np.uint64(4)) & c) | ((v & c) << np.uint64(4)))
    elif width == 2:
        b, c = np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
        for i in range(16):
            v = get64(data, at + 8 * i)
            v = ((v >> np.uint64(2)) & b) | ((v & b) << np.uint64(2))
            put64(out, to + 8 * i, ((v >> np.uint64(4)) & c) | ((v & c) << np.uint64(4)))
    elif width == 3:
        for r in range(64):
            v = get64_big(data, at + 3 * r)
            packed = np.uint32(0)
            for i in range(8):
                packed |= np.uint32(v >> np.uint64(61)) << np.uint32(4 * i)
                v <<= np.uint64(3)
            put32(out, to + 4 * r, packed)
    elif width == 4:
        c = np.uint64(0x0F0F0F0F0F0F0F0F)
        for i in range(32):
            v = get64(data, at + 8 * i)
            put64(out, to + 8 * i, ((v >> np.uint64(4)) & c) | ((v & c) << np.uint64(4)))
    else:
        unpack_sub(data, at, width, values)
        if width <= 8:
            for i in range(512):
                out[to + i] = np.uint8(values[i])
        else:
            for i in range(512):
                out[to + 2 * i] = np.uint8(values[i])
                out[to + 2 * i + 1] = np.uint8(values[i] >> np.uint16(8))


@njit(nogil=True, cache=True)
def _decode(data: U8, out: U64) -> tuple[Int, Int]:
    nz, ny, nx = out.shape
    words = (data.size - 4) // 4
    s = 0
    for z0 in range(0, nz, 8):
        for y0 in range(0, ny, 8):
            for x0 in range(0, nx, 8):
                head = get32(data, 4 + 8 * s)
                table = head & 0xFFFFFF
                bits = head >> 24
                at = get32(data, 8 + 8 * s)
                zb, yb, xb = min(z0 + 8, nz), min(y0 + 8, ny), min(x0 + 8, nx)
                if bits == 0:
                    if table + 2 > words:
                        return 3, s
                    label = get64(data, 4 + 4 * table)
                    for z in range(z0, zb):
                        for y in range(y0, yb):
                            for x in range(x0, xb):
                                out[z, y, x] = label
                else:
                    if bits > 32 or bits & (bits - 1):
                        return 1, s
                    if at + 16 * bits > words:
                        return 2, s
                    mask = (1 << bits) - 1
                    for z in range(z0, zb):
                        for y in range(y0, yb):
                            bit = ((z - z0) * 64 + (y - y0) * 8) * bits
                            for x in range(x0, xb):
                                value = (get32(data, 4 + 4 * (at + (bit >> 5))) >> (bit & 31)) & mask
                                bit += bits
                                if table + 2 * value + 2 > words:
                                    return 3, s
                                out[z, y, x] = get64(data, 4 + 4 * (table + 2 * value))
                s += 1
    return 0, 0
