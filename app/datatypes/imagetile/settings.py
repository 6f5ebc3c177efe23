"""Creation settings of tiles, and the metadata that clients post: the scales, and how large a tile is at each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from app.core.errors import Invalid
from app.core.geometry import MAX_COORDINATE, Triple
from app.datatypes import voxels
from app.datatypes.config import Config
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

#: How tiles are kept, in the order of the numbers that `Encoding` shows; and the compression that goes with it.
FORMATS = {"lz4": "lz4", "png": "none", "jpg": "none"}
#: A tile has at most so many pixels.
MAX_PIXELS = 1 << 26
#: The number of a scale is a byte.
MAX_SCALES = 256
#: How far, in units of the resolution, a scale may be from a whole multiple of the one before.
_TOLERANCE = 0.001


def initial(config: Config) -> dict[str, Any]:
    """The settings of new tiles: how they are kept, what they show, and no scales yet."""
    return {
        "format": _format(config),
        "source": config.text("Source"),
        "placeholder": config.flag("Placeholder", False),
        "min_tile": [0, 0, 0],
        "max_tile": [0, 0, 0],
        "levels": [],
    }


def compression(config: Config, _default: str) -> str:
    """The compression that the format means; another one cannot be asked for."""
    form = _format(config)
    meant = FORMATS[form]
    if config.compression(meant) != meant:
        raise Invalid(f"the setting Compression contradicts Format={form!r}, which means {meant}: leave it out")
    return meant


def _format(config: Config) -> str:
    form = config.text("Format", "png").lower()
    if form not in FORMATS:
        raise Invalid(f"the setting Format={form!r} must be one of {', '.join(FORMATS)}")
    return form


async def extended(data: Data, _snapshot: Snapshot) -> dict[str, Any]:
    """The `Extended` part of the instance's JSON."""
    given = data.instance.settings
    return {
        "Source": given["source"],
        **_shown(given),
        "Placeholder": given["placeholder"],
        "Encoding": list(FORMATS).index(given["format"]),
        "Quality": 0,
    }


def metadata(data: Data) -> dict[str, Any]:
    """What was posted as metadata; `Invalid` if nothing was."""
    _levels(data)
    return _shown(data.instance.settings)


def _shown(given: Mapping[str, Any]) -> dict[str, Any]:
    levels = {
        str(scale): {"Resolution": voxels.plain(level["resolution"]), "TileSize": level["tile_size"]}
        for scale, level in enumerate(given["levels"])
    }
    return {"MinTileCoord": given["min_tile"], "MaxTileCoord": given["max_tile"], "Levels": levels}


def tile_size(data: Data, scale: int) -> Triple:
    """The voxels x, y, z that a tile spans at a scale; `Invalid` if the metadata do not tell."""
    levels = _levels(data)
    if scale >= len(levels):
        raise Invalid(f"there is no scale {scale}: the metadata of {data.instance.name!r} has {len(levels)}")
    x, y, z = levels[scale]["tile_size"]
    return x, y, z


def _levels(data: Data) -> list[Any]:
    levels: list[Any] = data.instance.settings["levels"]
    if not levels:
        raise Invalid(f"the tile metadata of {data.instance.name!r} was not posted yet")
    return levels


def parse_metadata(value: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a body of `metadata` means. As everywhere, its keys are read without regard to case."""
    given = _lower(value, "the metadata")
    low, high = (_integers(given.get(name.lower(), [0, 0, 0]), name) for name in ("MinTileCoord", "MaxTileCoord"))
    if any(a > b for a, b in zip(low, high, strict=True)):
        raise Invalid("MinTileCoord must not lie beyond MaxTileCoord")
    scales = given.get("levels")
    if not isinstance(scales, dict) or not 0 < len(scales) <= MAX_SCALES:
        raise Invalid(f"Levels must be an object of 1 to {MAX_SCALES} scales, 0 the first")
    if scales.keys() != {str(scale) for scale in range(len(scales))}:
        raise Invalid(f"the scales of Levels must be consecutive numbers from 0, not {', '.join(scales)}")
    levels = [_level(scales[str(scale)], scale) for scale in range(len(scales))]
    for scale, (finer, coarser) in enumerate(pairwise(levels)):
        _check_multiple(finer["resolution"], coarser["resolution"], scale)
    return {"min_tile": low, "max_tile": high, "levels": levels}


def _level(value: Any, scale: int) -> dict[str, Any]:
    given = _lower(value, f"scale {scale}")
    size = _integers(given.get("tilesize"), f"TileSize of scale {scale}")
    if min(size) <= 0 or math.prod(sorted(size)[1:]) > MAX_PIXELS:
        raise Invalid(f"TileSize of scale {scale} must be positive, and no tile may have more than {MAX_PIXELS} pixels")
    return {"resolution": voxels.parse_resolution(given.get("resolution")), "tile_size": size}


def _check_multiple(finer: list[float], coarser: list[float], scale: int) -> None:
    for fine, coarse in zip(finer, coarser, strict=True):
        if coarse < fine - _TOLERANCE or abs(math.remainder(coarse, fine)) > _TOLERANCE:
            raise Invalid(f"the resolution of scale {scale + 1} must be a whole multiple of that of scale {scale}")


def _lower(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"{what} must be a JSON object")
    return {key.lower(): found for key, found in value.items()}


def _integers(value: Any, name: str) -> list[int]:
    is_triple = isinstance(value, list) and len(value) == 3 and all(type(number) is int for number in value)
    if not is_triple or not all(-MAX_COORDINATE <= number < MAX_COORDINATE for number in value):
        raise Invalid(f"{name} must be a list of three integers")
    return list(value)
