"""What the demo shows: synthetic tissue, or arrays `em` and `labels` of a .npz file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid
from app.demo import tissue
from app.demo.made import name_of

SHAPE = (256, 256, 256)
VoxelSize = tuple[float, float, float]


@dataclass
class Sample:
    """An image (uint8), or labels (uint64), or both of the same shape z, y, x; nanometres of a voxel x, y, z."""

    name: str
    em: npt.NDArray[np.uint8] | None
    labels: npt.NDArray[np.uint64] | None
    voxel_size: VoxelSize

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        array = self.em if self.labels is None else self.labels
        assert array is not None
        z, y, x = array.shape
        return z, y, x


def load(path: Path | None, voxel_size: VoxelSize, shape: tuple[int, int, int] = SHAPE) -> Sample:
    """The sample of a file; without a file, the synthetic one in this shape."""
    if path is None:
        made = tissue.make(shape)
        return Sample(name_of(path), made.em, made.labels, voxel_size)
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("em", "labels", "membrane") if name in file.files}
    except (OSError, ValueError) as error:
        raise Invalid(f"cannot read {path}: {error}") from error
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(shapes.pop()) != 3:
        raise Invalid(f"{path} must hold arrays em and labels, or one of them, of one shape z, y, x")
    em, labels = arrays.get("em"), arrays.get("labels")
    if labels is None and "membrane" in arrays:
        labels = profiles(arrays["membrane"] > 0)
    if em is not None and em.dtype != np.uint8:
        raise Invalid(f"{path}: em must be uint8, not {em.dtype}")
    if labels is not None and labels.dtype.kind not in "ui":
        raise Invalid(f"{path}: labels must be integers, not {labels.dtype}")
    return Sample(name_of(path), em, None if labels is None else labels.astype(np.uint64), voxel_size)


def profiles(inside: npt.NDArray[np.bool_], least: int = 200) -> npt.NDArray[np.uint64]:
    """Cells from a mask of what is no membrane: pieces of each plane, joined to the piece below that they most cover.

    Crude, but something to look at where nobody has segmented a sample.
    """
    labels = np.zeros(inside.shape, np.uint64)
    given = 0
    for z, plane in enumerate(inside):
        pieces = _pieces(plane)
        sizes = np.bincount(pieces.ravel())
        for piece in np.flatnonzero(sizes >= least):
            if piece == 0:
                continue
            here = pieces == piece
            below = labels[z - 1][here] if z else np.zeros(0, np.uint64)
            ids, counts = np.unique(below[below != 0], return_counts=True)
            if len(ids) and counts.max() > 0.5 * sizes[piece]:
                labels[z][here] = ids[counts.argmax()]
            else:
                given += 1
                labels[z][here] = given
    return labels


def _pieces(plane: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Connected pieces of a plane, numbered from 1: runs of each row, joined where they touch the row above."""
    edges = np.diff(np.pad(plane.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    parents = list(range(len(rows)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = parents[parents[run]]
            run = parents[run]
        return run

    firsts = np.searchsorted(rows, np.arange(plane.shape[0] + 1))
    for row in range(1, plane.shape[0]):
        above, run = int(firsts[row - 1]), int(firsts[row])
        while above < firsts[row] and run < firsts[row + 1]:
            if starts[above] < stops[run] and starts[run] < stops[above]:
                parents[root(run)] = root(above)
            if stops[above] < stops[run]:
                above += 1
            else:
                run += 1
    _, numbers = np.unique([root(run) for run in range(len(rows))], return_inverse=True)
    pieces = np.zeros(plane.shape, np.int64)
    for at, start, stop, number in zip(rows, starts, stops, numbers, strict=True):
        pieces[at, start:stop] = number + 1
    return pieces
