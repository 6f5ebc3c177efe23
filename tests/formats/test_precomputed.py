from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest
import tensorstore

from app.core.geometry import Box
from app.core.pyramid import Level, Pyramid, levels
from app.formats import precomputed

SIZE = (8.0, 4.0, 4.5)


def test_scales_are_whole_blocks_and_cover_the_same_space() -> None:
    found = levels((-1, 64, 0), (5, 200, 63), (64, 64, 64), SIZE, 4)
    assert found[0].box == Box((-64, 64, 0), (64, 256, 64))
    assert found[1].box == Box((-64, 0, 0), (32, 128, 32))
    assert found[3].box == Box((-64, 0, 0), (8, 32, 8))
    assert found[3].voxel_size == (64.0, 32.0, 36.0)
    for scale, level in enumerate(found):
        step = 1 << scale
        for axis in range(3):
            assert level.box.start[axis] % 64 == 0
            assert level.box.start[axis] * step <= found[0].box.start[axis]
            assert found[0].box.stop[axis] <= level.box.stop[axis] * step < found[0].box.stop[axis] + step


def test_info_is_what_tensorstore_opens(tmp_path: Path) -> None:
    """TensorStore checks the whole of `info`; the domain is the box."""
    pyramid = Pyramid("uint64", levels((-1, 64, 0), (5, 200, 63), (64, 64, 64), SIZE, 2), is_labels=True)
    info = precomputed.info(pyramid, "compressed_segmentation")
    assert info["scales"][1]["resolution"] == [9, 8, 16]
    (tmp_path / "info").write_bytes(orjson.dumps(info))
    for scale, level in enumerate(pyramid.levels):
        spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{tmp_path}/", "scale_index": scale}
        opened = tensorstore.open(spec).result()
        assert opened.domain.origin == (*level.box.start[::-1], 0)
        assert opened.shape == (*level.box.shape[::-1], 1)


LEVEL = Level(Box((-64, 0, 64), (32, 130, 192)), (64, 64, 64), SIZE)


def test_names_of_all_chunks_are_found_again() -> None:
    names = set()
    for place in Box((0, 0, 0), LEVEL.grid).points():
        whole = LEVEL.chunk_at(place)
        assert whole is not None
        box = whole.intersect(LEVEL.box)
        name = precomputed.chunk_name(box)
        assert precomputed.parse_chunk_name(name, LEVEL) == box
        names.add(name)
    assert len(names) == 2 * 3 * 2
    assert "64-128_128-130_0-32" in names
    assert "128-192_0-64_-64-0" in names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "64-128_0-64",
        "64-128_0-64_0-64",  # reaches beyond z
        "65-129_0-64_0-32",
        "0-64_0-64_0-32",
        "192-256_0-64_0-32",
        "64-192_0-64_0-32",
        "064-128_0-64_0-32",
        "64-128_0-64_-0-32",
        "64-128_0-64_0-32 ",
        "64-128_0-64_0-32\n",
        "٦٤-128_0-64_0-32",
        "64-128_0-64_0-32.gz",
        "9" * 5000 + "-128_0-64_0-32",
    ],
)
def test_other_names_are_no_chunks(name: str) -> None:
    assert precomputed.parse_chunk_name(name, LEVEL) is None


def test_scale_keys() -> None:
    assert [precomputed.parse_scale_key(precomputed.scale_key(scale)) for scale in (0, 7, 255)] == [0, 7, 255]
    assert {precomputed.parse_scale_key(text) for text in ("", "0", "s", "s01", "s-1", "s1234", "s0/")} == {None}


def test_raw_chunks_have_channels_slowest() -> None:
    voxels = np.arange(2 * 3 * 4 * 2, dtype=">u2").reshape(2, 3, 4, 2)
    back = np.frombuffer(precomputed.raw_chunk(voxels), "<u2").reshape((4, 3, 2, 2), order="F")  # x, y, z, channel
    np.testing.assert_array_equal(back.transpose(2, 1, 0, 3), voxels)


def test_files_that_belong_to_a_volume() -> None:
    info = {"scales": [{"key": "8_8_8"}], "mesh": "mesh_mip_1", "skeletons": 7}
    for file in ("8_8_8/0-64_0-64_0-64", "8_8_8/0f.shard", "mesh_mip_1/info", "mesh_mip_1/7:0"):
        assert precomputed.owns(info, file)
    for file in ("", "secret", "8_8_8/secret", "8_8_8/a/0f.shard", "mesh_mip_1", "16_16_16/0-64_0-64_0-64", "7/info"):
        assert not precomputed.owns(info, file)
