"""Are the coarser scales what the finer ones reduce to?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from app.core.errors import StoreUnavailable
from app.core.geometry import Triple
from app.core.work import Workers
from app.datatypes.labelmap import blocks, keys
from app.datatypes.labelmap.checks import recount
from app.datatypes.labelmap.checks.recount import I32
from app.datatypes.labelmap.checks.report import Report
from app.datatypes.labelmap.keys import U64
from app.kernels import downres, label_block
from app.versioning.snapshot import Snapshot

#: Coarser blocks compared together; each may need eight finer ones.
TOGETHER = 32
Part = tuple[Triple, bytes]


async def check(
    snapshot: Snapshot,
    places: list[I32],
    shape: Triple,
    workers: Workers,
    report: Report,
    advance: Callable[[int], None],
) -> None:
    """Compare each scale with the one below. `places` are the stored blocks of every scale, from scale 0 on.

    Differences are notes: a client may have written scales on its own, or asked for none.
    """
    for scale, (finer, coarser) in enumerate(pairwise(places), 1):
        everywhere = np.unique(np.concatenate([finer >> 1, coarser]), axis=0)
        for start in range(0, len(everywhere), TOGETHER):
            some: list[Triple] = [(z, y, x) for z, y, x in everywhere[start : start + TOGETHER].tolist()]
            stored = await snapshot.read([keys.block(scale, zyx) for zyx in some])
            parts = await _parts(snapshot, scale - 1, [child for zyx in some for child in _children(zyx)])
            items: list[tuple[object, ...]] = [
                (shape, value, parts[zyx]) for zyx, value in zip(some, stored, strict=True)
            ]
            for (z, y, x), value, off in zip(some, stored, await workers.map(compared, items), strict=True):
                if off:
                    report.note("scales", scale=scale, block=[x, y, z], voxels=off, stored=value is not None)
            advance(sum(value is not None for value in stored))


def _children(zyx: Triple) -> list[Triple]:
    z, y, x = (2 * a for a in zyx)
    return [(z + dz, y + dy, x + dx) for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)]


async def _parts(snapshot: Snapshot, scale: int, children: list[Triple]) -> dict[Triple, list[Part]]:
    """The stored children of coarser blocks, with their octants."""
    found: dict[Triple, list[Part]] = defaultdict(list)
    stored = await snapshot.read([keys.block(scale, child) for child in children])
    for (z, y, x), value in zip(children, stored, strict=True):
        if value is not None:
            found[z >> 1, y >> 1, x >> 1].append(((z & 1, y & 1, x & 1), value))
    return found


def compared(shape: Triple, stored: bytes | None, parts: list[Part]) -> int:
    """How many voxels of a block differ from what its children reduce to; all of them if it cannot be read."""
    wanted = np.zeros(shape, np.uint64)
    half = [side // 2 for side in shape]
    try:
        for octant, value in parts:
            corner = [at * side for at, side in zip(octant, half, strict=True)]
            wanted[tuple(slice(a, a + b) for a, b in zip(corner, half, strict=True))] = downres.halve(
                _dense(value, shape)
            )
        present = np.zeros(shape, np.uint64) if stored is None else _dense(stored, shape)
    except (StoreUnavailable, ValueError):
        return wanted.size
    return int(np.count_nonzero(wanted != present))


def _dense(stored: bytes, shape: Triple) -> U64:
    block = blocks.unpack(stored)
    label_block.check(block, shape)
    dense = np.empty(shape, np.uint64)
    label_block.decode(block, dense)
    return dense


async def stored_places(snapshot: Snapshot, planes: tuple[int, int] | None, most: int) -> list[I32]:
    """The blocks that are stored at every scale from 0 to the largest allowed."""
    return [
        await recount.places(snapshot, scale, None if planes is None else (planes[0] >> scale, planes[1] >> scale))
        for scale in range(most + 1)
    ]
