"""Zarr v3: `zarr.json` of a multiscale image and of its arrays, keys of chunks.

Formats: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html and https://ngff.openmicroscopy.org/0.5/
Axes are z, y, x, of images with channels c, z, y, x. An array's index 0 is the first voxel of its scale's box.
"""

from __future__ import annotations

import re
from typing import Any

from app.core.geometry import Box
from app.core.pyramid import Level, Pyramid

METADATA = "zarr.json"
#: Level of the gzip codec that the metadata name; readers do not depend on it.
GZIP_LEVEL = 1

_INDEX = r"(0|[1-9][0-9]{0,11})"
_CHUNK = re.compile(f"c/{_INDEX}/{_INDEX}/{_INDEX}")
_CHANNEL_CHUNK = re.compile(f"c/0/{_INDEX}/{_INDEX}/{_INDEX}")


def group(pyramid: Pyramid, name: str) -> dict[str, Any]:
    """`zarr.json` of the group: OME-Zarr 0.5, one array `s0`, `s1` ... for each scale.

    OME puts a voxel's coordinates at its centre. Here the centre of voxel p of scale 0 is at p times the voxel size,
    and the first voxel of a coarser scale is where the voxels are that it stands for.
    """
    finest = pyramid.levels[0].voxel_size
    has_channels = pyramid.channels > 1
    axes: list[dict[str, str]] = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    if has_channels:
        axes.insert(0, {"name": "c", "type": "channel"})
    datasets = []
    for scale, level in enumerate(pyramid.levels):
        size = list(level.voxel_size)
        offset = [
            first * side + (side - fine) / 2
            for first, side, fine in zip(level.box.start, level.voxel_size, finest, strict=True)
        ]
        datasets.append(
            {
                "path": f"s{scale}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, *size] if has_channels else size},
                    {"type": "translation", "translation": [0.0, *offset] if has_channels else offset},
                ],
            }
        )
    multiscale = {"name": name, "axes": axes, "datasets": datasets}
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def array(pyramid: Pyramid, level: Level) -> dict[str, Any]:
    """`zarr.json` of one scale's array: a regular grid, keys `c/z/y/x`, little-endian voxels in gzip."""
    has_channels = pyramid.channels > 1
    shape, chunk = list(level.box.shape), list(level.chunk)
    is_float = pyramid.dtype.startswith("float")
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [pyramid.channels, *shape] if has_channels else shape,
        "data_type": pyramid.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [pyramid.channels, *chunk] if has_channels else chunk},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": float(pyramid.fill) if is_float else pyramid.fill,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "gzip", "configuration": {"level": GZIP_LEVEL}},
        ],
        "dimension_names": ["c", "z", "y", "x"] if has_channels else ["z", "y", "x"],
        "attributes": {},
    }


def parse_chunk_key(text: str, channels: int, level: Level) -> Box | None:
    """The voxels of the chunk of that key, which may reach beyond the volume; None if there is no such chunk."""
    match = (_CHANNEL_CHUNK if channels > 1 else _CHUNK).fullmatch(text)
    if match is None:
        return None
    z, y, x = map(int, match.groups())
    return level.chunk_at((z, y, x))
