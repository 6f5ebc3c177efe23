"""Which blocks of supervoxels a mutation wrote, for data that are derived from the voxels.

A record of the log that changes voxels of scale 0 names their blocks: a gzip of little-endian int32 rows z, y, x.
Merges, cleaves and mappings write no voxels, so they name none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.core.geometry import Triple
from app.formats import compression
from app.versioning import log
from app.versioning.snapshot import Reader

I64 = npt.NDArray[np.int64]

_MOST_BYTES = 1 << 31


def encode(zyxs: Sequence[Triple]) -> bytes:
    """What a record says of blocks that were written, or will be by the same transaction."""
    if not zyxs:
        return b""
    return compression.gzip(np.array(zyxs, "<i4").data.cast("B"))


async def between(reader: Reader, after: int, last: int) -> I64:
    """The blocks written after one record up to and with another: int64 (n, 3) as z, y, x, each once."""
    found = [
        np.frombuffer(compression.ungzip(value, _MOST_BYTES), "<i4").reshape(-1, 3)
        for value in await log.touched(reader, after, last)
    ]
    if not found:
        return np.empty((0, 3), np.int64)
    return np.unique(np.concatenate(found), axis=0).astype(np.int64)
