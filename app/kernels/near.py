"""Which blocks of two bodies are near each other?

Places are int64 (n, 3) of z, y, x, sorted and distinct. Distances are between centres of voxels, in the units of
``voxel_zyx``; two blocks are as far apart as their nearest voxels could be. Both searches go down a pyramid of cells,
each of which holds the cells of the level below, and look only at pairs of cells that can matter.
"""

import numpy as np
import numpy.typing as npt

from app.kernels.arrays import I64, Shape

F64 = npt.NDArray[np.float64]
Size = tuple[float, float, float]

MOST_PAIRS = 1 << 22
"""Pairs of cells looked at together; more of them are refused."""


class _Pyramid:
    """The cells of each level that hold places, and for each the range of its cells in the level below."""

    def __init__(self, places: I64, levels: int) -> None:
        self.cells, self.firsts = [places], [np.empty(0, np.int64)]
        self.orders = [np.empty(0, np.int64)]
        for _ in range(levels):
            above, inverse = np.unique(self.cells[-1] >> 1, axis=0, return_inverse=True)
            order = np.argsort(inverse.ravel(), kind="stable")
            self.cells.append(above)
            self.orders.append(order)
            self.firsts.append(np.searchsorted(inverse.ravel()[order], np.arange(len(above) + 1)))

    def counts(self, level: int, cells: I64) -> I64:
        firsts = self.firsts[level]
        counted: I64 = firsts[cells + 1] - firsts[cells]
        return counted

    def child(self, level: int, cells: I64, number: I64) -> I64:
        """The place in the level below of each cell's child of this number."""
        below: I64 = self.orders[level][self.firsts[level][cells] + number]
        return below


def gap(first: I64, second: I64, shape_zyx: Shape, voxel_zyx: Size) -> float:
    """Return how far the nearest two blocks of two bodies are apart. ValueError if there are too many to look at."""
    search = _Search(first, second, shape_zyx, voxel_zyx)
    ours, theirs = search.top()
    for level in range(search.levels, -1, -1):
        nearest, farthest = search.distances(level, ours, theirs)
        keep = nearest <= farthest.min()
        ours, theirs = ours[keep], theirs[keep]
        if level:
            ours, theirs = search.below(level, ours, theirs)
    return float(nearest.min())


def pairs_within(first: I64, second: I64, shape_zyx: Shape, voxel_zyx: Size, reach: float) -> tuple[I64, I64, F64]:
    """Return the pairs of blocks at most ``reach`` apart: places in both lists (int64) and distances, nearest first.

    ValueError if there are too many.
    """
    search = _Search(first, second, shape_zyx, voxel_zyx)
    ours, theirs = search.top()
    for level in range(search.levels, -1, -1):
        nearest, _ = search.distances(level, ours, theirs)
        keep = nearest <= reach
        ours, theirs, nearest = ours[keep], theirs[keep], nearest[keep]
        if level:
            ours, theirs = search.below(level, ours, theirs)
    order = np.argsort(nearest, kind="stable")
    return ours[order], theirs[order], nearest[order]


class _Search:
    def __init__(self, first: I64, second: I64, shape_zyx: Shape, voxel_zyx: Size) -> None:
        both = np.concatenate([first, second])
        extent = int((both.max(axis=0) - both.min(axis=0)).max())
        self.levels = extent.bit_length() + 1
        self._first, self._second = _Pyramid(first, self.levels), _Pyramid(second, self.levels)
        self._shape, self._voxel = np.array(shape_zyx), np.array(voxel_zyx)

    def top(self) -> tuple[I64, I64]:
        """All pairs of cells of the highest level."""
        ours, theirs = len(self._first.cells[-1]), len(self._second.cells[-1])
        return np.repeat(np.arange(ours), theirs), np.tile(np.arange(theirs), ours)

    def distances(self, level: int, ours: I64, theirs: I64) -> tuple[F64, F64]:
        """The least and the greatest distance that voxels of each pair of cells can have."""
        side = self._shape << level
        a, b = self._first.cells[level][ours] * side, self._second.cells[level][theirs] * side
        nearest = np.maximum(np.maximum(b - a, a - b) - side + 1, 0) * self._voxel
        farthest = (np.maximum(b - a, a - b) + side - 1) * self._voxel
        return np.sqrt((nearest**2).sum(axis=1)), np.sqrt((farthest**2).sum(axis=1))

    def below(self, level: int, ours: I64, theirs: I64) -> tuple[I64, I64]:
        """All pairs of cells in the pairs of cells of a level."""
        many, more = self._first.counts(level, ours), self._second.counts(level, theirs)
        total = int((many * more).sum())
        if total > MOST_PAIRS:
            raise ValueError(f"{total} pairs of blocks are near each other; at most {MOST_PAIRS} are looked at")
        pair = np.repeat(np.arange(len(ours)), many * more)
        number = np.arange(total) - np.repeat(np.cumsum(many * more) - many * more, many * more)
        return (
            self._first.child(level, ours[pair], number // more[pair]),
            self._second.child(level, theirs[pair], number % more[pair]),
        )
