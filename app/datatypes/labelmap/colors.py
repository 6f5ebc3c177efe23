"""A colour for each label: the first three bytes of its MurmurHash3, as DVID shows labels.

Algorithm: MurmurHash3_x86_32 by Austin Appleby (public domain), seed 0, over the label's eight little-endian bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U32 = npt.NDArray[np.uint32]


def murmur(labels: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Colours of labels: uint8 with one more axis of red, green, blue."""
    unique, inverse = np.unique(labels, return_inverse=True)
    words = np.ascontiguousarray(unique.astype("<u8")).view("<u4").reshape(-1, 2)
    with np.errstate(over="ignore"):
        state = np.zeros(len(unique), np.uint32)
        for column in range(2):
            word = words[:, column].astype(np.uint32) * np.uint32(0xCC9E2D51)
            state ^= _rotate(word, 15) * np.uint32(0x1B873593)
            state = _rotate(state, 13) * np.uint32(5) + np.uint32(0xE6546B64)
        state ^= np.uint32(8)
        state = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        state ^= state >> np.uint32(16)
    colors = state.astype(">u4").view(np.uint8).reshape(-1, 4)[:, :3]
    return np.ascontiguousarray(colors[inverse.reshape(labels.shape)])


def _rotate(words: U32, bits: int) -> U32:
    rotated: U32 = (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))
    return rotated
