from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest
import tensorstore
import zarr as zarr_python

from app.core.geometry import Box
from app.core.pyramid import Level, Pyramid, levels
from app.formats import precomputed, zarr

LEVELS = levels((-1, 64, 0), (5, 200, 63), (64, 64, 64), (8.0, 4.0, 4.5), 3)


@pytest.mark.parametrize(("dtype", "channels"), [("uint64", 1), ("float32", 1), ("uint8", 1), ("uint8", 4)])
def test_arrays_are_what_tensorstore_and_zarr_python_open(tmp_path: Path, dtype: str, channels: int) -> None:
    pyramid = Pyramid(dtype, LEVELS, channels)
    level = LEVELS[1]
    chunk = np.random.default_rng(1).integers(0, 200, (64, 64, 64, channels)).astype(dtype)
    body = gzip.compress(precomputed.raw_chunk(chunk if channels > 1 else chunk[..., 0]))
    files = {
        "zarr.json": orjson.dumps(zarr.group(pyramid, "seg")),
        "s1/zarr.json": orjson.dumps(zarr.array(pyramid, level)),
        "s1/c/1/0/0" if channels == 1 else "s1/c/0/1/0/0": body,
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    expected = np.zeros((*level.box.shape, channels), dtype)
    expected[64:, :64] = chunk[:32, :, :32]  # what of the chunk lies within the bounds 96, 128, 32
    expected = np.moveaxis(expected, 3, 0)[0 if channels == 1 else slice(None)]
    store = {"driver": "zarr3", "kvstore": f"file://{tmp_path}/s1/"}
    np.testing.assert_array_equal(tensorstore.open(store).result().read().result(), expected)
    np.testing.assert_array_equal(zarr_python.open_group(tmp_path, mode="r")["s1"][...], expected)


def test_voxels_of_all_scales_are_at_the_same_places() -> None:
    """OME coordinates are of centres: the corner of the volume is half a voxel before that of voxel 0."""
    group = zarr.group(Pyramid("uint64", LEVELS), "seg")
    (multiscale,) = group["attributes"]["ome"]["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == ["z", "y", "x"]
    corners = []
    for level, dataset in zip(LEVELS, multiscale["datasets"], strict=True):
        scale, translation = (step[step["type"]] for step in dataset["coordinateTransformations"])
        corners.append([t - s / 2 - s * a for t, s, a in zip(translation, scale, level.box.start, strict=True)])
    for one, other in pairwise(corners):
        assert one == other == [-4.0, -2.0, -2.25]


LEVEL = Level(Box((-64, 0, 64), (32, 130, 192)), (64, 64, 64), (8.0, 8.0, 8.0))


def test_chunk_keys() -> None:
    assert zarr.parse_chunk_key("c/1/2/0", 1, LEVEL) == Box((0, 128, 64), (64, 192, 128))
    assert zarr.parse_chunk_key("c/0/1/2/0", 4, LEVEL) == Box((0, 128, 64), (64, 192, 128))
    for key in ("c/2/0/0", "c/0/0", "c/-1/0/0", "c/00/0/0", "0/0/0", "c/0/0/0/0", "c.0.0.0", "c/0/0/0/", ".zarray", ""):
        assert zarr.parse_chunk_key(key, 1, LEVEL) is None
    assert zarr.parse_chunk_key("c/1/1/2/0", 4, LEVEL) is None
