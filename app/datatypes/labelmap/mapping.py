"""The mapping from supervoxels to bodies at one version, as a reader of voxels needs it."""

from __future__ import annotations

import numpy as np

from app.datatypes.labelmap import keys
from app.datatypes.labelmap.keys import U64
from app.versioning.snapshot import Snapshot


class Mapping:
    """Supervoxels that are mapped, ascending, and their bodies. A supervoxel that is not listed is its own body.

    `mark` names this state of the mapping: encoded answers are remembered together with it.
    """

    def __init__(self, pairs: U64, mark: bytes) -> None:
        self.supervoxels = np.ascontiguousarray(pairs[:, 0])
        self.bodies = np.ascontiguousarray(pairs[:, 1])
        self.mark = mark

    @property
    def is_empty(self) -> bool:
        """Whether every supervoxel is its own body."""
        return not len(self.supervoxels)

    def apply(self, labels: U64) -> U64:
        """The bodies of supervoxels, an array of any shape; the same object if none of them is mapped."""
        if self.is_empty:
            return labels
        places = np.searchsorted(self.supervoxels, labels)
        places[places == len(self.supervoxels)] = 0
        hits = self.supervoxels[places] == labels
        if not hits.any():
            return labels
        bodies: U64 = np.where(hits, self.bodies[places], labels)
        return bodies

    def is_mapped(self, labels: U64) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Which supervoxels have an entry."""
        if self.is_empty:
            return np.zeros(labels.shape, bool)
        places = np.searchsorted(self.supervoxels, labels)
        places[places == len(self.supervoxels)] = 0
        found: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = self.supervoxels[places] == labels
        return found

    def pairs(self) -> U64:
        """Rows supervoxel, body, without those that map to themselves."""
        rows: U64 = np.stack([self.supervoxels, self.bodies], axis=1)
        changing: U64 = rows[self.supervoxels != self.bodies]
        return changing


#: For reads of supervoxels: nothing is mapped.
IDENTITY = Mapping(np.empty((0, 2), np.uint64), b"")


async def load(snapshot: Snapshot) -> Mapping:
    """The mapping of a snapshot; remembered until an edit changes it."""
    mark = await snapshot.get(keys.MAPPING_MARK)
    if mark is None:
        return IDENTITY
    known: Mapping | None = snapshot.recall(keys.MAPPING_MARK, "mapping")
    if known is not None and known.mark == mark:
        return known
    pairs = keys.pairs(await snapshot.keys(*keys.mapping()))
    loaded = Mapping(pairs, mark)
    snapshot.remember(keys.MAPPING_MARK, "mapping", loaded, 16 * len(pairs))
    return loaded
