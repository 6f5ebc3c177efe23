"""Where an ingest writes: an instance at a version, reached over HTTP or in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from app.core.errors import Invalid
from app.core.geometry import Box, Triple
from app.ingest.progress import Extents
from app.ingest.sources import Source

Array = npt.NDArray[Any]

#: Datatypes of labels, and those of grey values with the type of their voxels.
LABELS = "labelmap"
GREY = {
    "uint8blk": "uint8",
    "uint16blk": "uint16",
    "uint32blk": "uint32",
    "uint64blk": "uint64",
    "float32blk": "float32",
}


class Target(Protocol):
    """An instance at a version. Boxes are of voxels and consist of whole blocks."""

    #: What tells it from all others, also after it was deleted and made anew.
    identity: str
    typename: str
    block: Triple

    async def extents(self) -> Extents | None:
        """First and last voxel x, y, z; None while it is empty."""

    async def read(self, box: Box) -> Array:
        """What is there."""

    async def write(self, box: Box, voxels: Array) -> None:
        """Replace what is there."""

    async def set_extents(self, extents: Extents) -> None:
        """Say where the data really end."""

    async def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True)
class Wanted:
    """What a command asks for, whichever way the data go."""

    repo: str
    instance: str
    version: str
    typename: str
    voxel_size: tuple[float, float, float]
    block_size: int
    max_downres: int
    #: URL of the volume that a new image publishes.
    source: str = ""

    def settings(self) -> dict[str, Any]:
        """The configuration of a new instance."""
        described = {
            "dataname": self.instance,
            "typename": self.typename,
            "VoxelSize": ",".join(f"{size:g}" for size in self.voxel_size),
            "VoxelUnits": "nanometers,nanometers,nanometers",
            "BlockSize": ",".join([str(self.block_size)] * 3),
        }
        if self.source:
            return {"dataname": self.instance, "typename": self.typename, "Source": self.source}
        if self.typename == LABELS:
            described["MaxDownresLevel"] = str(self.max_downres)
        return described


def typename_for(source: Source, asked: str | None) -> str:
    """The datatype for a source: as asked, or by the type of its voxels."""
    dtype = source.dtype
    if asked is None:
        if dtype == np.uint8:
            return "uint8blk"
        if dtype in (np.uint32, np.uint64):
            return LABELS
        raise Invalid(f"{source.name} holds {dtype}: say what it is with --type, e.g. --type {LABELS}")
    if asked == LABELS and dtype.kind not in "ui":
        raise Invalid(f"{source.name} holds {dtype}, and labels are integers")
    if asked in GREY and not np.can_cast(dtype, GREY[asked], "safe"):
        raise Invalid(f"{source.name} holds {dtype}, which does not fit a {asked}")
    if asked != LABELS and asked not in GREY:
        raise Invalid(f"volumes of type {asked!r} cannot be ingested")
    return asked


def voxel_type(typename: str) -> np.dtype[Any]:
    """The type of an instance's voxels."""
    return np.dtype(GREY.get(typename, "uint64"))


def as_voxels(found: Array, typename: str) -> Array:
    """A source's voxels as those of an instance."""
    if found.dtype.kind == "i" and found.size and found.min() < 0:
        raise Invalid("the source holds negative numbers")
    return np.ascontiguousarray(found, voxel_type(typename))
