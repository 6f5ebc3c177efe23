"""What is the 128-bit FNV-1 hash of some bytes?

http://www.isthe.com/chongo/tech/comp/fnv/: multiply by 2^88 + 0x13B modulo 2^128, then exclusive-or the next byte.
"""

import numpy as np
from numba import njit

from app.kernels.arrays import U8

_LOW = np.uint64(0xFFFFFFFF)
_PRIME = np.uint64(0x13B)
_OFFSET_HIGH = np.uint64(0x6C62272E07BB0142)
_OFFSET_LOW = np.uint64(0x62B821756295C58D)


def fnv1_128(data: bytes) -> bytes:
    """Return the hash of ``data``, 16 bytes, big-endian."""
    high, low = _fnv(np.frombuffer(data, np.uint8))
    return int(high).to_bytes(8, "big") + int(low).to_bytes(8, "big")


@njit(nogil=True, cache=True)
def _fnv(data: U8) -> tuple[np.uint64, np.uint64]:
    high, low = _OFFSET_HIGH, _OFFSET_LOW
    for byte in data:
        # The 64-bit low half times the small prime needs 73 bits: multiply its 32-bit halves.
        first = (low & _LOW) * _PRIME
        second = (low >> np.uint64(32)) * _PRIME + (first >> np.uint64(32))
        shifted = low << np.uint64(24)  # the low half times 2^88, as far as 128 bits go
        high = high * _PRIME + (second >> np.uint64(32)) + shifted
        low = (second << np.uint64(32)) | (first & _LOW)
        low ^= np.uint64(byte)
    return high, low
