"""Readers that know nothing of DVID read live data at plain URLs: TensorStore, cloud-volume, zarr-python."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tensorstore
import zarr
from cloudvolume import CloudVolume
from zarr.storage import FsspecStore

from app.formats.dvid_pb2 import MappingOps
from tests.api.conftest import make_instance
from tests.running import ADMIN
from tests.stacks import v3draw

Array = npt.NDArray[Any]
DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "connectomics-512.npz"

#: Where the volume of the tests begins, x, y, z: neither at a multiple of the coarser scales' blocks nor positive.
OFFSET = (64, -64, -192)
SHAPE = (128, 192, 256)  # z, y, x
SCALES = 4


@pytest.fixture(scope="module")
def labels() -> Array:
    if not DATA.exists():
        pytest.skip(f"NOT TESTED with real labels: {DATA.name} is not on this machine")
    with np.load(DATA) as file:
        z, y, x = SHAPE
        return np.ascontiguousarray(file["labels"][100 : 100 + z, :y, :x].astype("<u8"))


def halved(labels: Array, corner: tuple[int, int, int]) -> Array:
    """One down-resolution of labels z, y, x that begin at a corner: most frequent non-zero, smallest first."""
    pad = [(first % 2, (first + side) % 2) for first, side in zip(corner, labels.shape, strict=True)]
    labels = np.pad(labels, pad)
    z, y, x = (side // 2 for side in labels.shape)
    eight = labels.reshape(z, 2, y, 2, x, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 8)
    eight = np.sort(eight, axis=1)
    counts = (eight[:, :, None] == eight[:, None, :]).sum(axis=2)
    counts[eight == 0] = 0
    return eight[np.arange(len(eight)), counts.argmax(axis=1)].reshape(z, y, x)


def pyramid(labels: Array) -> list[tuple[tuple[int, int, int], Array]]:
    """The first voxel x, y, z and the labels z, y, x of each scale."""
    found = [(OFFSET, labels)]
    for _ in range(SCALES - 1):
        (x, y, z), finer = found[-1]
        found.append(((x // 2, y // 2, z // 2), halved(finer, (z, y, x))))
    return found


def box(volume: Array, corner: tuple[int, int, int], expected: tuple[tuple[int, int, int], Array]) -> None:
    """A volume z, y, x from a corner x, y, z holds what is expected, and zeros around it."""
    (x, y, z), inner = expected
    start = z - corner[2], y - corner[1], x - corner[0]
    assert min(start) >= 0
    within = tuple(slice(a, a + side) for a, side in zip(start, inner.shape, strict=True))
    whole = np.zeros(volume.shape, volume.dtype)
    whole[within] = inner
    np.testing.assert_array_equal(volume, whole)


def with_tensorstore_precomputed(url: str, scale: int) -> tuple[tuple[int, int, int], Array]:
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "http", "base_url": f"{url}/precomputed/"}}
    opened = tensorstore.open({**spec, "scale_index": scale}).result()
    x, y, z, _ = opened.domain.origin
    voxels = opened.read().result().transpose(3, 2, 1, 0)
    return (x, y, z), voxels[0] if len(voxels) == 1 else voxels


def with_cloudvolume(url: str, scale: int) -> tuple[tuple[int, int, int], Array]:
    volume = CloudVolume(
        f"precomputed://{url}/precomputed", mip=scale, fill_missing=True, progress=False, use_https=True
    )
    voxels = np.asarray(volume[:, :, :]).transpose(3, 2, 1, 0)
    x, y, z = map(int, volume.voxel_offset)
    return (x, y, z), voxels[0] if len(voxels) == 1 else voxels


def zarr_corner(url: str, scale: int) -> tuple[int, int, int]:
    """The first voxel x, y, z of a scale's array, from the OME metadata."""
    ome = httpx.get(f"{url}/zarr/zarr.json").json()["attributes"]["ome"]
    sizes, offsets, finest = [], [], []
    for index, found in ((0, finest), (scale, sizes)):
        steps = ome["multiscales"][0]["datasets"][index]["coordinateTransformations"]
        found += steps[0]["scale"][-3:]
        offsets = steps[1]["translation"][-3:]
    z, y, x = ((t - (s - f) / 2) / s for t, s, f in zip(offsets, sizes, finest, strict=True))
    assert (x, y, z) == (int(x), int(y), int(z))
    return int(x), int(y), int(z)


def with_tensorstore_zarr(url: str, scale: int) -> tuple[tuple[int, int, int], Array]:
    kvstore = {"driver": "http", "base_url": f"{url}/zarr/s{scale}/"}
    return zarr_corner(url, scale), tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()


def with_zarr_python(url: str, scale: int) -> tuple[tuple[int, int, int], Array]:
    group = zarr.open_group(FsspecStore.from_url(f"{url}/zarr", read_only=True), mode="r")
    return zarr_corner(url, scale), np.asarray(group[f"s{scale}"][...])


READERS = [with_tensorstore_precomputed, with_cloudvolume, with_tensorstore_zarr, with_zarr_python]
Reader = Callable[[str, int], tuple[tuple[int, int, int], Array]]
readers = pytest.mark.parametrize("read", READERS, ids=lambda reader: reader.__name__)


def post(client: httpx.Client, path: str, body: bytes, **params: str) -> None:
    answer = client.post(path, content=body, params=params)
    assert answer.status_code == 200, answer.text


def post_volume(client: httpx.Client, path: str, volume: Array, corner: tuple[int, int, int] = OFFSET) -> None:
    z, y, x = volume.shape[:3]
    post(client, f"{path}/raw/0_1_2/{x}_{y}_{z}/{'_'.join(map(str, corner))}", volume.tobytes())


def renamed(labels: Array, names: dict[int, int]) -> Array:
    found = labels.copy()
    for old, new in names.items():
        found[labels == old] = new
    return found


def branch(client: httpx.Client, version: str) -> str:
    client.post(f"/api/node/{version}/commit", json={"note": "done"}).raise_for_status()
    return str(client.post(f"/api/node/{version}/newversion", json={"note": "next"}).json()["child"])


class Segmentation:
    """A labelmap at two versions: in the second, supervoxels are mapped to bodies and one corner is overwritten."""

    def __init__(self, client: httpx.Client, root: str, labels: Array) -> None:
        make_instance(client, root, "labelmap", "seg", MaxDownresLevel=str(SCALES - 1), VoxelSize="4,5,6.5")
        post_volume(client, f"/api/node/{root}/seg", labels)
        child = branch(client, root)
        ids, counts = np.unique(labels[labels > 0], return_counts=True)
        first, second, third = ids[np.argsort(counts)[-3:]].tolist()
        operations = MappingOps()
        operations.mappings.add(mutid=1, mapped=third, original=[first])
        operations.mappings.add(mutid=2, mapped=1 << 60, original=[second])
        post(client, f"/api/node/{child}/seg/mappings", operations.SerializeToString())
        changed = labels.copy()
        changed[:64, :64, :64] = 77
        post_volume(client, f"/api/node/{child}/seg", changed[:64, :64, :64].copy())
        mapping = {first: third, second: 1 << 60}
        self.versions = {root: pyramid(labels), child: [(at, renamed(v, mapping)) for at, v in pyramid(changed)]}
        self.supervoxels = pyramid(changed)
        self.child = child


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """What was already made on each server."""
    return {}


@pytest.fixture
def segmentation(client: httpx.Client, made: dict[str, Any], labels: Array, root: str) -> Segmentation:
    key = str(client.base_url)
    if key not in made:
        made[key] = Segmentation(client, root, labels)
    found: Segmentation = made[key]
    return found


@readers
def test_bodies_of_both_versions_at_each_scale(client: httpx.Client, segmentation: Segmentation, read: Reader) -> None:
    for version, expected in segmentation.versions.items():
        for scale in range(SCALES):
            corner, volume = read(f"{client.base_url}/api/node/{version}/seg", scale)
            assert volume.dtype == np.uint64
            box(volume, corner, expected[scale])


def test_supervoxels(client: httpx.Client, segmentation: Segmentation) -> None:
    url = f"{client.base_url}/api/node/{segmentation.child}/seg"
    kvstore = {"driver": "http", "base_url": f"{url}/precomputed-supervoxels/"}
    spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore, "scale_index": 1}
    volume = tensorstore.open(spec).result()
    x, y, z, _ = volume.domain.origin
    box(volume.read().result()[..., 0].T, (x, y, z), segmentation.supervoxels[1])
    group = zarr.open_group(FsspecStore.from_url(f"{url}/zarr-supervoxels", read_only=True), mode="r")
    box(np.asarray(group["s0"][...]), OFFSET, segmentation.supervoxels[0])


def test_files_of_labels(client: httpx.Client, segmentation: Segmentation) -> None:
    """Encodings, ranges, tags, and the names that are no files."""
    child = f"/api/node/{segmentation.child}/seg"
    chunk = f"{child}/precomputed/s0/64-128_-64-0_-192--128"
    packed = client.get(chunk, headers={"Accept-Encoding": "gzip"})
    plain = client.get(chunk, headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert packed.content == plain.content
    assert packed.headers["etag"] != plain.headers["etag"]
    assert plain.content[:4] == b"\x01\0\0\0"
    refused = client.get(chunk, headers={"Accept-Encoding": "gzip;q=0, identity"})
    assert "content-encoding" not in refused.headers

    part = client.get(chunk, headers={"Accept-Encoding": "gzip", "Range": "bytes=4-11"})
    assert (part.status_code, part.content) == (206, plain.content[4:12])
    assert part.headers["content-range"] == f"bytes 4-11/{len(plain.content)}"
    assert client.get(chunk, headers={"Range": "bytes=-4"}).content == plain.content[-4:]
    assert client.get(chunk, headers={"Range": f"bytes={len(plain.content)}-"}).status_code == 416

    head = client.head(chunk, headers={"Accept-Encoding": "identity"})
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(plain.content))
    assert (
        client.get(chunk, headers={"If-None-Match": plain.headers["etag"], "Accept-Encoding": "identity"}).status_code
        == 304
    )

    (root,) = set(segmentation.versions) - {segmentation.child}
    locked = client.get(chunk.replace(segmentation.child, root))
    assert "immutable" in locked.headers["cache-control"]
    assert packed.headers["cache-control"] == "no-cache"
    info = client.get(f"/api/node/{root}/seg/precomputed/info")
    assert info.headers["content-type"] == "application/json"
    assert info.headers["cache-control"] == "no-cache"  # the resolution is not versioned
    tagged = {"If-None-Match": info.headers["etag"]}
    assert client.get(f"/api/node/{root}/seg/precomputed/info", headers=tagged).status_code == 304

    stored = client.get(f"{child}/zarr/s0/c/0/0/0", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in stored.headers
    assert gzip.decompress(stored.content) == np.full(64**3, 77, "<u8").tobytes()

    absent = [
        *("precomputed", "precomputed/", "precomputed/provenance", "precomputed/s0", "precomputed/s4/0-64_0-64_0-64"),
        *("precomputed/s0/0-64_-64-0_-192--128", "precomputed/s0/64-127_-64-0_-192--128", "precomputed/s0/%2e%2e/info"),
        *("precomputed/s1/64-128_-64-0_-192--128", "precomputed/s999999999/x", "precomputed/%ff", "precomputed/s0//"),
        *(
            "zarr",
            "zarr/.zarray",
            "zarr/.zgroup",
            "zarr/.zattrs",
            "zarr/.zmetadata",
            "zarr/s0/.zarray",
            "zarr/s4/zarr.json",
        ),
        *("zarr/s0/c/9/0/0", "zarr/s0/c/0/0", "zarr/s0/0/0/0", "zarr/s0/c/0/0/-1", "zarr/c/0/0/0"),
        *("precomputed-supervoxels/x", "zarr-supervoxels/x"),
    ]
    for file in absent:
        answer = client.get(f"{child}/{file}")
        assert (answer.status_code, bool(answer.text)) == (404, True), file
    assert client.post(f"{child}/precomputed/info", content=b"{}").status_code in (400, 405)


def test_a_chunk_without_blocks_is_missing(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "labelmap", "sparse", MaxDownresLevel="2")
    url = f"/api/node/{root}/sparse"
    for file in ("precomputed/info", "zarr/zarr.json", "zarr/s0/zarr.json", "precomputed/s0/0-64_0-64_0-64"):
        empty = client.get(f"{url}/{file}")
        assert empty.status_code == 404
    assert "nothing has been written" in client.get(f"{url}/precomputed/info").text
    one = np.full((64, 64, 64), 5, "<u8")
    post_volume(client, url, one, (0, 0, 0))
    post_volume(client, url, one, (192, 0, 0))
    assert client.get(f"{url}/precomputed/s0/0-64_0-64_0-64").status_code == 200
    assert client.get(f"{url}/precomputed/s0/64-128_0-64_0-64").status_code == 404
    assert client.get(f"{url}/zarr/s0/c/0/0/1").status_code == 404
    for read in READERS:
        _, volume = read(f"{client.base_url}{url}", 0)
        assert [int(volume[0, 0, x]) for x in (0, 64, 128, 192)] == [5, 0, 0, 5]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "float32"])
def test_images_of_all_types(client: httpx.Client, root: str, dtype: str) -> None:
    make_instance(client, root, f"{dtype}blk", "image", BlockSize="32,64,16")
    image = np.random.default_rng(3).integers(1, 250, (32, 64, 96)).astype(dtype)
    url = f"/api/node/{root}/image"
    post_volume(client, url, image, (-32, 64, 16))
    child = branch(client, root)
    changed = image.copy()
    changed[:16, :, :32] = 7
    post_volume(client, f"/api/node/{child}/image", changed[:16, :, :32].copy(), (-32, 64, 16))
    for read, (version, expected) in itertools.product(READERS, ((root, image), (child, changed))):
        corner, volume = read(f"{client.base_url}/api/node/{version}/image", 0)
        assert corner == (-32, 64, 16)
        assert volume.dtype == dtype
        np.testing.assert_array_equal(volume, expected)


@readers
def test_colours_are_channels(client: httpx.Client, root: str, read: Reader) -> None:
    make_instance(client, root, "rgba8blk", "colour")
    image = np.random.default_rng(4).integers(0, 256, (32, 64, 32, 4)).astype("u1")
    post_volume(client, f"/api/node/{root}/colour", image, (0, 32, -32))
    corner, volume = read(f"{client.base_url}/api/node/{root}/colour", 0)
    assert corner == (0, 32, -32)
    np.testing.assert_array_equal(volume, image.transpose(3, 0, 1, 2))


@readers
@pytest.mark.parametrize(("count", "dtype"), [(3, "u2"), (1, "u1")])
def test_channels_of_stacks(client: httpx.Client, root: str, read: Reader, count: int, dtype: str) -> None:
    """The volume is rounded to whole blocks; where a block is empty in all channels there is no chunk."""
    make_instance(client, root, "multichan16", "cells", BlockSize="32,16,8")
    url = f"/api/node/{root}/cells"
    assert client.get(f"{url}/precomputed/info").status_code == 404
    image = np.random.default_rng(4).integers(0, 256, (count, 20, 30, 40)).astype(dtype)
    image[:, :8] = 0
    post(client, f"{url}/load", v3draw(image))
    corner, volume = read(f"{client.base_url}{url}", 0)
    assert corner == (0, 0, 0)
    expected = np.pad(image, [(0, 0), (0, 4), (0, 2), (0, 24)])
    np.testing.assert_array_equal(volume, expected if count > 1 else expected[0])
    assert client.get(f"{url}/precomputed/s0/0-32_0-16_0-8").status_code == 404
    assert client.get(f"{url}/precomputed/s0/0-32_0-16_8-16").status_code == 200


@readers
def test_images_in_jpeg(client: httpx.Client, root: str, read: Reader) -> None:
    """Precomputed has the JPEGs that are stored, zarr what they decode to."""
    make_instance(client, root, "uint8blk", "photo", Compression="jpeg:90", BlockSize="64,64,64")
    z, y, x = np.mgrid[:64, :64, :128]
    image = (128 + 100 * np.sin(x / 20) * np.cos(y / 15) * np.cos(z / 30)).astype("u1")
    url = f"/api/node/{root}/photo"
    post_volume(client, url, image, (0, 0, 0))
    assert client.get(f"{url}/precomputed/info").json()["scales"][0]["encoding"] == "jpeg"
    chunk = client.get(f"{url}/precomputed/s0/64-128_0-64_0-64", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in chunk.headers
    assert chunk.content[:2] == b"\xff\xd8"
    _, volume = read(f"{client.base_url}{url}", 0)
    assert np.abs(volume.astype(int) - image).max() < 16
    raw = client.get(f"{url}/raw/0_1_2/128_64_64/0_0_0").content
    same = np.abs(np.frombuffer(raw, "u1").reshape(volume.shape).astype(int) - volume)
    assert same.max() <= 1  # decoders may round differently


def publish(client: httpx.Client, root: str, name: str, source: str, **settings: str) -> str:
    body = {"typename": "uint8blk", "dataname": name, "Source": source, **settings}
    answer = client.post(f"/api/repo/{root}/instance", params={"admintoken": ADMIN}, json=body)
    assert answer.status_code == 200, answer.text
    return f"/api/node/{root}/{name}"


SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "hash": "identity",
    "minishard_bits": 1,
    "shard_bits": 1,
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}


@pytest.mark.parametrize("sharded", [False, True], ids=["unsharded", "sharded"])
def test_published_precomputed_passes_through(client: httpx.Client, root: str, tmp_path: Path, sharded: bool) -> None:
    image = np.random.default_rng(5).integers(1, 255, (100, 80, 130)).astype("u1")
    for scale in range(2):
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{tmp_path}/",
            "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
            "scale_metadata": {
                "key": f"{8 << scale}nm",
                "size": [side >> scale for side in image.shape[::-1]],
                "encoding": "raw",
                "chunk_size": [64, 32, 32],
                "resolution": [8 << scale] * 3,
                "voxel_offset": [10, -20, 30],
                **({"sharding": SHARDING} if sharded else {}),
            },
        }
        opened = tensorstore.open(spec, create=True).result()
        z, y, x = (side >> scale for side in image.shape)
        opened[..., 0].write(image[:z, :y, :x].T).result()
    (tmp_path / "8nm" / "secret").write_text("not part of the volume")
    url = publish(client, root, "pub", f"precomputed://file://{tmp_path}")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".shard" for path in files) == sharded
    for path in files:
        name = str(path.relative_to(tmp_path))
        answer = client.get(f"{url}/precomputed/{name}")
        head = client.head(f"{url}/precomputed/{name}")
        if path.name == "secret":
            assert answer.status_code == head.status_code == 404
            continue
        assert answer.status_code == head.status_code == 200
        if name == "info":
            assert answer.json() == json.loads(path.read_bytes())
            continue
        content = path.read_bytes()
        assert answer.content == content
        part = client.get(f"{url}/precomputed/{name}", headers={"Range": "bytes=10-29"})
        assert (part.status_code, part.content) == (206, content[10:30])
        assert part.headers["content-range"].startswith("bytes 10-29/")
        last = client.get(
            f"{url}/precomputed/{name}", headers={"Range": f"bytes={len(content) - 5}-{len(content) + 99}"}
        )
        assert (last.status_code, last.content) == (206, content[-5:])
        beyond = client.get(f"{url}/precomputed/{name}", headers={"Range": f"bytes={len(content)}-{len(content) + 9}"})
        assert beyond.status_code == 416
    for absent in ("8nm/0-64_0-32_0-32", "8nm/ff.shard", "../secret", "8nm/..%2f8nm/0.shard", "9nm/0.shard", ""):
        assert client.get(f"{url}/precomputed/{absent}").status_code in (400, 404), absent
    for read, scale in itertools.product(READERS, range(2)):
        corner, volume = read(f"{client.base_url}{url}", scale)
        assert corner == (10, -20, 30)
        z, y, x = (side >> scale for side in image.shape)
        np.testing.assert_array_equal(volume, image[:z, :y, :x])

    coarse = publish(client, root, "coarse", f"file://{tmp_path}", ScaleLevel="1")
    assert [scale["key"] for scale in client.get(f"{coarse}/precomputed/info").json()["scales"]] == ["16nm"]
    for read in READERS:
        _, volume = read(f"{client.base_url}{coarse}", 0)
        np.testing.assert_array_equal(volume, image[:50, :40, :65])


def test_published_zarr_is_converted(client: httpx.Client, root: str, tmp_path: Path) -> None:
    image = np.random.default_rng(6).integers(1, 255, (50, 70, 90)).astype("u1")
    metadata = {"shape": image.shape, "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [32, 32, 64]}}}
    spec = {"driver": "zarr3", "kvstore": f"file://{tmp_path}/", "dtype": "uint8", "metadata": metadata}
    tensorstore.open(spec, create=True).result().write(image).result()
    url = publish(client, root, "pub", f"file://{tmp_path}")
    for read in READERS:
        corner, volume = read(f"{client.base_url}{url}", 0)
        assert corner == (0, 0, 0)
        np.testing.assert_array_equal(volume, image)
    assert client.get(f"{url}/precomputed/s1/0-64_0-32_0-32").status_code == 404
    assert client.get(f"{url}/zarr/s1/zarr.json").status_code == 404
