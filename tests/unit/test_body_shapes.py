"""Sparse volumes over HTTP, in this process, against the dense volume: merged bodies, coordinates below zero."""

import gzip
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import lz4.block
import numpy as np
import pytest

from app.datatypes.labelmap import sparse
from app.formats.dvid_pb2 import LabelIndex, LabelIndices, MappingOps
from app.kernels.downres import halve
from tests.formats.test_nanovdb import read
from tests.in_process import post_volume, served_labels
from tests.kernels.samples import synthetic

BLOCK = 32
SHAPE = (96, 64, 160)
CORNER = (-64, -32, -96)  # z, y, x
SCALES = 3
#: Body 1 is made of these supervoxels; the others are bodies of their own.
MEMBERS = [1, 2, 5]

Array = np.ndarray


def labels() -> Array:
    volume = synthetic(11, SHAPE, 0.02) % np.uint64(7)
    volume[:32, :, 32:96] = 2  # whole blocks, side by side
    volume[40:43, 3:7, 5:130] = 6
    return volume


def pyramid() -> list[tuple[tuple[int, ...], Array]]:
    found = [(CORNER, labels())]
    for _ in range(SCALES - 1):
        corner, finer = found[-1]
        found.append((tuple(side // 2 for side in corner), halve(finer)))
    return found


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    sides = ",".join([str(BLOCK)] * 3)
    async with served_labels(tmp_path, BlockSize=sides, MaxDownresLevel=str(SCALES - 1)) as http:
        await post_volume(http, labels(), CORNER)
        await merge(http)
        yield http


async def merge(http: httpx.AsyncClient) -> None:
    """Make supervoxels 2 and 5 members of body 1, as a pipeline does: by posted indices and mappings."""
    body = "[" + ",".join(map(str, MEMBERS)) + "]"
    indices = LabelIndices.FromString((await http.request("GET", "indices", content=body.encode())).content)
    joined = LabelIndex(label=MEMBERS[0])
    for index in indices.indices:
        for place, block in index.blocks.items():
            for supervoxel, count in block.counts.items():
                joined.blocks[place].counts[supervoxel] = count
    posted = LabelIndices(indices=[joined, *(LabelIndex(label=label) for label in MEMBERS[1:])])
    assert (await http.post("indices", content=posted.SerializeToString())).status_code == 200
    mappings = MappingOps()
    mappings.mappings.add(mutid=1, mapped=MEMBERS[0], original=MEMBERS)
    assert (await http.post("mappings", content=mappings.SerializeToString())).status_code == 200


def in_order(places: Array) -> Array:
    """Voxels (n, 3 as z, y, x) sorted; each only once."""
    found = np.unique(places, axis=0)
    assert len(found) == len(places)
    return found


def voxels_of(runs: bytes) -> Array:
    rows = np.frombuffer(runs, "<i4").reshape(-1, 4)
    assert (rows[:, 3] > 0).all()
    order = np.lexsort((rows[:, 0], rows[:, 1], rows[:, 2]))
    x, y, z, n = rows[order].astype(np.int64).T
    apart = (x[1:] > x[:-1] + n[:-1]) | (y[1:] != y[:-1]) | (z[1:] != z[:-1])
    assert apart.all(), "runs that touch are joined"
    along = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    return in_order(np.stack([np.repeat(z, n), np.repeat(y, n), np.repeat(x, n) + along], axis=1))


def legacy(body: bytes) -> bytes:
    assert body[:8] == bytes([0, 3, 0, 0, 0, 0, 0, 0])
    assert len(body) == 12 + 16 * struct.unpack_from("<I", body, 8)[0]
    return body[12:]


def expected(wanted: list[int], scale: int, bounds: dict[str, int]) -> Array:
    corner, volume = pyramid()[scale]
    places = np.argwhere(np.isin(volume, wanted)) + corner
    for axis, name in enumerate("zyx"):
        places = places[places[:, axis] >= bounds.get(f"min{name}", -(2**31))]
        places = places[places[:, axis] <= bounds.get(f"max{name}", 2**31)]
    return in_order(places)


QUESTIONS: list[dict[str, int]] = [
    {},
    {"scale": 1},
    {"scale": 2},
    {"minx": -37, "maxx": 21},
    {"miny": -3, "maxy": 12, "minz": -40, "maxz": -39},
    {"minx": -11, "maxx": -9, "scale": 1},
    {"maxz": -33},
]


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
async def test_runs_are_the_voxels(http: httpx.AsyncClient, question: dict[str, int]) -> None:
    bounds = {name: value for name, value in question.items() if name != "scale"}
    for label, wanted, more in ((1, MEMBERS, {}), (6, [6], {}), (2, [2], {"supervoxels": "true"})):
        right = expected(wanted, question.get("scale", 0), bounds)
        query = {**question, **more}
        for form in ("", "rles", "srles"):
            answer = await http.get(f"sparsevol/{label}", params={**query, "format": form})
            assert answer.status_code == 200
            found = voxels_of(answer.content if form == "srles" else legacy(answer.content))
            np.testing.assert_array_equal(found, right)
        plain = (await http.get(f"sparsevol/{label}", params=query)).content
        packed = (await http.get(f"sparsevol/{label}", params={**query, "compression": "lz4"})).content
        assert lz4.block.decompress(packed, uncompressed_size=len(plain)) == plain
        packed = (await http.get(f"sparsevol/{label}", params={**query, "compression": "gzip"})).content
        assert gzip.decompress(packed) == plain
        assert (await http.head(f"sparsevol/{label}", params=query)).status_code == 200


async def test_inexact_bounds_keep_whole_blocks(http: httpx.AsyncClient) -> None:
    found = (await http.get("sparsevol/1", params={"minx": -37, "maxx": -35, "exact": "false"})).content
    np.testing.assert_array_equal(voxels_of(legacy(found)), expected(MEMBERS, 0, {"minx": -64, "maxx": -33}))


def masks_of(body: bytes) -> Array:
    side = BLOCK // 8
    at = 20
    found = []
    while at < len(body):
        x, y, z, kind = struct.unpack_from("<3iB", body, at)
        at += 13
        for s in range(side**3):
            sub = kind
            if kind == 2:
                sub = body[at]
                at += 1
            bits = np.full(512, sub == 1)
            if sub == 2:
                bits = np.unpackbits(np.frombuffer(body, np.uint8, 64, at), bitorder="little")
                at += 64
            corner = (z + 8 * (s // side**2), y + 8 * (s // side % side), x + 8 * (s % side))
            found.append(np.argwhere(bits.reshape(8, 8, 8)) + corner)
    return in_order(np.concatenate(found))


@pytest.mark.parametrize("scale", range(SCALES))
async def test_binary_blocks_are_the_voxels(http: httpx.AsyncClient, scale: int) -> None:
    body = (await http.get("sparsevol/1", params={"format": "blocks", "scale": scale})).content
    assert struct.unpack_from("<3IQ", body) == (BLOCK // 8, BLOCK // 8, BLOCK // 8, 1)
    np.testing.assert_array_equal(masks_of(body), expected(MEMBERS, scale, {}))


async def test_large_answers_are_streamed(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {}
    forms: list[dict[str, str]] = [{"format": "rles"}, {"format": "srles"}, {"format": "blocks"}]
    forms.append({"format": "rles", "compression": "gzip"})
    for form in forms:
        whole[str(form)] = (await http.get("sparsevol/1", params={**form, "minx": "-96"})).content
    for held, batch in ((100, 1), (5000, 2), (0, 3)):
        monkeypatch.setattr(sparse, "HELD_BYTES", held)
        monkeypatch.setattr(sparse, "BATCH", batch)
        for form in forms:
            answer = await http.get("sparsevol/1", params={**form, "minx": "-96"})
            assert answer.status_code == 200
            assert "content-length" not in answer.headers
            got, right = answer.content, whole[str(form)]
            if "compression" in form:
                got, right = gzip.decompress(got), gzip.decompress(right)
            assert got == right


async def test_an_answer_follows_what_is_written(http: httpx.AsyncClient) -> None:
    """Nothing that is remembered outlives a write, though it changes no count."""
    size = BLOCK**3
    block = labels()[:BLOCK, :BLOCK, :BLOCK].copy()
    before = [(await http.get(path)).content for path in ("sparsevol/1", "size/1", "sparsevol-coarse/6")]
    place = "_".join(map(str, reversed(CORNER)))
    turned = np.ascontiguousarray(block[:, ::-1])
    answer = await http.post(f"raw/0_1_2/{BLOCK}_{BLOCK}_{BLOCK}/{place}?mutate=true", content=turned.tobytes())
    assert answer.status_code == 200
    volume = labels()
    volume[:BLOCK, :BLOCK, :BLOCK] = turned
    right = in_order(np.argwhere(np.isin(volume, MEMBERS)) + CORNER)
    np.testing.assert_array_equal(voxels_of(legacy((await http.get("sparsevol/1")).content)), right)
    assert (await http.get("size/1")).content == before[1]
    full = np.full((BLOCK,) * 3, 6, "<u8")
    await http.post(f"raw/0_1_2/{BLOCK}_{BLOCK}_{BLOCK}/{place}?mutate=true", content=full.tobytes())
    volume[:BLOCK, :BLOCK, :BLOCK] = 6
    assert (await http.get("size/6")).json() == {"voxels": int((volume == 6).sum())}
    assert (await http.request("GET", "sizes", content=b"[6,1,99,2]")).json() == [
        int((volume == 6).sum()),
        int(np.isin(volume, MEMBERS).sum()),
        0,
        0,
    ]
    runs = np.frombuffer(legacy((await http.get("sparsevol-coarse/6")).content), "<i4").reshape(-1, 4)
    blocks = {(z, y, x + i) for x, y, z, n in runs.tolist() for i in range(n)}
    places = np.argwhere(volume == 6) + CORNER
    assert blocks == set(map(tuple, (places // BLOCK).tolist()))
    assert size == (volume[:BLOCK, :BLOCK, :BLOCK] == 6).sum()


async def test_who_is_not_there(http: httpx.AsyncClient) -> None:
    for path in ("sparsevol/99", "sparsevol/2", "size/2", "sparsevol-size/99", "sparsevol-coarse/2"):
        assert (await http.get(path)).status_code == 404
    assert (await http.get("sparsevol/1", params={"minx": 1000})).status_code == 404
    assert (await http.head("sparsevol/99")).status_code == 204
    assert (await http.head("sparsevol/1", params={"minx": 1000})).status_code == 204
    x, y, z = CORNER[2] + 40, CORNER[1] + 1, CORNER[0] + 1
    by_point = (await http.get(f"sparsevol-by-point/{x}_{y}_{z}")).content
    assert by_point == (await http.get("sparsevol/1")).content


async def test_fvdb_holds_the_voxels_of_a_scale(http: httpx.AsyncClient) -> None:
    for scale in range(1, SCALES):
        answer = await http.get("fvdb/1", params={"scale": scale, "name": "body é"})
        assert answer.status_code == 200
        assert answer.headers["content-length"] == str(len(answer.content))
        disposition = answer.headers["content-disposition"]
        assert disposition == "attachment; filename=\"body ?.nvdb\"; filename*=UTF-8''body%20%C3%A9.nvdb"
        found, grid = read(answer.content)
        np.testing.assert_array_equal(in_order(np.array(list(found))[:, ::-1]), expected(MEMBERS, scale, {}))
        assert struct.unpack_from("<3d", grid, 608) == (8.0 * 2**scale,) * 3
    for wrong in ("fvdb/0", "fvdb/x", "fvdb/1?scale=x", "fvdb/1?scale=7", "fvdb/1?name=a%0Ab", "fvdb/1?name=a/b"):
        assert (await http.get(wrong)).status_code == 400, wrong
    assert (await http.get("fvdb/2")).status_code == 404


async def test_a_body_at_both_ends_of_the_world(http: httpx.AsyncClient) -> None:
    """Coordinates are int32; what has no number for so far a block says so."""
    ones = np.full((BLOCK,) * 3, 9, "<u8").tobytes()
    first, last = -(2**31), 2**31 - BLOCK
    for corner in (first, last):
        place = "_".join([str(corner)] * 3)
        answer = await http.post(f"raw/0_1_2/{BLOCK}_{BLOCK}_{BLOCK}/{place}", content=ones)
        assert answer.status_code == 200, answer.text
    runs = np.frombuffer(legacy((await http.get("sparsevol/9")).content), "<i4").reshape(-1, 4)
    assert len(runs) == 2 * BLOCK**2
    assert (runs[:, :3].min(), runs[:, :3].max()) == (first, last + BLOCK - 1)
    coarse = np.frombuffer(legacy((await http.get("sparsevol-coarse/9")).content), "<i4").reshape(-1, 4)
    assert coarse.tolist() == [[first // BLOCK] * 3 + [1], [last // BLOCK] * 3 + [1]]
    assert len((await http.get("sparsevol/9", params={"format": "blocks"})).content) == 20 + 2 * 13
    found, _ = read((await http.get("fvdb/9", params={"scale": 2})).content)
    assert len(found) == 2 * (BLOCK // 4) ** 3
    near = (await http.get("proximity/9/6")).json()
    assert near["distance_voxels"] > 2**31
    for path in ("index/9", "indices"):
        answer = await http.request("GET", path, content=b"[9]")
        assert answer.status_code == 400
        assert "too far out" in answer.text
