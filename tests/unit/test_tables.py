"""The label index and the mapping as Arrow tables, in this process, against the voxels and `mappings`."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from app.backends import ocdbt
from app.datatypes.labelmap import deltas, export
from tests import journals
from tests.in_process import served_labels

BLOCK = 16
CORNER = np.array([-1, 0, -2])  # blocks, z, y, x


def volume(seed: int) -> np.ndarray:
    """Every sub-block of 8³ is one supervoxel, drawn at random; some blocks are empty."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(rng.integers(1, 2**40, 400, dtype=np.uint64), (8, 8, 8))
    drawn[rng.random((8, 8, 8)) < 0.1] = 0
    return drawn.repeat(8, 0).repeat(8, 1).repeat(8, 2)


@pytest.fixture
async def http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    journals.choose(monkeypatch, entry_bytes=0)  # what waits in a journal is no part of the tree yet
    async with served_labels(tmp_path, BlockSize="16,16,16") as http:
        yield http


async def batches(http: httpx.AsyncClient, path: str) -> int:
    return len(list(pa.ipc.open_stream((await http.get(path)).content)))


async def table(http: httpx.AsyncClient, path: str) -> pa.Table:
    answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    return pa.ipc.open_stream(answer.content).read_all()


async def write(http: httpx.AsyncClient, voxels: np.ndarray) -> None:
    place = "_".join(map(str, (CORNER[::-1] * BLOCK).tolist()))
    answer = await http.post(f"raw/0_1_2/64_64_64/{place}?mutate=true", content=voxels.tobytes())
    assert answer.status_code == 200, answer.text


def expected(voxels: np.ndarray, bodies: dict[int, int]) -> list[tuple[int, ...]]:
    rows = []
    for place in np.ndindex(4, 4, 4):
        z, y, x = (CORNER + place).tolist()
        box = tuple(slice(BLOCK * p, BLOCK * p + BLOCK) for p in place)
        for label, count in zip(*np.unique(voxels[box], return_counts=True), strict=True):
            if label:
                rows.append((int(label), bodies.get(int(label), int(label)), z, y, x, int(count)))
    return sorted(rows)


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
async def test_the_index_is_that_of_the_voxels(
    http: httpx.AsyncClient, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LEAVES", 2)
    monkeypatch.setattr(ocdbt, "LOCAL_NODE_BYTES", 2048)  # so that the small index is a tree of many nodes
    monkeypatch.setattr(deltas, "FOLD_ROWS", 300)
    empty = await table(http, "index-arrow")
    assert (empty.num_rows, empty.column_names) == (0, ["supervoxel", "body", "x", "y", "z", "voxels"])
    await write(http, volume(1))
    await write(http, volume(2))
    voxels = volume(2)
    target, *merged = [int(label) for label in np.unique(voxels)[1:40]]
    assert (await http.post("merge", json=[target, *merged])).status_code == 200
    bodies = dict.fromkeys(merged, target)
    found = await table(http, f"index-arrow?compression={compression}")
    rows = list(
        zip(*(found[name].to_pylist() for name in ("supervoxel", "body", "z", "y", "x", "voxels")), strict=True)
    )
    assert rows == expected(voxels, bodies)
    assert await batches(http, "index-arrow") > 3
    mapped = await table(http, f"mapping-arrow?compression={compression}")
    pairs = set(zip(mapped["supervoxel"].to_pylist(), mapped["body"].to_pylist(), strict=True))
    lines = (await http.get("mappings")).text.splitlines()
    assert pairs == {tuple(map(int, line.split())) for line in lines}
    assert pairs == set(bodies.items())


async def test_without_pyarrow(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for path in ("index-arrow", "mapping-arrow"):
        answer = await http.get(path)
        assert answer.status_code == 400
        assert "extra `arrow`" in answer.text
