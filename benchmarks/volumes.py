"""The voxels that are posted, read and checked: real data where there are some, synthetic ones elsewhere."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
from numpy.typing import NDArray

EDGE = 512
SLAB = 64
SEED = 20130501
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


class Volume:
    """A cube of labels and one of grey values, each made when first used; axes are z, y, x."""

    def __init__(self, path: Path | None = None, folder: Path = DATA, edge: int = EDGE) -> None:
        self.edge = edge
        self._labels_from = _holding("labels", path, folder / "connectomics-512.npz")
        self._grey_from = _holding("em", path, folder / "flyem-250.npz")

    @property
    def label_source(self) -> str:
        return self._labels_from.name if self._labels_from else "synthetic"

    @property
    def grey_source(self) -> str:
        return self._grey_from.name if self._grey_from else "synthetic"

    @cached_property
    def labels(self) -> NDArray[np.unsignedinteger]:
        if self._labels_from is None:
            return synthetic_labels(self.edge)
        return to_cube(_load(self._labels_from, "labels"), self.edge)

    @cached_property
    def grey(self) -> NDArray[np.uint8]:
        if self._grey_from is None:
            return synthetic_grey(self.edge)
        return to_cube(_load(self._grey_from, "em"), self.edge).astype(np.uint8, copy=False)

    @cached_property
    def label_slabs(self) -> list[bytes]:
        """The labels as LZ4 blocks of uint64, `SLAB` planes each."""
        slabs = (self.labels[z : z + SLAB].astype(np.uint64) for z in range(0, self.edge, SLAB))
        return [lz4.block.compress(flat(slab), store_size=False) for slab in slabs]

    @cached_property
    def sizes(self) -> dict[int, int]:
        """Voxels of every label but the background."""
        sizes: dict[int, int] = {}
        for z in range(0, self.edge, SLAB):
            labels, counts = np.unique(self.labels[z : z + SLAB], return_counts=True)
            for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
                sizes[label] = sizes.get(label, 0) + count
        sizes.pop(0, None)
        return sizes

    def label_box(self, x: int, y: int, z: int, size: int) -> NDArray[np.uint64]:
        return self.labels[z : z + size, y : y + size, x : x + size].astype(np.uint64)

    def grey_box(self, x: int, y: int, z: int, size: int) -> NDArray[np.uint8]:
        return self.grey[z : z + size, y : y + size, x : x + size]


def flat(array: NDArray[Any]) -> memoryview:
    """See a contiguous array as its bytes, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _holding(name: str, given: Path | None, default: Path) -> Path | None:
    """Return the file that has the array: the one given, else the default, else none."""
    if given is not None:
        with np.load(given) as arrays:
            if name in arrays:
                return given
    return default if default.is_file() else None


def _load(path: Path, name: str) -> NDArray[np.unsignedinteger]:
    with np.load(path) as arrays:
        array: NDArray[np.unsignedinteger] = arrays[name]
    if array.ndim != 3:
        raise ValueError(f"{name} in {path.name} is not a volume")
    return array


def to_cube(array: NDArray[np.unsignedinteger], edge: int) -> NDArray[np.unsignedinteger]:
    """Cut a volume to a cube, or fill the cube up with its mirror images."""
    for axis, size in enumerate(array.shape):
        mirrored = np.arange(edge) % (2 * size)
        array = np.take(array, np.minimum(mirrored, 2 * size - 1 - mirrored), axis) if size != edge else array
    return np.ascontiguousarray(array)


# ---------------------------------------------------------------- synthetic data


def synthetic_labels(edge: int, spacing: int = 40) -> NDArray[np.uint32]:
    """Wavy Voronoi cells with a sprinkle of background and stray ids."""
    rng = np.random.default_rng(SEED)
    coarse = _voronoi(edge // 4 + 4, max(2, spacing // 4), rng)
    out = np.empty((edge, edge, edge), np.uint32)
    y, x = np.mgrid[:edge, :edge]
    for z in range(edge):
        wave = (2 * np.sin(x / 9 + z / 13)).astype(int), (2 * np.sin(y / 11 + z / 7)).astype(int)
        out[z] = coarse[z // 4 + 1, (y + wave[0]) // 4 + 1, (x + wave[1]) // 4 + 1]
    strays = rng.integers(0, edge, (edge**3 // 1000, 3))
    out[tuple(strays.T)] = rng.choice([0, 7, 98_340_797], len(strays))
    return out


def _voronoi(edge: int, spacing: int, rng: np.random.Generator) -> NDArray[np.uint32]:
    """Give every voxel the id of the nearest of one random seed per cell of a grid."""
    cells = edge // spacing + 3
    seeds = rng.random((cells, cells, cells, 3)) * spacing
    ids = rng.permutation(np.arange(1, cells**3 + 1) * 997).astype(np.uint32).reshape(cells, cells, cells)
    grid = np.indices((edge, edge, edge))
    home = grid // spacing
    best = np.full((edge, edge, edge), np.inf)
    out = np.zeros((edge, edge, edge), np.uint32)
    for step in np.ndindex(3, 3, 3):
        cell = tuple(home + np.reshape(step, (3, 1, 1, 1)))
        corner = (home + np.reshape(step, (3, 1, 1, 1)) - 1) * spacing
        distance = ((seeds[cell].transpose(3, 0, 1, 2) + corner - grid) ** 2).sum(0)
        nearer = distance < best
        best[nearer] = distance[nearer]
        out[nearer] = ids[cell][nearer]
    return out


def synthetic_grey(edge: int) -> NDArray[np.uint8]:
    """Slow waves with fine noise: about as compressible as electron microscopy."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:edge, :edge]
    out = np.empty((edge, edge, edge), np.uint8)
    for z in range(edge):
        waves = 128 + 40 * np.sin(x / 17 + z / 23) + 40 * np.cos(y / 13 - z / 31)
        out[z] = np.clip(waves + rng.normal(0, 12, (edge, edge)), 0, 255)
    return out
