"""How does a label block become a volume again, whole or in part?"""

import numpy as np
from numba import njit

from app.kernels.arrays import U8, U64, Int, Shape, frozen_c, xyz
from app.kernels.label_block.header import SUB, header
from app.kernels.label_block.layout import total_of
from app.kernels.packed import width_of
from app.kernels.words import get16, get32, get64, get64_big, get64_big_inside


def decode(data: U8, out: U64) -> None:
    """Expand a checked block into ``out``, uint64 (z, y, x) of the block's shape and any strides."""
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, n = header(data)
    _check_out(out)
    if out.shape != (gz * SUB, gy * SUB, gx * SUB):
        raise ValueError(f"label block of {xyz((gz * SUB, gy * SUB, gx * SUB))} voxels does not fill {xyz(out.shape)}")
    _decode(data, gz, gy, gx, n, 0, 0, 0, out)


def decode_box(data: U8, start_zyx: Shape, out: U64) -> None:
    """Expand the part of a checked block that starts at voxel ``start_zyx`` and has the shape of ``out``.

    ``out`` is uint64 (z, y, x) of any strides. Sub-blocks outside of the box are skipped. ValueError if the
    box leaves the block.
    """
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, n = header(data)
    _check_out(out)
    z, y, x = (int(start) for start in start_zyx)
    if min(z, y, x) < 0 or z + out.shape[0] > gz * SUB or y + out.shape[1] > gy * SUB or x + out.shape[2] > gx * SUB:
        raise ValueError(f"box of {xyz(out.shape)} voxels at {xyz((z, y, x))} (x, y, z) leaves the label block")
    if out.size:
        _decode(data, gz, gy, gx, n, z, y, x, out)


def _check_out(out: U64) -> None:
    if not isinstance(out, np.ndarray) or out.dtype != np.uint64 or out.ndim != 3 or not out.dtype.isnative:
        raise ValueError("label blocks expand into an array of uint64 with 3 axes")
    if not out.flags.writeable or not out.flags.aligned:
        raise ValueError("label blocks expand into a writeable, aligned array")


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
        v = get64_big_inside(data, at + r * width)
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
