"""How does a volume become a label block?"""

import numpy as np
from numba import njit

from app.kernels.arrays import I32, I64, U8, U16, U32, U64, Int, frozen_c, grown
from app.kernels.label_block.header import check_shape
from app.kernels.label_block.layout import assembled
from app.kernels.packed import pack_sub, width_of


def encode(volume: U64) -> U8:
    """Compress ``volume``, uint64 (z, y, x) of any strides (copied unless C), to a new block (uint8, 1-D).

    Sides must be multiples of 8 from 16 to 1024, or ValueError. Labels are listed once each, in order of
    first encounter (sub-block after sub-block); a uniform volume gives a solid block.
    """
    volume = frozen_c(volume, np.uint64, 3, "label volume")
    check_shape(volume.shape)
    return encode_any(volume)


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
def _is_uniform(vol: U64) -> bool:
    first = vol[0, 0, 0]
    for z in range(vol.shape[0]):
        differ = np.uint64(0)
        for y in range(vol.shape[1]):
            for x in range(vol.shape[2]):
                differ |= vol[z, y, x] ^ first
        if differ != np.uint64(0):
            return False
    return True


@njit(nogil=True, cache=True)
def _rehashed(listed: U64, n_listed: Int, size: Int) -> tuple[U64, I32]:
    """Return a hash table of ``size`` slots over a list: the labels, and their places in the list (-1: free)."""
    keys = np.empty(size, np.uint64)
    used = np.full(size, -1, np.int32)
    for i in range(n_listed):
        at = _slot(keys, used, listed[i])
        keys[at] = listed[i]
        used[at] = i
    return keys, used


@njit(nogil=True, cache=True)
def _enlist(local: U64, n: Int, keys: U64, used: I32, listed: U64, n_listed: Int, indices: U32, n_indices: Int) -> Int:
    """Write the indices of a sub-block's labels into the header list; return how many labels that has then."""
    for i in range(n):
        label = local[i]
        at = n_indices + i
        if at and listed[indices[at - 1]] == label:  # one label often goes on from sub-block to sub-block
            indices[at] = indices[at - 1]
            continue
        slot = _slot(keys, used, label)
        if used[slot] < 0:
            listed[n_listed] = label
            keys[slot] = label
            used[slot] = n_listed
            n_listed += 1
        indices[at] = used[slot]
    return n_listed


@njit(nogil=True, cache=True)
def _number(sub: U64, local: U64, slots: I64, serial: Int, values: U16) -> Int:
    """Number the labels of a sub-block (8, 8, 8) in order of first encounter; return how many there are.

    ``local`` becomes the labels and ``values`` the 512 numbers. ``slots`` is a hash table over the labels beyond the
    first 8: ``serial``, which no sub-block had before, · 1024 + the place in ``local``.
    """
    prev = sub[0, 0, 0]
    local[0] = prev
    n = 1
    cur = np.uint16(0)
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
    return n


@njit(nogil=True, cache=True)
def encode_any(vol: U64) -> U8:
    """Compress a volume, C order, whose sides are any multiples of 8."""
    gz, gy, gx = vol.shape[0] // 8, vol.shape[1] // 8, vol.shape[2] // 8
    subs = gz * gy * gx
    # the header list: a list, and a hash table over it, at most half full
    listed = np.empty(512, np.uint64)
    n_listed: Int = 0
    keys, used = _rehashed(listed, 0, 2 * listed.size)
    # what is written per sub-block
    n_of = np.empty(subs, np.uint16)
    indices = np.empty(max(512, 2 * subs), np.uint32)
    n_indices = 0
    packed = np.empty(256 * subs, np.uint8)
    n_packed = 0
    if _is_uniform(vol):
        return assembled((gz, gy, gx), vol[0, 0, :1], n_of[:0], indices[:0], packed[:0])
    # the labels and the values of one sub-block
    local = np.empty(512, np.uint64)
    slots = np.zeros(1024, np.int64)
    values = np.empty(512, np.uint16)
    s = 0
    for z in range(0, vol.shape[0], 8):
        for y in range(0, vol.shape[1], 8):
            for x in range(0, vol.shape[2], 8):
                n = _number(vol[z : z + 8, y : y + 8, x : x + 8], local, slots, s + 1, values)
                if n_indices + n > indices.size:
                    indices = grown(indices, n_indices + n)
                if n_listed + n > listed.size:
                    listed = grown(listed, 4 * listed.size)
                    keys, used = _rehashed(listed, n_listed, 2 * listed.size)
                n_listed = _enlist(local, n, keys, used, listed, n_listed, indices, n_indices)
                n_indices += n
                n_of[s] = n
                s += 1
                if n > 1:
                    w = width_of(n)
                    packed = grown(packed, n_packed + 64 * w + 8)
                    pack_sub(values, w, packed, n_packed)
                    n_packed += 64 * w
    return assembled((gz, gy, gx), listed[:n_listed], n_of, indices[:n_indices], packed[:n_packed])
