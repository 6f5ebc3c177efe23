"""Creation settings of images, and what their instances say of themselves."""

from __future__ import annotations

from typing import Any

from app.core.errors import Invalid
from app.datatypes import voxels
from app.datatypes.config import Config
from app.datatypes.datatype import Datatype
from app.datatypes.imageblk import blocks
from app.datatypes.imageblk.kinds import Kind
from app.versioning.datastore import Data, Datastore
from app.versioning.merge import by_key
from app.versioning.snapshot import Snapshot

_BLOCK_SIZE = 32
#: The largest block in bytes; one is held several times over while it is read.
_MAX_BLOCK_BYTES = 1 << 28


def datatype(kind: Kind) -> Datatype:
    """The record of the registry."""

    def settings(config: Config) -> dict[str, Any]:
        return initial(kind, config)

    async def prepared(settings: dict[str, Any], datastore: Datastore, is_admin: bool) -> dict[str, Any]:
        return await _prepared(kind, settings, datastore, is_admin)

    async def extended(data: Data, snapshot: Snapshot) -> dict[str, Any]:
        found = await voxels.extended(data, snapshot, "", "", True)
        return {**found, "Values": [{"DataType": name, "Label": label} for name, label in kind.values]}

    return Datatype(
        kind.typename,
        version=kind.version,
        url=f"github.com/janelia-flyem/dvid/datatype/imageblk/{kind.source}.go",
        settings=settings,
        prepared=prepared,
        extended=extended,
        has_extents=True,
        merge=by_key(blocks.named, {voxels.EXTENTS: voxels.join_extents}),
    )


def initial(kind: Kind, config: Config) -> dict[str, Any]:
    """The settings of a new image of voxels of a kind."""
    if config.text("GridStore"):
        raise Invalid("GridStore names stores of DVID's own configuration; give the URL of the volume as Source")
    if config.compression("lz4").startswith("jpeg") and kind.typename != "uint8blk":
        raise Invalid("only images of type uint8blk can be compressed as jpeg")
    settings = voxels.settings(config, _BLOCK_SIZE, 1)
    x, y, z = settings["block_size"]
    if x * y * z * kind.dtype.itemsize > _MAX_BLOCK_BYTES:
        raise Invalid(f"a block of {x} x {y} x {z} voxels is too large")
    source = config.text("Source").rstrip("/")
    return {**settings, "source": source} if source else settings


async def _prepared(kind: Kind, settings: dict[str, Any], datastore: Datastore, is_admin: bool) -> dict[str, Any]:
    """A published image takes its blocks, its place and its resolution from the volume."""
    source = settings.get("source")
    if not source:
        return settings
    source = datastore.volumes.allowed(source, anywhere=is_admin)
    volume = await datastore.volumes.open(source, settings["scale_level"])
    if kind.is_color or volume.dtype != kind.dtype:
        raise Invalid(f"the volume has voxels of type {volume.dtype}, not those of {kind.typename}")
    return {
        **settings,
        "source": source,
        "block_size": list(volume.chunk[::-1]),
        "voxel_size": list(volume.voxel_size[::-1]),
        "voxel_units": ["nanometers"] * 3,
        "min_point": list(volume.bounds.start[::-1]),
        "max_point": [stop - 1 for stop in volume.bounds.stop[::-1]],
    }
