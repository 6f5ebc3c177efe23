"""How many voxels of a label block has each label?"""

import numpy as np
from numba import njit

from app.kernels.arrays import U8, U32, U64, Int, frozen_c
from app.kernels.label_block.header import header
from app.kernels.label_block.layout import total_of
from app.kernels.packed import unpack_sub, width_of
from app.kernels.words import get16, get32


def counts(data: U8) -> tuple[U64, U32]:
    """Count the voxels of each label of a checked block: (sorted unique labels, counts uint32), no zeros.

    Label 0 is counted like any other.
    """
    data = frozen_c(data, np.uint8, 1, "label block")
    gz, gy, gx, n = header(data)
    sizes = _counts(data, gz * gy * gx, n)
    found, where = np.unique(np.append(data[16 : 16 + 8 * n].view(np.uint64), np.uint64(0)), return_inverse=True)
    joined = np.zeros(found.size, np.uint32)
    np.add.at(joined, where, sizes)
    return found[joined > 0], joined[joined > 0]


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
