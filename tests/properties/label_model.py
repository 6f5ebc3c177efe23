"""Bodies as a dense array and a dictionary: what a labelmap must answer, computed the plain way."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Place = tuple[int, int, int]

BLOCK = 16


def halved(volume: U64) -> U64:
    """The next scale by the rule as it is written down: most frequent label but 0, smallest of equals, else 0."""
    z, y, x = (side // 2 for side in volume.shape)
    cells = volume.reshape(z, 2, y, 2, x, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 8)
    out = np.zeros(len(cells), np.uint64)
    mixed = (cells != cells[:, :1]).any(axis=1)
    out[~mixed] = cells[~mixed, 0]
    for at in np.flatnonzero(mixed):
        counted = Counter(label for label in cells[at].tolist() if label)
        most = max(counted.values())
        out[at] = min(label for label, number in counted.items() if number == most)
    return out.reshape(z, y, x)


@dataclass
class Model:
    """One version: supervoxels of all voxels (z, y, x), and the bodies of those that an edit touched."""

    voxels: U64
    bodies: dict[int, int] = field(default_factory=dict)
    changes: dict[int, str] = field(default_factory=dict)
    edits: int = 0
    splits: list[tuple[int, int, int]] = field(default_factory=list)

    def copy(self) -> Model:
        return copy.deepcopy(self)

    # ------------------------------------------------------------ what is there

    def body_of(self, supervoxel: int) -> int:
        return self.bodies.get(supervoxel, supervoxel)

    def sizes(self) -> dict[int, int]:
        """Voxels of each supervoxel."""
        labels, numbers = np.unique(self.voxels, return_counts=True)
        return {label: number for label, number in zip(labels.tolist(), numbers.tolist(), strict=True) if label}

    def members(self, body: int) -> list[int]:
        """Supervoxels of a body that have voxels."""
        return [label for label in self.sizes() if self.body_of(label) == body]

    def all_bodies(self) -> dict[int, int]:
        """Bodies and their voxels."""
        found: Counter[int] = Counter()
        for label, number in self.sizes().items():
            found[self.body_of(label)] += number
        found.pop(0, None)
        return dict(found)

    def shown(self) -> U64:
        """The body of every voxel."""
        labels, inverse = np.unique(self.voxels, return_inverse=True)
        table = np.array([self.body_of(label) for label in labels.tolist()], np.uint64)
        return table[inverse].reshape(self.voxels.shape)

    # ------------------------------------------------------------ what is done

    def paint(self, start: Place, labels: U64) -> None:
        z, y, x = start
        old = self.voxels[z : z + labels.shape[0], y : y + labels.shape[1], x : x + labels.shape[2]]
        appearing = set(np.unique(labels).tolist()) - {0}
        changed = np.unique(labels[(labels != old)]).tolist()
        old[:] = labels
        for label in appearing & set(changed):
            if self.bodies.get(label) == 0:  # a retired number that is painted again is a supervoxel again
                del self.bodies[label]

    def _mapped_to(self, body: int) -> list[int]:
        own = [body] if body not in self.bodies and body in self.sizes() else []
        return [label for label, of in self.bodies.items() if of == body] + own

    def merge(self, target: int, others: list[int], who: str) -> None:
        for other in others:
            for label in self._mapped_to(other):
                self.bodies[label] = target
            self.changes.pop(other, None)
        self.changes[target] = who
        self.edits += 1

    def cleave(self, body: int, supervoxels: list[int], new: int, who: str) -> None:
        self.bodies.setdefault(new, 0)
        for label in supervoxels:
            self.bodies[label] = new
        self.changes[body] = self.changes[new] = who
        self.edits += 1

    def renumber(self, old: int, new: int, who: str) -> None:
        moved = self._mapped_to(old)
        self.bodies.setdefault(new, 0)
        for label in moved:
            self.bodies[label] = new
        self.changes.pop(old, None)
        self.changes[new] = who
        self.edits += 1

    def split_supervoxel(self, old: int, inside: npt.NDArray[np.bool_], split: int, remain: int) -> int:
        """Give both parts new numbers; the body."""
        body = self.body_of(old)
        mine = self.voxels == old
        self.voxels[mine & inside] = split
        self.voxels[mine & ~inside] = remain
        self.bodies[old] = 0
        self.bodies[split] = self.bodies[remain] = body
        self.splits.append((old, remain, split))
        return body

    def order_met(self, inside: npt.NDArray[np.bool_]) -> list[int]:
        """The supervoxels that voxels meet, block by block in z, y, x, then in z, y, x."""
        met: dict[int, None] = {}
        for z in range(0, inside.shape[0], BLOCK):
            for y in range(0, inside.shape[1], BLOCK):
                for x in range(0, inside.shape[2], BLOCK):
                    part = np.s_[z : z + BLOCK, y : y + BLOCK, x : x + BLOCK]
                    met.update(dict.fromkeys(self.voxels[part][inside[part]].tolist()))
        met.pop(0, None)
        return list(met)


def runs_of(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """A mask (z, y, x) as runs x, y, z, length in z, y, x order."""
    padded = np.pad(mask, ((0, 0), (0, 0), (1, 1))).astype(np.int8)
    edges = np.diff(padded, axis=2)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return np.stack([starts[:, 2], starts[:, 1], starts[:, 0], ends[:, 2] - starts[:, 2]], axis=1).astype(np.int32)


def mask_of(runs: npt.NDArray[np.int32], shape: Place) -> npt.NDArray[np.bool_]:
    """The inverse of `runs_of`."""
    mask = np.zeros(shape, bool)
    for x, y, z, length in runs.tolist():
        assert not mask[z, y, x : x + length].any(), "a voxel is in two runs"
        mask[z, y, x : x + length] = True
    return mask
