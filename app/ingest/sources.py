"""Volumes that can be ingested, each behind one face: shape, type, voxels of a box in z, y, x.

zarr (2, 3), n5, precomputed   any URL that TensorStore opens, or a folder
file.h5:/dataset               HDF5
folder, file.tif               a stack of TIFF images, or one file with many pages
file.npy, file.npz:name        numpy

The files may be objects of a bucket (gs://, s3://), from where they are copied first.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from app.backends import objects
from app.core.errors import Invalid
from app.core.geometry import Box, Triple
from app.ingest import tensorstores, tiffs

Array = npt.NDArray[Any]

TIFF_SUFFIXES = (".tif", ".tiff")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")


class Volume(Protocol):
    """An array that is read in parts."""

    @property
    def shape(self) -> Sequence[int]:
        """Its extent along each of its own axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a voxel."""

    def read(self, slices: tuple[slice, ...]) -> Array:
        """A part of it; may be called from several threads."""


@dataclass(frozen=True)
class Source:
    """A volume turned to z, y, x. `offset` and `voxel_size` (nanometres) are x, y, z, None where it does not say."""

    name: str
    volume: Volume
    #: Which axis of the volume is z, y and x; all others have one element.
    axes: Triple
    offset: Triple | None = None
    voxel_size: tuple[float, float, float] | None = None

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        z, y, x = (int(self.volume.shape[axis]) for axis in self.axes)
        return z, y, x

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a voxel."""
        return self.volume.dtype

    def read(self, box: Box) -> Array:
        """The voxels of a box, z, y, x."""
        slices = [slice(0, 1)] * len(self.volume.shape)
        for axis, part in zip(self.axes, box.slices(), strict=True):
            slices[axis] = part
        found = self.volume.read(tuple(slices))
        order = [*self.axes, *(axis for axis in range(found.ndim) if axis not in self.axes)]
        return found.transpose(order).reshape(box.shape)


def open_source(text: str, axes: str | None = None) -> Source:
    """The volume that a command line names. `axes` (`zyx` or `xyz`) is for those that do not say their order."""
    try:
        return _open(text, axes)
    except ImportError as error:
        raise Invalid(f"{text}: {error.name} is missing; install dvid-cloud[ingest]") from None
    except (OSError, ValueError, KeyError, LookupError, NotImplementedError) as error:
        reason = str(error).split(" [", 1)[0].replace("\n", " ")
        raise Invalid(f"cannot open {text}: {reason[:300]}") from error


def _open(text: str, axes: str | None) -> Source:
    if objects.is_remote(text) and _is_file(text):
        # TensorStore reads volumes of a bucket in place; other files are copied first, and go when the process does.
        folder = tempfile.TemporaryDirectory(prefix="dvid-cloud-")
        atexit.register(folder.cleanup)
        text = str(objects.copy_to(text, Path(folder.name)))
    path, _, inner = text.rpartition(":") if _names_part(text) else (text, "", "")
    suffix = os.path.splitext(path)[1].lower()
    is_local = "://" not in text and "|" not in text
    if is_local and not os.path.exists(path):
        raise Invalid(f"{path} does not exist")
    if is_local and suffix in HDF5_SUFFIXES:
        return _source(text, _Hdf5(path, inner), axes or "zyx")
    if is_local and suffix in (".npy", ".npz"):
        return _source(text, _Numpy(_load(path, inner)), axes or "zyx")
    if is_local and (suffix in TIFF_SUFFIXES or _is_stack(Path(path))):
        return _source(text, tiffs.Stack(Path(path)), axes or "zyx")
    array = tensorstores.open_array(os.path.abspath(text) + "/" if is_local else text)
    return _source(text, array, axes or array.order, array.offset, array.voxel_size, array.labels)


def of_array(name: str, array: Array) -> Source:
    """A source that is in memory already, z, y, x."""
    return _source(name, _Numpy(array), "zyx")


def _names_part(text: str) -> bool:
    """Whether a path has the name of a data set in the file behind it, after a colon."""
    return "://" not in text and ":" in text and not os.path.exists(text)


def _is_file(url: str) -> bool:
    """Whether a URL names a file of a format that TensorStore does not read."""
    suffix = os.path.splitext(urlsplit(url).path.rstrip("/"))[1].lower()
    return suffix in (*HDF5_SUFFIXES, *TIFF_SUFFIXES, ".npy", ".npz")


def _is_stack(path: Path) -> bool:
    return path.is_dir() and any(name.suffix.lower() in TIFF_SUFFIXES for name in path.iterdir())


def _source(
    name: str,
    volume: Volume,
    order: str,
    offset: Sequence[int] | None = None,
    voxel_size: Sequence[float] | None = None,
    labels: Sequence[str] = (),
) -> Source:
    shape = [int(side) for side in volume.shape]
    if all(axis in labels for axis in "xyz"):
        axes = [list(labels).index(axis) for axis in "zyx"]
    else:
        if sorted(order) != ["x", "y", "z"]:
            raise Invalid(f"the axes {order!r} are neither zyx nor xyz")
        # Axes of one element (time, channel) may stand at either end; a volume of one plane keeps its own.
        spare = len(shape) - 3
        first = next((start for start in range(spare + 1) if _singletons(shape, start)), None)
        if spare < 0 or first is None:
            raise Invalid(f"{name} has the shape {tuple(shape)}; a volume has three axes")
        axes = [first + order.index(axis) for axis in "zyx"]
    if any(side != 1 for axis, side in enumerate(shape) if axis not in axes):
        raise Invalid(f"{name} has the shape {tuple(shape)}; only one channel can be ingested")
    z, y, x = axes

    def turned(values: Sequence[Any] | None, kind: type) -> Any:
        return None if values is None else tuple(kind(values[axis]) for axis in (x, y, z))

    source = Source(name, volume, (z, y, x), turned(offset, int), turned(voxel_size, float))
    if min(source.shape) < 1:
        raise Invalid(f"{name} is empty: its shape is {tuple(shape)}")
    return source


def _singletons(shape: Sequence[int], start: int) -> bool:
    return all(side == 1 for axis, side in enumerate(shape) if not start <= axis < start + 3)


class _Numpy:
    def __init__(self, array: Array) -> None:
        self._array = array
        self.shape: Sequence[int] = array.shape
        self.dtype = array.dtype

    def read(self, slices: tuple[slice, ...]) -> Array:
        return np.array(self._array[slices])


def _load(path: str, name: str) -> Array:
    """An array of a file: mapped if it is alone in it, read if it is one of several."""
    if path.lower().endswith(".npy"):
        found: Array = np.load(path, mmap_mode="r")
        return found
    with np.load(path) as file:
        names = [other for other in file.files if not name or other == name]
        if len(names) != 1:
            raise Invalid(f"{path} holds {', '.join(file.files)}: name one as {os.path.basename(path)}:{file.files[0]}")
        chosen: Array = file[names[0]]
        return chosen


class _Hdf5:
    """A data set of an HDF5 file. The library lets one thread in at a time."""

    def __init__(self, path: str, name: str) -> None:
        import h5py

        file = h5py.File(path, "r")
        if not name:
            found: list[str] = []
            file.visititems(lambda key, item: found.append(key) if isinstance(item, h5py.Dataset) else None)
            if len(found) != 1:
                raise Invalid(
                    f"{path} holds {', '.join(found) or 'nothing'}: name one as {os.path.basename(path)}:/name"
                )
            name = found[0]
        if name not in file or not isinstance(file[name], h5py.Dataset):
            raise Invalid(f"{path} holds no data set {name!r}")
        self._dataset = file[name]
        self.shape: Sequence[int] = self._dataset.shape
        self.dtype: np.dtype[Any] = self._dataset.dtype

    def read(self, slices: tuple[slice, ...]) -> Array:
        return np.asarray(self._dataset[slices])
