"""What is worth looking at in a segmentation: cells to show, one to cut in two, two to join, and where to stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

#: So many cells have surfaces and colours of their own.
SHOWN = 12
#: None of them has more than this part of the volume: in space it would hide the others.
LARGEST = 0.02
#: Nor are larger cells than this edited.
LARGEST_EDITED = 0.05


@dataclass
class Scene:
    """Labels and a point, x, y, z in voxels. `merged` are two neighbours, the first of which swallows the other."""

    shown: list[int]
    split: int
    merged: tuple[int, int]
    position: tuple[int, int, int]


def choose(labels: U64) -> Scene:
    """A scene around the largest cell in the middle of the volume."""
    middle = labels.shape[0] // 2
    plane = labels[middle]
    height, width = plane.shape
    window = plane[height // 5 : -(height // 5), width // 5 : -(width // 5)]
    sizes = dict(zip(*np.unique(labels[::2, ::2, ::2], return_counts=True), strict=True))
    ids, areas = np.unique(window[window != 0], return_counts=True)
    # Large in the plane and in space, but not so large that it is everywhere.
    bounded = [label for label in ids if sizes.get(label, 0) < LARGEST_EDITED * labels.size / 8]
    if len(bounded) > 3:
        kept = np.isin(ids, bounded)
        ids, areas = ids[kept], areas[kept]
    order = ids[np.argsort([-area * sizes.get(label, 0) ** 0.5 for label, area in zip(ids, areas, strict=True)])]
    split = int(order[0])
    merged = _neighbours(window, split, order[:14])
    limit = LARGEST * labels.size / 8
    rest = [int(label) for label in order if sizes.get(label, 0) < limit]
    shown = list(dict.fromkeys([split, *merged, *rest]))[:SHOWN]
    places = np.argwhere(plane == split)
    y, x = places[np.linalg.norm(places - places.mean(axis=0), axis=1).argmin()]
    return Scene(shown, split, merged, (int(x), int(y), middle))


def _neighbours(plane: U64, besides: int, candidates: U64) -> tuple[int, int]:
    """The two candidates with the longest common wall in a plane."""
    pairs = []
    # Cells touch, or lie on both sides of a thin background.
    for step in (1, 4):
        for a, b in ((plane[:, :-step], plane[:, step:]), (plane[:-step], plane[step:])):
            near = (a != b) & np.isin(a, candidates) & np.isin(b, candidates) & (a != besides) & (b != besides)
            pairs.append(np.sort(np.stack([a[near], b[near]], axis=1), axis=1))
    found, counts = np.unique(np.concatenate(pairs), axis=0, return_counts=True)
    if not len(found):
        return int(candidates[-1]), int(candidates[-1])
    first, second = found[counts.argmax()]
    return int(first), int(second)


def halves(places: npt.NDArray[np.intp], through: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Which of a cell's voxels (z, y, x) lie on the one side of a cut across its length, through a point."""
    around = places - through
    _, axes = np.linalg.eigh(np.cov(around[:: max(1, len(around) // 5000)].T))
    side: npt.NDArray[np.bool_] = around @ axes[:, -1] > 0
    return side
