"""What all volumes have in common: block size, voxel size, units, and extents that each version has for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from app.core.errors import Invalid
from app.core.geometry import MAX_COORDINATE, Box, Triple
from app.datatypes.config import Config
from app.versioning.datastore import Data
from app.versioning.mutations import Mutation
from app.versioning.snapshot import Reader, Snapshot

EXTENTS = b"state/extents"

#: What `metadata` shows of a volume, whatever its datatype adds.
_PROPERTIES = (
    *("Values", "Interpolable", "BlockSize", "VoxelSize", "VoxelUnits", "MinPoint", "MaxPoint", "MinIndex", "MaxIndex"),
    *("Background", "GridStore", "ScaleLevel"),
)

Point = list[int]


def settings(config: Config, block_size: int, multiple: int) -> dict[str, Any]:
    """The settings of a new volume."""
    return changed_settings(
        {
            "block_size": [block_size] * 3,
            "voxel_size": [8.0, 8.0, 8.0],
            "voxel_units": ["nanometers"] * 3,
            "min_point": None,
            "max_point": None,
            "background": 0,
            "scale_level": 0,
        },
        config,
        multiple,
    )


def changed_settings(present: Mapping[str, Any], config: Config, multiple: int) -> dict[str, Any]:
    """A volume's settings with those replaced that a configuration names."""
    block = config.integers("BlockSize", present["block_size"])
    assert block is not None
    if any(side <= 0 or side % multiple for side in block) or max(block) > 1024:
        raise Invalid(f"BlockSize must be multiples of {multiple} up to 1024")
    voxel_size = config.floats("VoxelSize", present["voxel_size"])
    if not all(0 < size < float("inf") for size in voxel_size):
        raise Invalid("VoxelSize must be positive")
    return {
        **present,
        "block_size": block,
        "voxel_size": voxel_size,
        "voxel_units": config.words("VoxelUnits", present["voxel_units"]),
        "min_point": config.integers("MinPoint", present["min_point"]),
        "max_point": config.integers("MaxPoint", present["max_point"]),
        "background": config.integer("Background", present["background"], 0, 255),
        "scale_level": config.integer("ScaleLevel", present["scale_level"], 0, 255),
    }


def block_shape(data: Data) -> Triple:
    """The shape z, y, x of a block."""
    x, y, z = data.instance.settings["block_size"]
    return z, y, x


def plain(values: Sequence[float]) -> list[float]:
    """Numbers as the API's JSON shows them: 8, not 8.0."""
    return [int(value) if value == int(value) else value for value in values]


async def extents(data: Data, snapshot: Reader) -> tuple[Point | None, Point | None]:
    """The first and the last voxel x, y, z that the version's data are known to reach, both inclusive."""
    value = await snapshot.get(EXTENTS)
    if value is None:
        return data.instance.settings["min_point"], data.instance.settings["max_point"]
    low, high = orjson.loads(value)
    return low, high


async def grow_extents(data: Data, mutation: Mutation, written: Box) -> None:
    """Let the extents cover a box of voxels that was written."""
    low, high = await extents(data, mutation)
    first = [written.start[2], written.start[1], written.start[0]]
    last = [written.stop[2] - 1, written.stop[1] - 1, written.stop[0] - 1]
    grown = (
        first if low is None else list(map(min, low, first)),
        last if high is None else list(map(max, high, last)),
    )
    if grown != (low, high) or await mutation.get(EXTENTS) is None:
        mutation.put(EXTENTS, orjson.dumps(grown))


def join_extents(_base: bytes | None, ours: bytes | None, theirs: bytes | None) -> bytes | None:
    """The extents after a version merge: they cover what either side covers."""
    if ours is None or theirs is None:
        return ours or theirs
    (low, high), (other_low, other_high) = orjson.loads(ours), orjson.loads(theirs)
    return orjson.dumps([list(map(min, low, other_low)), list(map(max, high, other_high))])


def set_extents(mutation: Mutation, value: Any) -> None:
    """Replace the extents by `{"MinPoint": [x,y,z], "MaxPoint": [x,y,z]}`."""
    if not isinstance(value, dict):
        raise Invalid("extents must be a JSON object with MinPoint and MaxPoint")
    points = []
    for name in ("MinPoint", "MaxPoint"):
        point = value.get(name, [0, 0, 0])
        is_point = isinstance(point, list) and len(point) == 3 and all(type(number) is int for number in point)
        if not is_point or max(map(abs, point)) >= MAX_COORDINATE:
            raise Invalid(f"{name} must be a list of three integers")
        points.append(point)
    if any(low > high for low, high in zip(*points, strict=True)):
        raise Invalid("MinPoint must not lie beyond MaxPoint")
    mutation.put(EXTENTS, orjson.dumps(points))


async def extended(data: Data, snapshot: Snapshot, dtype: str, label: str, interpolable: bool) -> dict[str, Any]:
    """The `Extended` part of a volume's JSON."""
    low, high = await extents(data, snapshot)
    given = data.instance.settings
    block = given["block_size"]
    return {
        "Values": [{"DataType": dtype, "Label": label}],
        "Interpolable": interpolable,
        "BlockSize": block,
        "VoxelSize": plain(given["voxel_size"]),
        "VoxelUnits": given["voxel_units"],
        "MinPoint": low,
        "MaxPoint": high,
        "MinIndex": low and [number // side for number, side in zip(low, block, strict=True)],
        "MaxIndex": high and [number // side for number, side in zip(high, block, strict=True)],
        "Background": given["background"],
        "GridStore": given.get("source", ""),
        "ScaleLevel": given["scale_level"],
    }


def metadata(described: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of `metadata`: axes with resolution, size and offset, and the properties of the volume."""
    low, high = described["MinPoint"] or [0, 0, 0], described["MaxPoint"]
    properties = {name: described[name] for name in _PROPERTIES}
    sizes = [0, 0, 0] if high is None else [b - a + 1 for a, b in zip(low, high, strict=True)]
    return {
        "Axes": [
            {
                "Label": "XYZ"[axis],
                "Resolution": described["VoxelSize"][axis],
                "Units": described["VoxelUnits"][axis],
                "Size": sizes[axis],
                "Offset": low[axis],
            }
            for axis in range(3)
        ],
        "Properties": properties,
    }


def parse_resolution(value: Any) -> list[float]:
    """The body of `resolution`: three positive numbers."""
    numbers = isinstance(value, list) and all(type(number) in (int, float) for number in value)
    if not numbers or len(value) != 3 or not all(0 < number < float("inf") for number in value):
        raise Invalid("the resolution must be a list of three positive numbers")
    return [float(number) for number in value]
