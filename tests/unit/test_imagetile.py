"""Tiles over HTTP, in this process: kept as posted, read at any version and generation, and put together to slices."""

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.datatypes.values import PIECE_BYTES
from tests.in_process import ADMIN, Served, served

RNG = np.random.default_rng(11)
AXES = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}


def levels(*sizes: tuple[int, int, int]) -> dict[str, Any]:
    scales = {
        str(scale): {"Resolution": [8.0 * 2**scale] * 3, "TileSize": list(size)} for scale, size in enumerate(sizes)
    }
    return {"MinTileCoord": [0, 0, 0], "MaxTileCoord": [3, 3, 3], "Levels": scales}


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def decoded(image: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(image)) as found:
        return np.asarray(found)


def grey(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


class Client(Served):
    async def get(self, path: str, status: int = 200) -> bytes:
        return (await self.ask("GET", path, status)).content

    async def post(self, path: str, body: bytes, status: int = 200) -> None:
        await self.ask("POST", path, status, content=body)

    async def make(self, name: str, *sizes: tuple[int, int, int], **given: str) -> None:
        await self.create("imagetile", name, **given)
        await self.ask("POST", f"{name}/metadata", json=levels(*(sizes or [(32, 24, 16)])))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with served(tmp_path, max_answer_bytes=64 << 20) as found:
        await found.create("uint8blk", "gray")
        yield Client(*found)


@pytest.mark.parametrize(("form", "media"), [("png", "image/png"), ("jpg", "image/jpeg")])
async def test_tiles_come_back_as_they_were_posted(client: Client, form: str, media: str) -> None:
    await client.make("tiles", Format=form)
    for body in (encoded(grey(24, 32)), b"no image at all", RNG.bytes(2 * PIECE_BYTES + 1)):
        await client.post("tiles/tile/xz/0/1_2_3", body)
        answer = await client.ask("GET", "tiles/tile/0_2/0/1_2_3")
        assert (answer.content, answer.headers["content-type"]) == (body, media)
    await client.get("tiles/tile/xy/0/1_2_3?noblanks=true", 404)
    await client.post("tiles/tile/xz/0/1_2_3", b"")
    await client.get("tiles/tile/xz/0/1_2_3?noblanks=true", 404)


async def test_tiles_in_lz4_are_kept_as_pixels(client: Client) -> None:
    await client.make("tiles", Format="lz4", Source="gray")
    pixels = grey(16, 32)
    bodies = [encoded(pixels), lz4.block.compress(pixels.tobytes(), store_size=False)]
    for number, body in enumerate(bodies):
        await client.post(f"tiles/tile/xz/0/{number}_0_0", body)
        for suffix, form in (("", "png"), ("/png", "png"), ("/bmp", "bmp")):
            answer = await client.ask("GET", f"tiles/tile/xz/0/{number}_0_0{suffix}")
            assert answer.headers["content-type"] == f"image/{form}"
            assert np.array_equal(decoded(answer.content), pixels)
    assert np.array_equal(decoded(await client.get("tiles/raw/xz/64_16/0_0_0")), np.hstack([pixels, pixels]))
    await client.post("tiles/tile/xz/0/0_0_0", encoded(pixels, "JPEG"))
    near = decoded(await client.get("tiles/tile/xz/0/0_0_0")).astype(int)
    assert np.abs(near - decoded(encoded(pixels, "JPEG"))).max() <= 1
    before = await client.get("tiles/tile/xz/0/1_0_0")
    for wrong in (b"nonsense", encoded(grey(16, 31)), lz4.block.compress(bytes(511), store_size=False)):
        await client.post("tiles/tile/xz/0/1_0_0", wrong, 400)
    await client.post("tiles/tile/xz/1/1_0_0", bodies[0], 400)  # no such scale
    assert await client.get("tiles/tile/xz/0/1_0_0") == before


async def test_blank_tiles_have_the_size_of_their_scale_and_plane(client: Client) -> None:
    await client.make("tiles", (32, 24, 16), (64, 48, 5))
    for scale, size in enumerate([(32, 24, 16), (64, 48, 5)]):
        for plane, (first, second) in AXES.items():
            answer = await client.ask("GET", f"tiles/tile/{plane}/{scale}/7_7_7")
            assert answer.headers["content-type"] == "image/png"
            blank = decoded(answer.content)
            assert blank.shape == (size[second], size[first])
            assert not blank.any()
    assert Image.open(io.BytesIO(await client.get("tiles/tile/xy/0/7_7_7/jpg"))).format == "JPEG"
    await client.get("tiles/tile/xy/0/7_7_7/gif", 400)
    await client.get("tiles/tile/xy/2/7_7_7", 400)
    await client.get("tiles/tile/xy/0/-1_0_0?noblanks=true", 404)
    assert decoded(await client.get("tiles/tile/xy/0/-1_0_0")).shape == (24, 32)
    await client.post("tiles/tile/xy/0/-1_0_0", b"x", 400)
    # What no version says is not found again by the tag of one.
    first = await client.ask("GET", "tiles/tile/xy/0/7_7_7")
    await client.ask("POST", "tiles/metadata", json=levels((8, 8, 8)))
    tag = first.headers.get("etag", "")
    again = await client.ask("GET", "tiles/tile/xy/0/7_7_7", headers={"if-none-match": tag})
    assert decoded(again.content).shape == (8, 8)


async def test_earlier_generations_and_other_versions_keep_their_tiles(client: Client) -> None:
    await client.make("tiles", Source="gray")
    pictures = [encoded(grey(24, 32)) for _ in range(3)]
    tags = []
    for picture in pictures[:2]:
        await client.post("tiles/tile/xy/0/0_0_0", picture)
        tags.append((await client.ask("GET", "tiles/tile/xy/0/0_0_0")).headers["etag"])
    child = await client.child()
    await client.post("tiles/tile/xy/0/0_0_0", pictures[2], 400)
    await client.ask("POST", "tiles/metadata", 400, json=levels((8, 8, 8)))
    await client.post(f"/api/node/{child}/tiles/tile/xy/0/0_0_0", pictures[2])
    generation = tags[0].strip('"').rpartition(".")[2]
    assert await client.get(f"tiles/tile/xy/0/0_0_0?generation={generation}") == pictures[0]
    early = await client.get(f"tiles/raw/xy/32_24/0_0_0?generation={generation}")
    assert np.array_equal(decoded(early), decoded(pictures[0]))
    final = await client.ask("GET", "tiles/tile/xy/0/0_0_0")
    assert final.content == pictures[1]
    assert "immutable" in final.headers["cache-control"]
    assert await client.get(f"/api/node/{child}/tiles/tile/xy/0/0_0_0") == pictures[2]
    told = (await client.ask("GET", f"/api/node/{child}/tiles/mutations")).json()
    assert [record["Tile"] for record in told] == ["xy/0/0_0_0"]


async def test_version_merges_join_tile_by_tile(client: Client) -> None:
    await client.make("tiles")
    large = RNG.bytes(PIECE_BYTES + 1)
    await client.post("tiles/tile/xy/0/0_0_0", b"root")
    sides = [await client.child(f"side{number}") for number in range(2)]
    for number, side in enumerate(sides):
        await client.post(f"/api/node/{side}/tiles/tile/xy/0/{number}_1_0", large)
        await client.post(f"/api/node/{side}/tiles/tile/xy/0/5_5_5", large)  # the same, but in pieces of its own
        await client.ask("POST", f"/api/node/{side}/commit", json={})
    body = {"mergeType": "conflict-free", "parents": sides}
    child = (await client.ask("POST", f"/api/repo/{client.root}/merge", json=body)).json()["child"]
    for place in ("0_1_0", "1_1_0", "5_5_5"):
        assert await client.get(f"/api/node/{child}/tiles/tile/xy/0/{place}") == large
    assert await client.get(f"/api/node/{child}/tiles/tile/xy/0/0_0_0") == b"root"
    data = await client.service.datastore.data(child, "tiles")
    assert len(await (await data.head()).keys(b"v/", b"v0")) == 3 * 2

    others = []
    for number, side in enumerate(sides):
        answer = await client.ask("POST", f"/api/node/{side}/branch", json={"branch": f"other{number}"})
        others.append(answer.json()["child"])
        await client.post(f"/api/node/{others[-1]}/tiles/tile/yz/0/1_2_3", b"%d" % number)
        await client.ask("POST", f"/api/node/{others[-1]}/commit", json={})
    body = {"mergeType": "conflict-free", "parents": others}
    refused = await client.ask("POST", f"/api/repo/{client.root}/merge", 400, json=body)
    assert "tile yz/0/1_2_3" in refused.text
    settled = await client.ask(
        "POST", f"/api/repo/{client.root}/resolve", json={"data": ["tiles"], "parents": others, "note": ""}
    )
    assert await client.get(f"/api/node/{settled.json()['child']}/tiles/tile/yz/0/1_2_3") == b"0"


async def test_isotropic_slices_repeat_the_coarser_axis_of_the_source(client: Client) -> None:
    await client.create("uint8blk", "flat", VoxelSize="8,8,32")
    await client.make("tiles", (32, 32, 8), Source="flat")
    pixels = grey(8, 32)
    await client.post("tiles/tile/xz/0/0_3_0", encoded(pixels))
    assert np.array_equal(decoded(await client.get("tiles/raw/xz/32_8/0_3_0")), pixels)
    square = decoded(await client.get("tiles/isotropic/xz/32_32/0_3_0"))
    assert np.array_equal(square, pixels.repeat(4, axis=0))


async def test_slices_have_the_depth_of_the_source(client: Client) -> None:
    await client.create("uint16blk", "deep")
    await client.create("rgba8blk", "color")
    await client.create("uint64blk", "wide")
    await client.create("keyvalue", "kv")
    shallow, deep, color = grey(24, 32), RNG.integers(0, 1 << 16, (24, 32), np.uint16), grey(24, 32, 4)
    for name in ("deep", "color", "wide", "kv", "nothing"):
        await client.make(f"tiles-{name}", Source=name)
        for number, pixels in enumerate([shallow, deep, color]):
            await client.post(f"tiles-{name}/tile/xy/0/0_0_{number}", encoded(pixels))
    found = [decoded(await client.get(f"tiles-deep/raw/xy/32_24/0_0_{number}")) for number in range(2)]
    assert np.array_equal(found[0], shallow.astype(np.uint16) * 257)
    assert np.array_equal(found[1], deep)
    found = [decoded(await client.get(f"tiles-color/raw/xy/32_24/0_0_{number}")) for number in range(3)]
    assert np.array_equal(found[0], np.dstack([shallow] * 3 + [np.full_like(shallow, 255)]))
    assert np.array_equal(found[1][..., 1], deep >> 8)
    assert np.array_equal(found[2], color)
    for name in ("wide", "kv", "nothing"):
        await client.get(f"tiles-{name}/raw/xy/32_24/0_0_0", 400)


async def test_placeholders_stand_for_missing_tiles_of_slices(client: Client) -> None:
    await client.make("tiles", (64, 64, 64), Source="gray", Placeholder="true")
    assert (await client.ask("GET", "tiles/info")).json()["Extended"]["Placeholder"] is True
    await client.post("tiles/tile/xy/0/0_0_0", encoded(np.full((64, 64), 7, np.uint8)))
    found = decoded(await client.get("tiles/raw/xy/128_64/0_0_0"))
    assert (found[:, :64] == 7).all()
    assert (found[:, 64:].min(), found[:, 64:].max() > 200) == (0, True)
    elsewhere = decoded(await client.get("tiles/raw/xy/64_64/64_64_9"))
    assert not np.array_equal(found[:, 64:], elsewhere)  # they say which tile is missing


async def test_slices_name_the_tile_that_is_no_picture(client: Client) -> None:
    await client.make("tiles", Source="gray")
    await client.post("tiles/tile/xy/0/1_0_5", b"nonsense")
    answer = await client.ask("GET", "tiles/raw/xy/64_24/0_0_5", 400)
    assert "tile xy/0/1_0_5" in answer.text
    await client.post("tiles/tile/xy/0/1_0_5", encoded(np.zeros((9000, 9000), np.uint8)))
    assert "pixels" in (await client.ask("GET", "tiles/raw/xy/64_24/0_0_5", 400)).text


@pytest.mark.parametrize(
    "size", ["100000_100000", "1048577_1", "0_5", "-3_5", "5", "5_5_5", "99999999999999999999_1", "20000_20000"]
)
async def test_slices_of_odd_sizes_are_refused(client: Client, size: str) -> None:
    await client.make("tiles", (1, 1, 1), Source="gray")
    for kind in ("raw", "isotropic"):
        answer = await client.http.get(f"/api/node/{client.root}/tiles/{kind}/xy/{size}/0_0_0")
        assert answer.status_code in (400, 413), answer.text[:200]
        assert answer.text.strip()


async def test_slices_of_too_many_tiles_are_refused(client: Client) -> None:
    await client.make("tiles", (1, 1, 1), Source="gray")
    await client.get("tiles/raw/xy/1000_1000/0_0_0", 413)


@pytest.mark.parametrize(
    "change",
    [
        {"Levels": {}},
        {"Levels": None},
        {"Levels": [1]},
        {"Levels": {"1": {"Resolution": [8, 8, 8], "TileSize": [8, 8, 8]}}},
        {"Levels": {"0": {"Resolution": [8, 8, 8]}}},
        {"Levels": {"0": {"Resolution": [8, 8], "TileSize": [8, 8, 8]}}},
        {"Levels": {"0": {"Resolution": [8, 8, -1], "TileSize": [8, 8, 8]}}},
        {"Levels": {"0": {"Resolution": [8, 8, 8], "TileSize": [8, 8, 0]}}},
        {"Levels": {"0": {"Resolution": [8, 8, 8], "TileSize": [8, 8.5, 8]}}},
        {"Levels": {"0": {"Resolution": [8, 8, 8], "TileSize": [1 << 20, 1 << 20, 1]}}},
        {"Levels": {"0": 5}},
        {"MinTileCoord": [0, 0]},
        {"MaxTileCoord": "0,0,0"},
        {"MinTileCoord": [9, 0, 0]},
        {"MinTileCoord": [1 << 40, 0, 0]},
        *(
            {
                "Levels": {
                    "0": {"Resolution": [8, 8, 8], "TileSize": [8, 8, 8]},
                    "1": {"Resolution": [8, 8, coarser], "TileSize": [8, 8, 8]},
                }
            }
            for coarser in (4, 12, 15, 20)
        ),
    ],
)
async def test_metadata_that_make_no_sense_change_nothing(client: Client, change: dict[str, Any]) -> None:
    await client.make("tiles")
    before = await client.get("tiles/metadata")
    await client.ask("POST", "tiles/metadata", 400, json={**levels((8, 8, 8)), **change})
    assert await client.get("tiles/metadata") == before


async def test_metadata_are_read_without_regard_to_case(client: Client) -> None:
    await client.create("imagetile", "tiles")
    body = {"levels": {"0": {"resolution": [3.5, 4, 5], "tilesize": [8, 16, 32]}}}
    await client.ask("POST", "tiles/metadata", json=body)
    level = {"Resolution": [3.5, 4, 5], "TileSize": [8, 16, 32]}
    assert (await client.ask("GET", "tiles/metadata")).json() == {
        "MinTileCoord": [0, 0, 0],
        "MaxTileCoord": [0, 0, 0],
        "Levels": {"0": level},
    }


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"Format": "jpeg"}, 400),
        ({"Format": "lz4", "Compression": "none"}, 400),
        ({"Compression": "gzip"}, 400),
        ({"Placeholder": "maybe"}, 400),
        ({"Format": "LZ4", "Compression": "lz4"}, 200),
        ({"Format": "PNG", "Compression": "None"}, 200),
    ],
)
async def test_the_compression_follows_from_the_format(client: Client, given: dict[str, str], status: int) -> None:
    body = {"typename": "imagetile", "dataname": "tiles", **given}
    await client.ask("POST", f"/api/repo/{client.root}/instance", status, json=body)


async def test_keys_tell_tiles_apart(client: Client) -> None:
    await client.make("tiles")
    paths = ["xy/0/1_2_3", "xz/0/1_2_3", "xy/1/1_2_3", "xy/0/3_2_1", "xy/0/1_2_-3"]
    keys = [(await client.ask("GET", f"tiles/tilekey/{path}")).json()["key"] for path in paths]
    assert len(set(keys)) == len(paths)
    assert all(bytes.fromhex(key) for key in keys)


async def test_a_removed_instance_takes_its_tiles_along(client: Client, tmp_path: Path) -> None:
    await client.make("tiles")
    await client.post("tiles/tile/xy/0/0_0_0", RNG.bytes(1000))
    data = await client.service.datastore.data(client.root, "tiles")
    folder = tmp_path / data.folder
    assert folder.is_dir()
    await client.ask("DELETE", f"/api/repo/{client.root}/instance/tiles?imsure=true&admintoken={ADMIN}")
    await client.get("tiles/tile/xy/0/0_0_0", 400)
    for _ in range(500):
        if not folder.is_dir():  # it is emptied after the answer
            break
        await asyncio.sleep(0.02)
    assert not folder.is_dir()
    await client.make("tiles")
    await client.get("tiles/tile/xy/0/0_0_0?noblanks=true", 404)


@settings(max_examples=25, deadline=None)
@given(
    plane=st.sampled_from(list(AXES)),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    picked=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8),
    at=st.tuples(st.integers(-12, 40), st.integers(-12, 40)),
    extent=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    form=st.sampled_from(["png", "lz4"]),
    more=st.integers(-2, 2),
)
def test_slices_are_what_pasted_tiles_show(
    plane: str,
    size: tuple[int, int, int],
    picked: set[tuple[int, int]],
    at: tuple[int, int],
    extent: tuple[int, int],
    form: str,
    more: int,
) -> None:
    """Any slice equals the part of a canvas on which the tiles lie side by side; pictures of other sizes are cut."""
    first, second = AXES[plane]
    width, height = size[first], size[second]
    canvas = np.zeros((200, 200), np.uint8)  # its corner is the point -20, -20
    tiles = {}
    for column, row in picked:
        odd = more if form == "png" else 0
        pixels = grey(max(1, height + odd), max(1, width + odd))
        tiles[column, row] = pixels
        shown = pixels[:height, :width]
        top, left = 20 + row * height, 20 + column * width
        canvas[top : top + shown.shape[0], left : left + shown.shape[1]] = shown

    def place(along: int, down: int) -> str:
        found = [5, 5, 5]
        found[first], found[second] = along, down
        return "_".join(map(str, found))

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with served(Path(folder)) as found:
                client = Client(*found)
                await found.create("uint8blk", "gray")
                await client.make("tiles", size, Source="gray", Format=form)
                for (column, row), pixels in tiles.items():
                    await client.post(f"tiles/tile/{plane}/0/{place(column, row)}", encoded(pixels))
                slice_ = await client.get(f"tiles/raw/{plane}/{extent[0]}_{extent[1]}/{place(*at)}")
        left, top = at[0] + 20, at[1] + 20
        assert np.array_equal(decoded(slice_), canvas[top : top + extent[1], left : left + extent[0]])

    asyncio.run(run())
