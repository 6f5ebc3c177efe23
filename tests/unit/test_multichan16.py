"""Channels over HTTP, in this process: V3D's files loaded, seen in slices, replaced and joined as a whole."""

import asyncio
import io
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.formats import v3d_raw
from tests.in_process import Served, served
from tests.stacks import v3draw

RNG = np.random.default_rng(5)
AXES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}


def random(count: int, shape_zyx: tuple[int, int, int], dtype: Any = np.uint16) -> np.ndarray:
    most = RNG.integers(1, np.iinfo(dtype).max, count)
    return np.stack([RNG.integers(0, high, shape_zyx, dtype, endpoint=True) for high in most])


def composite(dense: np.ndarray) -> np.ndarray:
    """The colours (z, y, x, rgba) of channels, said as plainly as possible."""
    out = np.zeros((*dense.shape[1:], 4), np.uint8)
    out[..., 3] = 255
    for number, channel in enumerate(dense[:3]):
        low, high = int(channel.min()), int(channel.max())
        out[..., number] = (channel.astype(np.int64) - low) * 255 // max(1, high - low)
    return out


def decoded(image: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(image)) as found:
        return np.asarray(found)


class Client(Served):
    async def load(self, body: bytes, status: int = 200, version: str = "") -> httpx.Response:
        return await self.ask("POST", f"/api/node/{version or self.root}/mc/load", status, content=body)

    async def pixels(self, path: str, version: str = "") -> np.ndarray:
        return decoded((await self.ask("GET", f"/api/node/{version or self.root}/mc/{path}")).content)

    async def whole(self, dense: np.ndarray, number: int, version: str = "") -> np.ndarray:
        """The voxels z, y, x of a channel, slice by slice."""
        _, depth, height, width = dense.shape
        path = f"xy/{width}_{height}/0_0_{{}}?channel={number}"
        return np.stack([await self.pixels(path.format(z), version) for z in range(depth)])


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with served(tmp_path, max_answer_bytes=64 << 20) as found:
        await found.create("multichan16", "mc", BlockSize="16,8,4")
        yield Client(*found)


@pytest.mark.parametrize("order", ["L", "B"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
async def test_channels_read_back(client: Client, order: str, dtype: Any) -> None:
    dense = random(4, (9, 21, 33), dtype)
    answer = await client.load(v3draw(dense, order))
    assert answer.json() == {"NumChannels": 4, "Size": [33, 21, 9]}
    for number in range(1, 5):
        assert np.array_equal(await client.whole(dense, number), dense[number - 1])
    colors = composite(dense)
    assert np.array_equal(await client.pixels("xz/33_9/0_7_0"), colors[:, 7])
    assert np.array_equal(await client.pixels("1_2/21_9/8_0_0"), colors[:, :, 8])
    described = (await client.ask("GET", "mc/info")).json()["Extended"]
    assert described["NumChannels"] == 4
    assert described["Values"][1] == {"DataType": np.dtype(dtype).name, "Label": "channel2"}
    assert (described["MinPoint"], described["MaxPoint"]) == ([0, 0, 0], [32, 20, 8])
    assert (described["MinIndex"], described["MaxIndex"]) == ([0, 0, 0], [2, 2, 2])


async def test_forms_and_refusals_of_slices(client: Client) -> None:
    await client.ask("GET", "mc/xy/8_8/0_0_0", 400)  # nothing is loaded
    dense = np.broadcast_to(np.uint16([[[[7]]], [[[9]]]]), (2, 4, 8, 16)).copy()  # in each channel one value only
    await client.load(v3draw(dense))
    assert (await client.pixels("xy/16_8/0_0_0") == [0, 0, 0, 255]).all()
    for path, media in (("jpg", "jpeg"), ("jpg:50", "jpeg"), ("png", "png"), ("bmp", "bmp"), ("tiff", "tiff")):
        for query in ("", "?channel=2"):
            answer = await client.ask("GET", f"mc/xy/16_8/0_0_0/{path}{query}")
            assert answer.headers["content-type"] == f"image/{media}"
    assert (await client.pixels("xy/16_8/0_0_0?channel=2") == 9).all()
    for path in ("xy/8_8/0_0_0?channel=3", "xy/8_8/0_0_0?channel=-1", "xy/8_8/0_0_0?channel=x", "xy/8_8/0_0_0/gif"):
        await client.ask("GET", f"mc/{path}", 400)
    for path in ("vol/8_8_8/0_0_0", "raw/xy/8_8/0_0_0", "xy", "xy/8_8", "yx/8_8/0_0_0", "xy/8/0_0_0", "xy/0_8/0_0_0"):
        await client.ask("GET", f"mc/{path}", 400)
    await client.ask("GET", "mc/xy/100000_100000/0_0_0", 413)
    for method in ("POST", "DELETE"):
        await client.ask(method, "mc/xy/8_8/0_0_0", 400)


async def test_slices_beyond_the_volume_are_empty_there(client: Client) -> None:
    dense = random(2, (5, 10, 10)) | 1
    await client.load(v3draw(dense))
    found = await client.pixels("xy/20_20/-5_-5_2?channel=1")
    assert np.array_equal(found[5:15, 5:15], dense[0, 2])
    assert not found[:5].any()
    assert not found[15:].any()
    assert not found[:, :5].any()
    colors = await client.pixels("xy/20_20/-5_-5_2")
    assert np.array_equal(colors[5:15, 5:15], composite(dense)[2])
    assert colors.any(axis=2).sum() == 100
    assert not (await client.pixels("xy/20_20/0_0_5")).any()


def broken() -> dict[str, bytes]:
    good = v3draw(random(2, (3, 4, 5)))
    start = len(v3d_raw.MAGIC) + 1
    huge = struct.pack("<H4I", 2, *[0xFFFFFFFF] * 4)
    return {
        "nothing": b"",
        "another format": b"II*\0" + good[4:],
        "cut in the header": good[: v3d_raw.HEADER_BYTES - 1],
        "order": good[: start - 1] + b"X" + good[start:],
        "type": good[:start] + struct.pack("<H", 4) + good[start + 2 :],
        "no voxels": v3draw(np.zeros((1, 0, 4, 5), np.uint16)),
        "no channels": v3draw(np.zeros((0, 3, 4, 5), np.uint16)),
        "cut": good[:-1],
        "too long": good + b"\0",
        "huge": good[:start] + huge + good[start + 18 :],
        "too many channels": v3draw(np.ones((1 << 16, 1, 1, 1), np.uint8)),
    }


@pytest.mark.parametrize("name", broken())
async def test_a_broken_file_changes_nothing(client: Client, name: str) -> None:
    dense = random(1, (3, 4, 5))
    await client.load(v3draw(dense))
    before = (await client.ask("GET", "mc/info")).json()
    await client.load(broken()[name], 400)
    assert (await client.ask("GET", "mc/info")).json() == before
    assert np.array_equal(await client.whole(dense, 1), dense[0])


async def test_a_load_replaces_all_channels_of_its_version(client: Client) -> None:
    large, small = random(3, (9, 20, 40)), random(1, (4, 5, 6), np.uint8)
    await client.load(v3draw(large))
    tag = (await client.ask("GET", "mc/xy/4_4/0_0_0")).headers["etag"]
    await client.load(v3draw(small))
    assert np.array_equal(await client.whole(small, 1), small[0])
    assert not (await client.pixels("xy/20_20/6_5_0")).any()
    await client.ask("GET", "mc/xy/4_4/0_0_0?channel=2", 400)
    generation = tag.strip('"').rpartition(".")[2]
    early = await client.pixels(f"xy/40_20/0_0_8?channel=3&generation={generation}")
    assert np.array_equal(early, large[2, 8])

    child = await client.child("side")
    await client.load(v3draw(large), 400)
    await client.load(v3draw(large), version=child)
    assert np.array_equal(await client.whole(large, 2, child), large[1])
    assert np.array_equal(await client.whole(small, 1), small[0])
    assert (await client.ask("GET", "mc/info")).json()["Extended"]["NumChannels"] == 1
    told = (await client.ask("GET", f"/api/node/{child}/mc/mutations")).json()
    assert [(record["Action"], record["Channels"]) for record in told] == [("load", 3)]


async def test_version_merges_take_one_load_or_the_other(client: Client) -> None:
    await client.load(v3draw(random(1, (4, 8, 16))))
    sparse, full = np.zeros((2, 4, 8, 16), np.uint16), random(3, (8, 16, 32)) | 1
    sparse[:, 0, 0, 0] = 5
    loads = {"none": None, "same": sparse, "again": sparse, "full": full}
    versions = {}
    for name, dense in loads.items():
        versions[name] = await client.child(name)
        if dense is not None:
            await client.load(v3draw(dense), version=versions[name])
        await client.ask("POST", f"/api/node/{versions[name]}/commit", json={})

    async def join(path: str, *names: str, status: int = 200, **more: Any) -> httpx.Response:
        body = {"mergeType": "conflict-free", "parents": [versions[name] for name in names], "note": "", **more}
        return await client.ask("POST", f"/api/repo/{client.root}/{path}", status, json=body)

    for names, dense in ((("none", "full"), full), (("full", "none"), full), (("same", "again"), sparse)):
        child = (await join("merge", *names)).json()["child"]
        for number in range(1, len(dense) + 1):
            assert np.array_equal(await client.whole(dense, number, child), dense[number - 1])
    assert "the channels" in (await join("merge", "same", "full", status=400)).text
    for names, dense in ((("same", "full"), sparse), (("full", "same"), full)):
        child = (await join("resolve", *names, data=["mc"])).json()["child"]
        found = (await client.ask("GET", f"/api/node/{child}/mc/info")).json()["Extended"]
        assert found["NumChannels"] == len(dense)
        assert np.array_equal(await client.whole(dense, 1, child), dense[0])


@pytest.mark.parametrize("compression", ["none", "lz4", "gzip:9", "snappy"])
async def test_every_compression_reads_back(client: Client, compression: str) -> None:
    await client.create("multichan16", "other", Compression=compression)
    dense = random(2, (5, 40, 50))
    await client.ask("POST", "other/load", content=v3draw(dense))
    answer = await client.ask("GET", "other/xy/50_40/0_0_4?channel=2")
    assert np.array_equal(decoded(answer.content), dense[1, 4])


async def test_settings_that_make_no_sense_are_refused(client: Client) -> None:
    for wrong in ({"Compression": "jpeg"}, {"BlockSize": "0,8,8"}, {"GridStore": "x"}, {"BlockSize": "1024,1024,1024"}):
        body = {"typename": "multichan16", "dataname": "bad", **wrong}
        await client.ask("POST", f"/api/repo/{client.root}/instance", 400, json=body)


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(1, 5),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20)),
    block=st.tuples(*[st.integers(1, 12)] * 3),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    plane=st.sampled_from(list(AXES)),
    at=st.tuples(*[st.integers(-8, 20)] * 3),
    extent=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    is_sparse=st.booleans(),
)
def test_any_slice_shows_the_volume(
    count: int,
    shape: tuple[int, int, int],
    block: tuple[int, int, int],
    dtype: Any,
    plane: str,
    at: tuple[int, int, int],
    extent: tuple[int, int],
    is_sparse: bool,
) -> None:
    """A slice of a channel, and of the composite, is that of a volume with nothing around it."""
    dense = random(count, shape, dtype)
    if is_sparse:
        dense[:, RNG.random(shape) < 0.95] = 0
    around = [(0, 0)] + [(8, 50)] * 3
    plain, colors = np.pad(dense, around), np.pad(composite(dense), [*around[1:], (0, 0)])
    first, second = AXES[plane]
    cut: list[Any] = [8 + place for place in reversed(at)]
    for axis, size in ((first, extent[0]), (second, extent[1])):
        cut[2 - axis] = slice(cut[2 - axis], cut[2 - axis] + size)

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with served(Path(folder)) as found:
                client = Client(*found)
                await found.create("multichan16", "mc", BlockSize=",".join(map(str, block)))
                await client.load(v3draw(dense))
                path = f"{plane}/{extent[0]}_{extent[1]}/{'_'.join(map(str, at))}"
                assert np.array_equal(await client.pixels(path), colors[tuple(cut)])
                for number in range(count):
                    shown = await client.pixels(f"{path}?channel={number + 1}")
                    assert np.array_equal(shown, plain[number][tuple(cut)])

    asyncio.run(run())
