"""`proximity` over HTTP, in this process, against the dense volume."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.datatypes.labelmap import proximity
from app.kernels.downres import halve
from tests.in_process import post_volume, served_labels
from tests.kernels.samples import synthetic

BLOCK = 16
SHAPE = (64, 32, 96)
CORNER = np.array([-32, -16, -64])  # z, y, x
VOXEL = np.array([40.0, 8.0, 4.0])  # z, y, x


def volume() -> np.ndarray:
    labels = synthetic(5, SHAPE, 0.02) % np.uint64(6)
    labels[np.random.default_rng(2).random(SHAPE) < 0.5] = 0
    labels[:, :, 56:] = 0
    labels[3, 3, 90] = 7  # alone, far away
    labels[60:62, 20:24, 70:74] = 8
    labels[62, 20:24, 70:74] = 9
    return labels


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    spacing = ",".join(map(str, VOXEL[::-1].tolist()))
    async with served_labels(tmp_path, BlockSize="16,16,16", MaxDownresLevel="2", VoxelSize=spacing) as http:
        await post_volume(http, volume(), CORNER.tolist())
        yield http


def faces(a: np.ndarray, b: np.ndarray) -> tuple[list[int], list[int]]:
    """Shared faces across z, y, x, and voxels of a and of b that have one."""
    counts, touching = [], np.zeros((2, *a.shape), bool)
    for axis in range(3):
        low = tuple(slice(0, -1) if k == axis else slice(None) for k in range(3))
        high = tuple(slice(1, None) if k == axis else slice(None) for k in range(3))
        counts.append(int((a[low] & b[high]).sum() + (b[low] & a[high]).sum()))
        for side, (one, other) in enumerate(((a, b), (b, a))):
            touching[side][low] |= one[low] & other[high]
            touching[side][high] |= one[high] & other[low]
    return counts, [int(side.sum()) for side in touching]


def nearest(a: np.ndarray, b: np.ndarray, voxel: np.ndarray) -> float:
    ours, theirs = np.argwhere(a) * voxel, np.argwhere(b) * voxel
    parts = np.array_split(ours, 1 + len(ours) * len(theirs) // 2_000_000)
    return min(float(np.sqrt(((part[:, None] - theirs) ** 2).sum(axis=2).min())) for part in parts if len(part))


def check(answer: dict[str, Any], a: np.ndarray, b: np.ndarray, corner: np.ndarray, voxel: np.ndarray) -> None:
    counts, touching = faces(a, b)
    contact = answer["contact"]
    assert contact["faces_xyz"] == counts[::-1]
    assert contact["faces"] == sum(counts)
    assert contact["voxels"] == touching
    area = counts[0] * voxel[1] * voxel[2] + counts[1] * voxel[0] * voxel[2] + counts[2] * voxel[0] * voxel[1]
    assert contact["area"] == pytest.approx(area)
    assert sum(site["faces"] for site in answer["sites"]) == sum(counts)
    assert np.sum([site["voxels"] for site in answer["sites"]], axis=0).tolist() == (touching if sum(counts) else 0)
    for site in answer["sites"]:
        low = np.array(site["block"]) * BLOCK
        assert (np.array(site["center"]) >= low).all()
        assert (np.array(site["center"]) <= low + BLOCK).all()
    assert answer["distance"] == pytest.approx(nearest(a, b, voxel))
    one, other = (np.array(point[::-1]) - corner for point in answer["closest"])
    assert a[tuple(one)]
    assert b[tuple(other)]
    assert answer["distance"] == pytest.approx(np.sqrt((((one - other) * voxel) ** 2).sum()))
    assert answer["distance_voxels"] == pytest.approx(np.sqrt(((one - other) ** 2).sum()))


@pytest.mark.parametrize("pair", [(1, 2), (2, 1), (7, 3), (8, 9), (7, 9), (8, 4)], ids=str)
async def test_against_the_dense_volume(
    http: httpx.AsyncClient, pair: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proximity, "TOGETHER", 5)
    labels, corner = volume(), CORNER
    for scale in range(3):
        answer = (await http.get(f"proximity/{pair[0]}/{pair[1]}", params={"scale": scale})).json()
        assert answer["labels"] == list(pair)
        assert answer["scale"] == scale
        a, b = labels == pair[0], labels == pair[1]
        if a.any() and b.any():
            check(answer, a, b, corner, VOXEL * 2**scale)
        else:
            assert answer["distance"] is answer["closest"] is None
            assert answer["contact"]["faces"] == 0
        labels, corner = halve(labels), corner // 2


async def test_refusals(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("1/1", "0/1", "x/1", "1", "1,2", "1/2?scale=-1"):
        assert (await http.get(f"proximity/{wrong}")).status_code == 400, wrong
    for absent in ("1/99", "99/1"):
        assert (await http.get(f"proximity/{absent}")).status_code == 404
    monkeypatch.setattr(proximity, "MOST_BLOCKS", 3)
    refused = await http.get("proximity/1/2")
    assert refused.status_code == 413
    assert "coarser" in refused.text
    assert json.loads((await http.get("proximity/8/9")).content)["contact"]["faces"] == 16
