"""Posted elements that wait, or are folded into their blocks, at once or later: nobody can tell from any answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.bootstrap import build
from app.core.errors import StoreUnavailable
from app.datatypes.annotation import deltas, folding, keys, posted, storing, table
from app.datatypes.annotation.posted import Delta
from app.formats import element_json
from app.routes.service import Service
from app.settings import Settings
from app.versioning.datastore import Data

SIDE = 16
TAGS = ["a", "b", "user:c"]
NEVER, ALWAYS = (1 << 40, 1 << 14), (1 << 40, -1)


class Server:
    """A repo with labels and annotations, asked in process by one or two services."""

    def __init__(self, folder: Path, pods: int = 1) -> None:
        self.services: list[Service] = [
            build(Settings(store=str(folder), durability="process", admin_token="t")) for _ in range(pods)
        ]
        self.https = [
            httpx.AsyncClient(transport=httpx.ASGITransport(app=each), base_url="http://test") for each in self.services
        ]
        self.root = ""

    async def start(self) -> None:
        for service in self.services:
            await service.startup()
        self.root = (await self.https[0].post("/api/repos?admintoken=t", json={})).json()["root"]
        for name, typename in {"seg": "labelmap", "syn": "annotation"}.items():
            body = {"typename": typename, "dataname": name, "BlockSize": f"{SIDE},{SIDE},{SIDE}"}
            (await self.https[0].post(f"/api/repo/{self.root}/instance", json=body)).raise_for_status()
        await self.send("POST", f"{self.root}/syn/sync", {"sync": "seg"})

    async def send(self, method: str, path: str, content: Any = None, *, pod: int = 0, status: int = 200) -> Any:
        body = {"content": content} if isinstance(content, bytes) else {"json": content}
        answer = await self.https[pod].request(method, f"/api/node/{path}", **body)
        assert answer.status_code == status, (path, answer.text)
        return answer

    async def data(self, pod: int = 0) -> Data:
        return await self.services[pod].datastore.data(self.root, "syn")

    async def stop(self) -> None:
        for http, service in zip(self.https, self.services, strict=True):
            await http.aclose()
            await service.shutdown()


def element(rng: np.random.Generator) -> dict[str, Any]:
    point = rng.integers(-SIDE, 3 * SIDE, 3) // 3 * 3
    return {
        "Pos": point.tolist(),
        "Kind": ["PreSyn", "Note"][int(rng.integers(2))],
        "Tags": [tag for tag in TAGS if rng.random() < 0.3],
        "Prop": {"n": str(rng.integers(1000))},
        "Rels": [{"Rel": "PreSynTo", "To": rng.integers(0, 9, 3).tolist()}],
    }


async def story(server: Server, seed: int) -> dict[str, bytes]:
    """Requests, at two branches and their merge, and all that can be asked afterwards."""
    rng = np.random.default_rng(seed)
    heard: dict[str, bytes] = {}

    async def go_on(version: str, x: int, steps: int) -> None:
        known: list[list[int]] = []
        for step in range(steps):
            posted = [element(rng) for _ in range(int(rng.integers(1, 30)))]
            for each in posted:  # each branch has its own part of the volume
                each["Pos"][0] = each["Pos"][0] % SIDE + x * SIDE
            await server.send("POST", f"{version}/syn/elements", posted)
            known += [each["Pos"] for each in posted]
            if step % 3 == 1:
                point = known[int(rng.integers(len(known)))]
                path = f"{version}/syn/element/{'_'.join(map(str, point))}"
                answer = await server.https[0].delete(f"/api/node/{path}")
                heard[f"{version == server.root} {x} {step}"] = str(answer.status_code).encode()
            if step % 4 == 2:
                block = rng.integers(0, 6, (SIDE,) * 3).astype(np.uint64)
                path = f"{version}/seg/raw/0_1_2/16_16_16/{x * SIDE}_0_{step % 2 * SIDE}?mutate=true"
                await server.send("POST", path, block.tobytes())
            if step % 5 == 4:
                place = f"{x},{int(rng.integers(3))},0"
                await server.send("POST", f"{version}/syn/blocks", {place: []})
            await ask(f"{x} {step}", version, "elements/40_40_40/-3_-3_-3", "label/2?relationships=true")

    async def ask(when: str, version: str, *paths: str) -> None:
        for path in paths:
            heard[f"{when} {path}"] = (await server.send("GET", f"{version}/syn/{path}")).content

    everything = ["all-elements", "scan", *[f"tag/{tag}" for tag in TAGS], *[f"label/{label}" for label in range(1, 6)]]
    await go_on(server.root, 0, 8)
    await ask("root", server.root, *everything)
    await server.send("POST", f"{server.root}/commit", {"note": ""})
    branches = []
    for x in (1, 2):
        body = {"branch": f"b{x}"}
        branch = (await server.send("POST", f"{server.root}/branch", body)).json()["child"]
        await go_on(branch, x, 6)
        await server.send("POST", f"{branch}/commit", {"note": ""})
        await ask(f"branch {x}", branch, *everything)
        branches.append(branch)
    answer = await server.https[0].post(
        f"/api/repo/{server.root}/merge", json={"mergeType": "conflict-free", "parents": branches, "note": ""}
    )
    assert answer.status_code == 200, answer.text
    child = answer.json()["child"]
    await ask("merged", child, *everything)
    await go_on(child, 0, 5)
    await ask("child", child, *everything)
    await server.send("POST", f"{child}/syn/reload")
    await ask("reloaded", child, *everything)
    await ask("at last root", server.root, *everything)
    return heard


def behave(monkeypatch: pytest.MonkeyPatch, most_weight: int, most_elements: int) -> None:
    monkeypatch.setattr(folding, "MOST_WEIGHT", most_weight)
    monkeypatch.setattr(folding, "TOGETHER", 3)
    monkeypatch.setattr(deltas, "MOST_ELEMENTS", most_elements)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("way", [NEVER, (110, 1 << 14), (700, 1 << 14), (300, 12)])
async def test_nobody_can_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: tuple[int, int], seed: int
) -> None:
    heard = []
    for number, (most_weight, most_elements) in enumerate([ALWAYS, way]):
        behave(monkeypatch, most_weight, most_elements)
        server = Server(tmp_path / str(number))
        await server.start()
        heard.append(await story(server, seed))
        await server.stop()
    for path, expected in heard[0].items():
        assert heard[1][path] == expected, path


async def test_a_post_writes_no_block_and_a_fold_leaves_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path)
    await server.start()
    rng = np.random.default_rng(1)
    for _ in range(4):
        await server.send("POST", f"{server.root}/syn/elements", [element(rng) for _ in range(50)])
    data = await server.data()
    before = (await server.send("GET", f"{server.root}/syn/all-elements")).content
    snapshot = await data.head()
    assert await snapshot.keys(*keys.all_rows()) == []
    assert len(await snapshot.keys(keys.delta(0), keys.delta(1 << 40))) == 4
    await folding.fold(data)
    snapshot = await data.head()
    assert await snapshot.keys(keys.delta(0), keys.delta(1 << 40)) == []
    first, end, weight = await deltas.mark(snapshot)
    assert (first, end, weight) == (4, 4, 0)
    assert len(await snapshot.keys(*keys.all_rows())) == len(httpx.Response(200, content=before).json())
    assert (await server.send("GET", f"{server.root}/syn/all-elements")).content == before
    await server.stop()


async def test_a_fold_that_was_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(tmp_path, pods=2)
    await server.start()
    rng = np.random.default_rng(2)
    behave(monkeypatch, *NEVER)
    for pod in (0, 1, 0):
        await server.send("POST", f"{server.root}/syn/elements", [element(rng) for _ in range(60)], pod=pod)
    expected = (await server.send("GET", f"{server.root}/syn/all-elements")).json()
    fold, folded = storing.fold, 0

    async def fold_few(mutation: Any, zyxs: Any) -> Any:
        nonlocal folded
        folded += 1
        if folded == 4:
            raise StoreUnavailable("no more")
        return await fold(mutation, zyxs)

    monkeypatch.setattr(storing, "fold", fold_few)
    with pytest.raises(StoreUnavailable):
        await folding.fold(await server.data())
    assert len(await (await (await server.data()).head()).keys(*keys.all_rows())) == 3 * folding.TOGETHER
    for pod in (0, 1):
        assert (await server.send("GET", f"{server.root}/syn/all-elements", pod=pod)).json() == expected
    # An element of a block that is folded and one of another go, and so does all of a block.
    by_place = dict(expected)
    for place in [next(iter(by_place)), list(by_place)[-1]]:
        point = by_place[place].pop()["Pos"]
        await server.send("DELETE", f"{server.root}/syn/element/{'_'.join(map(str, point))}", pod=1)
    emptied = list(by_place)[1]
    await server.send("POST", f"{server.root}/syn/blocks", {emptied: []})
    del by_place[emptied]
    left = {place: listed for place, listed in by_place.items() if listed}

    def bare(found: Any) -> Any:
        return {place: [each["Pos"] for each in listed] for place, listed in found.items()}

    for _ in range(2):
        for pod in (0, 1):
            assert bare((await server.send("GET", f"{server.root}/syn/all-elements", pod=pod)).json()) == bare(left)
            scan = (await server.send("GET", f"{server.root}/syn/scan", pod=pod)).json()
            assert scan["num kv pairs"] == len(left)
        monkeypatch.setattr(storing, "fold", fold)
        await asyncio.gather(*[folding.fold(await server.data(pod)) for pod in (0, 1)])
    assert len(await (await (await server.data()).head()).keys(*keys.all_rows())) == len(left)
    await server.stop()


async def test_a_tag_that_no_block_could_be_found_by(tmp_path: Path) -> None:
    server = Server(tmp_path)
    await server.start()
    long = {"Pos": [1, 1, 1], "Kind": "Note", "Tags": ["x" * (keys.MAX_TAG_BYTES + 1)], "Prop": {}, "Rels": []}
    await server.send("POST", f"{server.root}/syn/elements", [long], status=400)
    assert (await server.send("GET", f"{server.root}/syn/all-elements")).json() == {}
    await server.stop()


def test_deltas_are_read_as_written() -> None:
    rng = np.random.default_rng(3)
    given = element_json.parse_elements(httpx.Response(200, json=[element(rng) for _ in range(200)]).content)
    rows, pieces = table.prepare(given)
    rows["supervoxel"] = rng.integers(0, 1 << 63, len(rows))
    made = Delta.of(rows, pieces, (SIDE, SIDE, SIDE))
    read = Delta.decode(made.encode())
    assert list(read.places) == list(made.places)
    assert read.tags == made.tags
    found = {}
    for slot, zyx in enumerate(read.places):
        part = posted.Part(0, read, slot)
        for row, piece in zip(np.frombuffer(posted.rows_of([part]), table.ROW), part.pieces, strict=True):
            found[tuple(row["position"].tolist())] = (row.tobytes(), piece)
            assert tuple(at // SIDE for at in row["position"][::-1].tolist()) == zyx
    assert found == {
        tuple(row["position"].tolist()): (row.tobytes(), piece) for row, piece in zip(rows, pieces, strict=True)
    }
    for size in (3, 40, 600):
        with pytest.raises(StoreUnavailable):
            Delta.decode(made.encode()[:size])
