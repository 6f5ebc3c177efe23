"""Which voxels of a block have one of some labels, as DVID's binary blocks say it?

One block is a byte: 0 none, 1 all, 2 mixed. After a 2 comes a byte of the same meaning for every sub-block of 8×8×8 (z
outermost, x fastest), and after each 2 among those 64 bytes with one bit per voxel, x fastest, least significant first.
"""

import numpy as np
from numba import njit

from app.kernels.label_block import _header, layout
from app.kernels.runs import flags_of, sorted_labels
from app.kernels.words import U8, U64, Int, frozen_c, get32, unpack_sub, width_of


def block_mask(data: U8, wanted: U64) -> U8:
    """Return the binary block (uint8, 1-D) of the voxels of a checked label block that have a wanted label.

    ``wanted`` is uint64, sorted. A result of one byte says none (0) or all (1).
    """
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, n = _header(data)
    return _block_mask(data, gz * gy * gx, n, sorted_labels(wanted))


@njit(nogil=True, cache=True)
def _block_mask(data: U8, subs: Int, n_labels: Int, wanted: U64) -> U8:
    flags = flags_of(data, n_labels, wanted)
    single = np.empty(1, np.uint8)
    if n_labels <= 1:
        single[0] = flags[0]
        return single
    if flags.max() == 0:
        single[0] = 0
        return single
    index, value = layout(data, subs, n_labels)
    out = np.empty(1 + 65 * subs, np.uint8)
    out[0] = 2
    end = 1
    values = np.zeros(512, np.uint16)
    local = np.zeros(512, np.uint8)
    voxels: Int = 0
    for s in range(subs):
        n = (index[s + 1] - index[s]) >> 2
        some, all_of = np.uint8(0), np.uint8(1)
        if n == 0:
            some = all_of = flags[n_labels]
        for i in range(n):
            local[i] = flags[get32(data, index[s] + 4 * i)]
            some |= local[i]
            all_of &= local[i]
        if some == all_of:
            out[end] = some
            end += 1
            voxels += 512 * np.int64(some)
            continue
        unpack_sub(data, value[s], width_of(n), values)
        inside: Int = 0
        for r in range(64):
            bits: Int = 0
            for i in range(8):
                bit = np.int64(local[values[8 * r + i]])
                inside += bit
                bits |= bit << i
            out[end + 1 + r] = np.uint8(bits)
        voxels += inside
        if inside == 0 or inside == 512:  # a label of the table that no voxel has, or all have
            out[end] = np.uint8(inside == 512)
            end += 1
        else:
            out[end] = 2
            end += 65
    if voxels == 0 or voxels == 512 * subs:
        single[0] = np.uint8(voxels != 0)
        return single
    return out[:end].copy()
