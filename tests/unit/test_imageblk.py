"""Images over HTTP, in this process: written, read back in every way, and refused when they make no sense."""

import io
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import lz4.block
import numpy as np
import pytest
import tensorstore as ts
from PIL import Image

from app.formats import block_stream
from tests.in_process import ADMIN, served

RNG = np.random.default_rng(7)
DTYPES = {
    "uint8blk": np.uint8,
    "uint16blk": np.uint16,
    "uint32blk": np.uint32,
    "uint64blk": np.uint64,
    "float32blk": np.float32,
    "rgba8blk": np.uint32,
}


class Client:
    """A service and one repo of it."""

    def __init__(self, http: httpx.AsyncClient, root: str) -> None:
        self.http = http
        self.root = root

    async def create(self, name: str, typename: str = "uint8blk", *, status: int = 200, **settings: str) -> str:
        query = {"admintoken": settings.pop("admin", "")}
        body = {"typename": typename, "dataname": name, **settings}
        answer = await self.http.post(f"/api/repo/{self.root}/instance", json=body, params=query)
        assert answer.status_code == status, answer.text
        return answer.text

    async def get(self, path: str, status: int = 200) -> bytes:
        answer = await self.http.get(f"/api/node/{self.root}/{path}")
        assert answer.status_code == status, answer.text[:300]
        assert status == 200 or answer.text.strip()
        return answer.content

    async def post(self, path: str, body: bytes | np.ndarray, status: int = 200) -> str:
        body = body.tobytes() if isinstance(body, np.ndarray) else body
        answer = await self.http.post(f"/api/node/{self.root}/{path}", content=body)
        assert answer.status_code == status, answer.text[:300]
        assert status == 200 or answer.text.strip()
        return answer.text

    async def voxels(self, path: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        return np.frombuffer(await self.get(path), dtype).reshape(shape)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return tmp_path / "sources"


@pytest.fixture
async def client(tmp_path: Path, sources: Path) -> AsyncIterator[Client]:
    limits = {"sources": [f"file://{sources}"], "max_answer_bytes": 64 << 20}
    async with served(tmp_path / "store", **limits) as found:
        yield Client(found.http, found.root)


def random_box(dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    if dtype is np.float32:
        return RNG.random(shape, np.float32)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype)


@pytest.mark.parametrize("compression", ["none", "lz4", "lz4:3", "snappy", "gzip", "gzip:9"])
async def test_every_compression_reads_back(client, compression):
    await client.create("gray", Compression=compression, BlockSize="16,8,4")
    voxels = random_box(np.uint8, (8, 16, 48))
    await client.post("gray/raw/0_1_2/48_16_8/-16_-8_-4", voxels)
    read = await client.voxels("gray/raw/0_1_2/50_20_10/-17_-10_-5", np.uint8, (10, 20, 50))
    expected = np.zeros((10, 20, 50), np.uint8)
    expected[1:9, 2:18, 1:49] = voxels
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("typename", DTYPES)
async def test_every_type(client, typename):
    dtype = DTYPES[typename]
    await client.create("image", typename, BlockSize="8,8,8")
    voxels = random_box(dtype, (8, 8, 16))
    await client.post("image/raw/0_1_2/16_8_8/0_0_0", voxels)
    np.testing.assert_array_equal(await client.voxels("image/raw/0_1_2/16_8_8/0_0_0", dtype, (8, 8, 16)), voxels)
    np.testing.assert_array_equal(
        await client.voxels("image/raw/0_1_2/5_4_3/6_2_1", dtype, (3, 4, 5)), voxels[1:4, 2:6, 6:11]
    )
    rows = random_box(dtype, (3, 8, 8, 8))
    await client.post("image/blocks/-1_0_0/3", rows)
    np.testing.assert_array_equal(await client.voxels("image/blocks/-1_0_0/3", dtype, rows.shape), rows)
    np.testing.assert_array_equal(
        await client.voxels("image/raw/0_1_2/24_8_8/-8_0_0", dtype, (8, 8, 24)), np.concatenate(list(rows), axis=2)
    )
    for form in ("png", "jpg", "tiff", "bmp"):
        assert Image.open(io.BytesIO(await client.get(f"image/raw/xy/9_7/0_0_0/{form}"))).size == (9, 7)
    assert Image.open(io.BytesIO(await client.get("image/raw/0_1_2/8_8_8/0_0_0/jpeg"))).size == (8, 64)
    assert Image.open(io.BytesIO(await client.get("image/arb/0_0_0/56_0_0/0_56_0/8"))).size == (8, 8)
    assert Image.open(io.BytesIO(await client.get("image/isotropic/xz/8_6/0_0_0"))).size == (8, 6)


async def test_row_of_blocks_grows_the_extents(client):
    await client.create("gray", BlockSize="8,8,8")
    await client.post("gray/blocks/2_1_0/3", bytes(3 * 512))
    extents = json.loads(await client.get("gray/info"))["Extents"]
    assert extents == {"MinPoint": [16, 8, 0], "MaxPoint": [39, 15, 7]}


async def test_stored_blocks_pass_through(client):
    await client.create("gray", BlockSize="8,8,8")
    voxels = random_box(np.uint8, (8, 8, 16))
    await client.post("gray/raw/0_1_2/16_8_8/0_0_0", voxels)
    found = dict(block_stream.split(await client.get("gray/specificblocks?blocks=0,0,0,1,0,0,9,9,9"), 10_000))
    assert set(found) == {(0, 0, 0), (0, 0, 1)}
    assert lz4.block.decompress(bytes(found[0, 0, 1])) == voxels[:, :, 8:].tobytes()
    whole = await client.get("gray/subvolblocks/32_8_8/-8_0_0?compression=uncompressed")
    assert dict(block_stream.split(whole, 10_000))[0, 0, 0] == voxels[:, :, :8].tobytes()


async def test_long_streams_come_in_pieces(client):
    await client.create("gray", BlockSize="64,64,64", Compression="none")
    voxels = random_box(np.uint8, (256, 256, 320))
    await client.post("gray/raw/0_1_2/320_256_256/0_0_0", voxels)
    found = dict(block_stream.split(await client.get("gray/subvolblocks/320_256_256/0_0_0"), 1 << 20))
    assert len(found) == 80
    assert found[3, 2, 1] == voxels[192:, 128:192, 64:128].tobytes()


async def test_jpeg_blocks(client):
    await client.create("gray", Compression="jpeg:95", BlockSize="16,16,16")
    voxels = np.broadcast_to(np.arange(16, dtype=np.uint8) * 10, (16, 16, 16))
    await client.post("gray/raw/0_1_2/16_16_16/0_0_0", voxels)
    ((_, jpeg),) = block_stream.split(await client.get("gray/subvolblocks/16_16_16/0_0_0"), 10_000)
    assert Image.open(io.BytesIO(jpeg)).size == (16, 256)
    assert await client.get("gray/raw/0_1_2/16_16_16/0_0_0/jpeg") == jpeg
    read = await client.voxels("gray/raw/0_1_2/16_16_16/0_0_0", np.uint8, (16, 16, 16))
    assert abs(read.astype(int) - voxels).mean() < 3


async def test_region_of_other_blocks_masks_single_voxels(client):
    await client.create("gray", BlockSize="8,8,8")
    await client.create("area", "roi", BlockSize="5,5,5")
    await client.post("area/roi", json.dumps([[0, 0, 0, 1], [1, 1, 1, 1]]).encode())
    inside = (await client.voxels("area/mask/0_1_2/16_16_16/0_0_0", np.uint8, (16, 16, 16))).astype(bool)
    assert inside.sum() == 375
    old, new = random_box(np.uint8, (16, 16, 16)), random_box(np.uint8, (16, 16, 16))
    await client.post("gray/raw/0_1_2/16_16_16/0_0_0", old)
    await client.post("gray/raw/0_1_2/16_16_16/0_0_0?roi=area&mutate=true", new)
    expected = np.where(inside, new, old)
    shape = (16, 16, 16)
    np.testing.assert_array_equal(await client.voxels("gray/raw/0_1_2/16_16_16/0_0_0", np.uint8, shape), expected)
    masked = await client.voxels(f"gray/raw/0_1_2/16_16_16/0_0_0?roi=area,{client.root}", np.uint8, shape)
    np.testing.assert_array_equal(masked, np.where(inside, expected, 0))


BAD_READS = [
    "raw/0_1_2/10_10/0_0_0",
    "raw/0_1_2/10_10_10/0_0",
    "raw/0_1_2/0_1_1/0_0_0",
    "raw/0_1_2/-1_1_1/0_0_0",
    "raw/0_1_2/a_b_c/0_0_0",
    "raw/0_1_2/1_1_1/99999999999_0_0",
    "raw/2_1_0/1_1_1/0_0_0",
    "raw/yx/4_4/0_0_0",
    "raw/xy/4_4/0_0_0/gif",
    "raw/xy/4_4/0_0_0/jpg:x",
    "raw/xy/4_4/0_0_0/jpg:1000",
    "raw/xy/4_0/0_0_0",
    "raw/xy/4_4_4/0_0_0",
    "raw/xy/70000_2/0_0_0/jpg",
    "raw/0_1_2/8_300_300/0_0_0/jpeg",
    "raw/0_1_2/8_8_8/0_0_0/jpeg:0",
    "raw/0_1_2/8_8_8/0_0_0?roi=nosuch",
    "raw/0_1_2/8_8_8/0_0_0?roi=gray",
    "raw/0_1_2/8_8_8/0_0_0?roi=gray,nosuchversion",
    "raw/0_1_2/8_8_8/0_0_0?attenuation=0",
    "raw/0_1_2/8_8_8/0_0_0?attenuation=x",
    "raw/0_1_2/8_8_8/0_0_0?generation=99",
    "isotropic/xy/4_4/0_0",
    "specificblocks?blocks=1,2",
    "specificblocks?blocks=1,2,x",
    "specificblocks?blocks=1,2,99999999999",
    "specificblocks?blocks=0,0,0&compression=zstd",
    "specificblocks?blocks=0,0,0&compression=jpeg",
    "subvolblocks/8_8_9/0_0_0",
    "subvolblocks/8_8_8/1_0_0",
    "subvolblocks/8_8/0_0_0",
    "subvolblocks/0_8_8/0_0_0",
    "blocks/0_0/1",
    "blocks/0_0_0/-1",
    "blocks/0_0_0/x",
    "arb/0_0_0/1_0_0/0_1_0/0",
    "arb/0_0_0/1_0_0/0_1_0/-1",
    "arb/0_0_0/1_0_0/0_1_0/nan",
    "arb/0_0_0/1_0_0/0_1_0/x",
    "arb/0_0_0/1_0_0/0_1/8",
    "arb/inf_0_0/1_0_0/0_1_0/8",
    "arb/9e10_0_0/9e10_0_0/9e10_0_0/8",
    "tags",
    "nosuch",
]


@pytest.mark.parametrize("path", BAD_READS)
async def test_bad_reads_are_refused(client, path):
    await client.create("gray", BlockSize="8,8,8")
    await client.get(f"gray/{path}", status=400)


@pytest.mark.parametrize(
    "path",
    [
        "raw/0_1_2/2000_2000_2000/0_0_0",
        "raw/0_1_2/2147483647_2147483647_2147483647/0_0_0",
        "subvolblocks/2048_2048_2048/0_0_0",
        "blocks/0_0_0/2147483647",
        "arb/0_0_0/1e9_0_0/0_1e9_0/1",
        "arb/1e300_0_0/1_0_0/0_1_0/8",
    ],
)
async def test_more_than_an_answer_may_hold(client, path):
    await client.create("gray", BlockSize="8,8,8")
    await client.get(f"gray/{path}", status=413)


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("raw/0_1_2/8_8_8/0_0_0", 511),
        ("raw/0_1_2/8_8_8/0_0_0", 513),
        ("raw/0_1_2/8_8_8/0_0_0", 0),
        ("raw/0_1_2/8_8_8/1_0_0", 512),
        ("raw/0_1_2/8_8_4/0_0_0", 256),
        ("raw/0_1/8_8/0_0_0", 64),
        ("raw/0_1_2/8_8_8/0_0_0?roi=nosuch", 512),
        ("isotropic/0_1_2/8_8_8/0_0_0", 512),
        ("blocks/0_0_0/1", 511),
        ("blocks/0_0_0/1", 513),
        ("blocks/0_0_0/0", 0),
        ("blocks/0_0_0/-1", 512),
        ("blocks/0_0_0/x", 512),
        ("subvolblocks/8_8_8/0_0_0", 512),
        ("specificblocks", 0),
        ("arb/0_0_0/1_0_0/0_1_0/8", 0),
        ("extents", 3),
        ("resolution", 3),
        ("sync", 3),
    ],
)
async def test_bad_writes_change_nothing(client, path, size):
    await client.create("gray", BlockSize="8,8,8")
    before = await client.get("gray/info")
    answer = await client.http.post(f"/api/node/{client.root}/gray/{path}", content=bytes(size))
    assert answer.status_code in (400, 405), answer.text
    assert answer.text.strip()
    assert await client.get("gray/info") == before
    assert await client.get("gray/subvolblocks/16_16_16/0_0_0") == b""


@pytest.mark.parametrize(
    "settings",
    [
        {"BlockSize": "0,8,8"},
        {"BlockSize": "8,8"},
        {"BlockSize": "1024,1024,1024"},
        {"Compression": "zstd"},
        {"Background": "300"},
        {"GridStore": "store"},
        {"Source": "file:///etc"},
        {"Source": "file:///etc/../etc"},
        {"Source": "http://example.org/volume"},
        {"Source": "gs://bucket/volume"},
        {"typename": "uint16blk", "Compression": "jpeg"},
    ],
)
async def test_bad_settings_are_refused(client, settings):
    await client.create("gray", status=400, **settings)


def write_volume(driver: str, path: Path, voxels: np.ndarray, **metadata: object) -> None:
    """A volume z, y, x in another format."""
    axes = ["x", "y", "z", "channel"] if driver == "neuroglancer_precomputed" else None
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}, "create": True, **metadata}
    if axes:
        ts.open(spec).result()[...] = voxels.transpose(2, 1, 0)[..., None]
    elif driver == "n5":
        ts.open(spec).result()[...] = voxels.transpose(2, 1, 0)
    else:
        ts.open(spec).result()[...] = voxels


def precomputed(encoding: str, sharding: dict | None = None) -> dict:
    scale = {
        "size": [40, 24, 16],
        "voxel_offset": [16, -8, 8],
        "resolution": [4, 5, 6],
        "chunk_size": [8, 8, 8],
        "encoding": encoding,
    }
    if sharding:
        scale["sharding"] = sharding
    return {"multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1}, "scale_metadata": scale}


SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "hash": "identity",
    "minishard_bits": 1,
    "shard_bits": 2,
    "data_encoding": "gzip",
    "minishard_index_encoding": "gzip",
}
CUBE = {
    "dtype": "uint8",
    "schema": {"domain": {"shape": [16, 24, 40]}, "chunk_layout": {"chunk": {"shape": [8, 8, 8]}}},
}
N5 = {
    "metadata": {
        "dimensions": [40, 24, 16],
        "blockSize": [8, 8, 8],
        "dataType": "uint8",
        "compression": {"type": "raw"},
        "axes": ["x", "y", "z"],
    }
}


@pytest.mark.parametrize("form", ["raw", "sharded", "zarr", "zarr3", "n5"])
async def test_published_volumes(client, sources, form):
    voxels = random_box(np.uint8, (16, 24, 40))
    if form in ("raw", "sharded"):
        metadata = precomputed("raw", SHARDING if form == "sharded" else None)
        write_volume("neuroglancer_precomputed", sources / "v", voxels, **metadata)
        x, y, z = 16, -8, 8
    else:
        write_volume(form, sources / "v", voxels, **(N5 if form == "n5" else CUBE))
        x, y, z = 0, 0, 0
    await client.create("pub", Source=f"file://{sources}/v")
    info = json.loads(await client.get("pub/info"))["Extended"]
    assert info["BlockSize"] == [8, 8, 8]
    assert (info["MinPoint"], info["MaxPoint"]) == ([x, y, z], [x + 39, y + 23, z + 15])
    assert info["GridStore"] == f"file://{sources}/v"
    if form in ("raw", "sharded"):
        assert info["VoxelSize"] == [4, 5, 6]
    read = await client.voxels(f"pub/raw/0_1_2/44_24_16/{x - 2}_{y}_{z}", np.uint8, (16, 24, 44))
    np.testing.assert_array_equal(read[:, :, 2:42], voxels)
    assert not read[:, :, :2].any()
    plane = Image.open(io.BytesIO(await client.get(f"pub/raw/yz/24_16/{x + 3}_{y}_{z}")))
    np.testing.assert_array_equal(np.asarray(plane), voxels[:, :, 3])
    await client.post(f"pub/raw/0_1_2/8_8_8/{x}_{y}_{z}", bytes(512), status=400)
    await client.post("pub/blocks/0_0_0/1", bytes(512), status=400)
    found = dict(block_stream.split(await client.get(f"pub/subvolblocks/8_8_8/{x}_{y}_{z}"), 1000))
    ((_, payload),) = found.items()
    assert lz4.block.decompress(bytes(payload)) == voxels[:8, :8, :8].tobytes()
    assert await client.get("pub/specificblocks?blocks=100,100,100") == b""


@pytest.mark.parametrize("sharding", [None, SHARDING])
async def test_published_jpegs_pass_through(client, sources, sharding):
    voxels = random_box(np.uint8, (16, 24, 40))
    write_volume("neuroglancer_precomputed", sources / "v", voxels, **precomputed("jpeg", sharding))
    await client.create("pub", Source=f"precomputed://file://{sources}/v", Compression="jpeg")
    jpeg = await client.get("pub/raw/0_1_2/8_8_8/24_0_8/jpeg")
    ((_, payload),) = block_stream.split(await client.get("pub/subvolblocks/8_8_8/24_0_8"), 10_000)
    assert payload == jpeg
    decoded = np.asarray(Image.open(io.BytesIO(jpeg))).reshape(8, 8, 8)
    read = await client.voxels("pub/raw/0_1_2/8_8_8/24_0_8", np.uint8, (8, 8, 8))
    np.testing.assert_array_equal(decoded, read)
    if sharding is None:
        assert jpeg == next((sources / "v").glob("*/24-32_0-8_8-16")).read_bytes()


async def test_pyramids_have_scales(client, sources):
    fine, coarse = random_box(np.uint8, (16, 24, 40)), random_box(np.uint8, (16, 24, 40))
    write_volume("zarr", sources / "ome" / "0", fine, **CUBE)
    write_volume("zarr", sources / "ome" / "1", coarse, **CUBE)
    axes = [{"name": name, "unit": "micrometer"} for name in "zyx"]
    datasets = [
        {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [0.03 * 2**level, 0.004, 0.004]}]}
        for level in range(2)
    ]
    (sources / "ome" / ".zgroup").write_text('{"zarr_format": 2}')
    (sources / "ome" / ".zattrs").write_text(json.dumps({"multiscales": [{"axes": axes, "datasets": datasets}]}))
    for level, voxels in enumerate([fine, coarse]):
        await client.create(f"scale{level}", Source=f"file://{sources}/ome", ScaleLevel=str(level))
        read = await client.voxels(f"scale{level}/raw/0_1_2/40_24_16/0_0_0", np.uint8, (16, 24, 40))
        np.testing.assert_array_equal(read, voxels)
        size = json.loads(await client.get(f"scale{level}/info"))["Extended"]["VoxelSize"]
        assert size == pytest.approx([4, 4, 30 * 2**level])
    await client.create("scale2", Source=f"file://{sources}/ome", ScaleLevel="2", status=400)
    await client.create("wide", "uint16blk", Source=f"file://{sources}/ome", status=400)


async def test_sources_elsewhere_are_for_administrators(client, tmp_path):
    write_volume("zarr", tmp_path / "elsewhere", random_box(np.uint8, (16, 24, 40)), **CUBE)
    assert "sources" in await client.create("pub", Source=f"file://{tmp_path}/elsewhere", status=400)
    await client.create("pub", Source=f"file://{tmp_path}/sources-not", status=400)
    await client.create("pub", Source=f"file://{tmp_path}/elsewhere", admin=ADMIN)
    await client.create("none", Source=f"file://{tmp_path}/nothing-there", admin=ADMIN, status=400)


async def test_broken_sources_are_refused(client, sources):
    for name, info in {
        "empty": "",
        "words": "nonsense",
        "list": "[]",
        "none": '{"scales": []}',
        "climbing": '{"scales": [{"key": "../../x", "resolution": [1, 1, 1]}]}',
        "zero": '{"scales": [{"key": "x", "resolution": [0, 1, 1]}]}',
        "half": '{"scales": [{"key": "x", "resolution": [1, 1, 1]}]}',
    }.items():
        (sources / name).mkdir(parents=True)
        (sources / name / "info").write_text(info)
        await client.create("pub", Source=f"file://{sources}/{name}", status=400)


async def test_oblique_slice_along_the_axes_is_the_slice(client):
    await client.create("gray", BlockSize="16,16,16", VoxelSize="8,8,8")
    voxels = random_box(np.uint8, (16, 32, 32))
    await client.post("gray/raw/0_1_2/32_32_16/0_0_0", voxels)
    image = Image.open(io.BytesIO(await client.get("gray/arb/16_8_24/176_8_24/16_88_24/8")))
    np.testing.assert_array_equal(np.asarray(image), voxels[3, 1:12, 2:23])


async def test_writes_are_logged(client):
    await client.create("gray", BlockSize="8,8,8")
    await client.post("gray/raw/0_1_2/8_8_16/0_8_0?u=me", bytes(1024))
    await client.post("gray/raw/0_1_2/8_8_8/0_8_0?mutate=true", bytes(512))
    records = json.loads(await client.get("gray/mutations"))
    assert [(r["Action"], r["Offset"], r["Size"]) for r in records] == [
        ("block-ingest", [0, 8, 0], [8, 8, 16]),
        ("block-mutate", [0, 8, 0], [8, 8, 8]),
    ]


async def test_stream_header(client):
    await client.create("gray", BlockSize="8,8,8", Compression="none")
    await client.post("gray/raw/0_1_2/8_8_8/-8_8_16", bytes(512))
    assert (await client.get("gray/specificblocks?blocks=-1,1,2"))[:16] == struct.pack("<4i", -1, 1, 2, 512)
    assert await client.get("gray/specificblocks?blocks=-1,1,2&prefetch=on") == b""
    assert await client.get("gray/specificblocks") == b""
