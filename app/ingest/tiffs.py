"""Stacks of TIFF images: a folder with one plane in each file (in the order of their names), or one file of pages."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid

Array = npt.NDArray[Any]

#: Decoded planes are kept up to so many bytes: neighbouring slabs need the same ones.
CACHE_BYTES = 512 << 20


class Stack:
    """Planes z of images y, x, decoded when they are needed."""

    def __init__(self, path: Path) -> None:
        import tifffile

        self._planes: list[Callable[[], Array]] = []
        if path.is_dir():
            names = sorted((name for name in path.iterdir() if name.suffix.lower() in (".tif", ".tiff")), key=_natural)
            for name in names:
                self._planes.append(lambda name=name: tifffile.imread(name))  # type: ignore[misc]
            with tifffile.TiffFile(names[0]) as first:
                page = first.pages[0]
        else:
            file = tifffile.TiffFile(path)
            page = file.pages[0]
            reading = threading.Lock()  # all pages share the file's position

            def plane(index: int) -> Array:
                with reading:
                    return np.asarray(file.pages[index].asarray())

            self._planes = [lambda index=index: plane(index) for index in range(len(file.pages))]  # type: ignore[misc]
        if len(page.shape) != 2:
            raise Invalid(f"{path}: images of the shape {page.shape} are not planes of one channel")
        self.shape = (len(self._planes), *page.shape)
        self.dtype: np.dtype[Any] = np.dtype(page.dtype).newbyteorder("=")
        self._kept: OrderedDict[int, Array] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, slices: tuple[slice, ...]) -> Array:
        """A part of the stack."""
        z, y, x = slices
        return np.stack([self._plane(index)[y, x] for index in range(*z.indices(self.shape[0]))])

    def _plane(self, index: int) -> Array:
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
        plane = np.squeeze(self._planes[index]())
        if plane.shape != self.shape[1:] or plane.dtype.newbyteorder("=") != self.dtype:
            raise Invalid(f"plane {index} is {plane.dtype} {plane.shape}, the first is {self.dtype} {self.shape[1:]}")
        with self._lock:
            self._kept[index] = plane
            while len(self._kept) > 1 and len(self._kept) * plane.nbytes > CACHE_BYTES:
                self._kept.popitem(last=False)
        return plane


def _natural(path: Path) -> list[Any]:
    """A key that sorts `z9` before `z10`."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if part.isdigit() else part for part in parts]
