"""Is a label block well-formed, to the byte?"""

import numpy as np
from numba import njit

from app.kernels.arrays import U8, Int, Shape, frozen_c, xyz
from app.kernels.label_block.header import header, shape
from app.kernels.packed import unpack_sub, width_of
from app.kernels.words import get16, get32


def check(data: U8, shape_zyx: Shape | None = None) -> None:
    """Raise ValueError unless ``data`` (uint8, 1-D) is one well-formed block, of ``shape_zyx`` if given.

    Everything the other functions rely on is looked at: the sides, the length to the byte, the number of
    labels of each sub-block, each index into the header list and each packed value.
    """
    data = frozen_c(data, np.uint8, 1, "label block")
    found = shape(data)
    if shape_zyx is not None and found != tuple(shape_zyx):
        raise ValueError(f"label block is {xyz(found)} voxels (x, y, z), not {xyz(shape_zyx)}")
    gz, gy, gx, n = header(data)
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
