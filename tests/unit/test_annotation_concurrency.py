"""Two pods post and delete elements while others write the labels under them."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.bootstrap import build
from app.datatypes.annotation import folding
from app.settings import Settings

SIDE = 32


@pytest.mark.parametrize("most_weight", [0, 400, 1 << 40])
async def test_nothing_is_lost_and_nothing_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_weight: int
) -> None:
    monkeypatch.setattr(folding, "MOST_WEIGHT", most_weight or folding.MOST_WEIGHT)
    monkeypatch.setattr(folding, "TOGETHER", 1)
    services = [build(Settings(store=str(tmp_path), durability="process", admin_token="t")) for _ in range(2)]
    for service in services:
        await service.startup()
    pods = [httpx.AsyncClient(transport=httpx.ASGITransport(app=s), base_url="http://test") for s in services]
    root = (await pods[0].post("/api/repos?admintoken=t", json={"alias": "test"})).json()["root"]

    async def send(pod: int, method: str, path: str, content: Any = None) -> httpx.Response:
        body = {"content": content} if isinstance(content, bytes) else {"json": content}
        answer = await pods[pod].request(method, path, **body)
        assert answer.status_code == 200, (path, answer.text)
        return answer

    for name, typename in {"seg": "labelmap", "syn": "annotation", "sizes": "labelsz"}.items():
        body = {"typename": typename, "dataname": name, "BlockSize": "32,32,32"}
        await send(0, "POST", f"/api/repo/{root}/instance", body)
    node = f"/api/node/{root}"
    await send(0, "POST", f"{node}/syn/sync", {"sync": "seg"})
    await send(0, "POST", f"{node}/sizes/sync", {"sync": "syn"})
    rng = np.random.default_rng(5)
    volume = np.zeros((SIDE, SIDE, 2 * SIDE), np.uint64)
    points = np.unique(rng.integers(0, SIDE, (400, 3)) * [2, 1, 1], axis=0)
    rng.shuffle(points)

    async def post(pod: int, part: np.ndarray) -> None:
        elements = [{"Pos": p, "Kind": "PreSyn", "Tags": [f"t{sum(p) % 3}"]} for p in part.tolist()]
        await send(pod, "POST", f"{node}/syn/elements", elements)

    async def paint(pod: int, x: int) -> None:
        for _ in range(6):
            block = rng.integers(1, 5, (SIDE,) * 3).astype(np.uint64)
            await send(pod, "POST", f"{node}/seg/raw/0_1_2/32_32_32/{x}_0_0?mutate=true", block.tobytes())
            volume[:, :, x : x + SIDE] = block

    async def delete(pod: int, part: np.ndarray) -> None:
        for point in part.tolist():
            await send(pod, "DELETE", f"{node}/syn/element/{'_'.join(map(str, point))}")

    async def ask(pod: int) -> None:
        for label in (1, 2, 3, 4) * 5:
            await send(pod, "GET", f"{node}/syn/label/{label}")
            await asyncio.sleep(0.002)

    await post(0, points[:40])
    posts = [post(number % 2, points[40 + 12 * number : 52 + 12 * number]) for number in range(30)]
    await asyncio.gather(*posts, paint(0, 0), paint(1, SIDE), delete(1, points[:20]), ask(0), ask(1))
    left = [tuple(point) for point in points[20:400].tolist()]
    owners = {point: int(volume[point[::-1]]) for point in left}
    for pod in range(2):
        for label in range(1, 5):
            found = (await send(pod, "GET", f"{node}/syn/label/{label}")).json()
            assert {tuple(e["Pos"]) for e in found} == {point for point, owner in owners.items() if owner == label}
            count = (await send(pod, "GET", f"{node}/sizes/count/{label}/PreSyn")).json()["PreSyn"]
            assert count == len(found)
        for rest in range(3):
            found = (await send(pod, "GET", f"{node}/syn/tag/t{rest}")).json()
            assert {tuple(e["Pos"]) for e in found} == {point for point in left if sum(point) % 3 == rest}
    for pod, service in zip(pods, services, strict=True):
        await pod.aclose()
        await service.shutdown()
