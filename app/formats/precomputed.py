"""Neuroglancer's precomputed volumes: the `info` file, the names of chunks, chunks of raw voxels.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
Points in `info` and in names are x, y, z; boxes and arrays here are z, y, x.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from app.core.geometry import Box, Triple
from app.core.pyramid import Level, Pyramid

#: Sides x, y, z of the sub-blocks of compressed segmentation.
SUB_BLOCK = (8, 8, 8)

_SCALE = re.compile(r"s(0|[1-9][0-9]{0,2})")
_INTEGER = r"(0|-?[1-9][0-9]{0,11})"
_SHARD = re.compile(r"[0-9a-f]{1,16}\.shard")
_CHUNK = re.compile("_".join([f"{_INTEGER}-{_INTEGER}"] * 3))


def info(pyramid: Pyramid, encoding: str) -> dict[str, Any]:
    """The `info` file of an unsharded volume.

    `encoding` is that of all chunks: compressed_segmentation (labels only), raw or jpeg.
    """
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": "segmentation" if pyramid.is_labels else "image",
        "data_type": pyramid.dtype,
        "num_channels": pyramid.channels,
        "scales": [_scale(scale, level, encoding) for scale, level in enumerate(pyramid.levels)],
    }


def _scale(scale: int, level: Level, encoding: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "key": scale_key(scale),
        "size": level.box.shape[::-1],
        "resolution": [_plain(size) for size in level.voxel_size[::-1]],
        "voxel_offset": level.box.start[::-1],
        "chunk_sizes": [level.chunk[::-1]],
        "encoding": encoding,
    }
    if encoding == "compressed_segmentation":
        described["compressed_segmentation_block_size"] = SUB_BLOCK
    return described


def _plain(number: float) -> float:
    return int(number) if number == int(number) else number


def scale_key(scale: int) -> str:
    """The folder of a scale's chunks."""
    return f"s{scale}"


def parse_scale_key(text: str) -> int | None:
    """The scale that a folder holds, or None if it is no such name."""
    match = _SCALE.fullmatch(text)
    return int(match.group(1)) if match else None


def chunk_name(box: Box) -> str:
    """The file of the chunk that covers a box: `x0-x1_y0-y1_z0-z1`, ends exclusive."""
    return "_".join(f"{box.start[axis]}-{box.stop[axis]}" for axis in (2, 1, 0))


def parse_chunk_name(text: str, level: Level) -> Box | None:
    """The voxels of the chunk of that name, clipped to the volume; None if the scale has no such chunk."""
    match = _CHUNK.fullmatch(text)
    if match is None:
        return None
    xa, xb, ya, yb, za, zb = map(int, match.groups())
    offset = za - level.box.start[0], ya - level.box.start[1], xa - level.box.start[2]
    place: Triple = offset[0] // level.chunk[0], offset[1] // level.chunk[1], offset[2] // level.chunk[2]
    whole = level.chunk_at(place)
    if whole is None:
        return None
    box = whole.intersect(level.box)
    return box if box == Box((za, ya, xa), (zb, yb, xb)) else None


def owns(info: Mapping[str, Any], file: str) -> bool:
    """Whether a file (other than `info`) is one of the volume's: a chunk, a shard, or in a folder that `info` names."""
    folder, _, name = file.rpartition("/")
    if any(folder == scale.get("key") for scale in info.get("scales", [])):
        return bool(_CHUNK.fullmatch(name) or is_shard(name))
    named = [info.get(kind) for kind in ("mesh", "skeletons", "segment_properties")]
    return any(isinstance(place, str) and place and file.startswith(f"{place}/") for place in named)


def is_shard(file: str) -> bool:
    """Whether a file holds many chunks, and is read in parts."""
    return _SHARD.fullmatch(file.rpartition("/")[2]) is not None


def raw_chunk(voxels: npt.NDArray[Any]) -> bytes:
    """Voxels z, y, x (or z, y, x, channel) as a chunk of encoding `raw`: little-endian, x fastest, channel slowest."""
    little = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    return np.moveaxis(little, 3, 0).tobytes() if little.ndim == 4 else little.tobytes()
