"""The types of image voxels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.geometry import Triple
from app.datatypes import voxels
from app.versioning.datastore import Data

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """A datatype's voxels. Four bytes of colour are one number, as long as nobody computes with them."""

    typename: str
    source: str
    version: str
    dtype: np.dtype[Any]
    values: tuple[tuple[str, str], ...]

    @property
    def is_color(self) -> bool:
        """Whether a voxel is red, green, blue and alpha."""
        return len(self.values) > 1


def _plain(name: str, version: str = "0.1") -> Kind:
    return Kind(f"{name}blk", name, version, np.dtype(name).newbyteorder("<"), ((name, name),))


KINDS = [
    _plain("uint8", "0.2"),
    _plain("uint16"),
    _plain("uint32"),
    _plain("uint64"),
    _plain("float32"),
    Kind("rgba8blk", "rgba8", "0.2", np.dtype("<u4"), tuple(("uint8", c) for c in ("red", "green", "blue", "alpha"))),
]
BY_NAME: Mapping[str, Kind] = {kind.typename: kind for kind in KINDS}


@dataclass(frozen=True)
class Image:
    """What reading and writing must know of an instance."""

    kind: Kind
    block: Triple
    compression: str
    background: int
    #: The URL of a published volume, or nothing.
    source: str

    @property
    def block_bytes(self) -> int:
        """The size of an uncompressed block."""
        z, y, x = self.block
        return z * y * x * self.kind.dtype.itemsize


def image_of(data: Data) -> Image:
    """The properties of an instance."""
    instance = data.instance
    given = instance.settings
    return Image(
        BY_NAME[instance.typename],
        voxels.block_shape(data),
        instance.compression,
        given["background"],
        given.get("source", ""),
    )
