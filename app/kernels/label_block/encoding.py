"""How does a volume become a label block?"""

import numpy as np
from numba import njit

from app.kernels.arrays import I32, U8, U64, Int, frozen_c, grown8
from app.kernels.label_block.header import check_shape
from app.kernels.packed import pack_sub, width_of
from app.kernels.words import put16, put32, put64


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
def encode_any(vol: U64) -> U8:
    """Compress a volume, C order, whose sides are any multiples of 8."""
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
                    pack_sub(values, w, packed, n_packed)
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
