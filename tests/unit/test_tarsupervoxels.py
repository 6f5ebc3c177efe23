"""Files of supervoxels: large and many ones, archives that break off, locked versions."""

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.datatypes import tarsupervoxels
from app.datatypes.values import PIECE_BYTES
from app.routes.service import Service
from tests.in_process import served

RNG = np.random.default_rng(3)


class Client:
    def __init__(self, service: Service, http: httpx.AsyncClient, root: str) -> None:
        self.service, self.http, self.root = service, http, root

    async def send(self, method: str, path: str, status: int = 200, content: object = None) -> httpx.Response:
        url = path if path.startswith("/") else f"/api/node/{self.root}/{path}"
        answer = await self.http.request(method, url, content=content)  # type: ignore[arg-type]
        assert answer.status_code == status, answer.text[:300]
        return answer

    async def keys(self) -> list[bytes]:
        data = await self.service.datastore.data(self.root, "files")
        snapshot = await data.head()
        return [*await snapshot.keys(b"f/", b"f0"), *await snapshot.keys(b"v/", b"v0")]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with served(tmp_path) as found:
        await found.create("labelmap", "seg", BlockSize="16,16,16")
        await found.create("tarsupervoxels", "files", Extension="dat")
        made = Client(*found)
        await made.send("POST", "files/sync", content=b'{"sync": "seg"}')
        yield made


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


async def stream(body: bytes, size: int = 1 << 20, failing: bool = False) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
    if failing:
        raise httpx.ReadError("the client went away")


def made(sizes: list[int]) -> dict[int, bytes]:
    return {number: RNG.bytes(size) for number, size in enumerate(sizes, 1)}


async def test_an_archive_larger_than_what_is_held(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarsupervoxels, "HELD_BYTES", 100_000)
    files = made([40_000] * 8 + [3 * PIECE_BYTES + 5, 0, 7])
    body = archive({f"{label}.dat": content for label, content in files.items()})
    await client.send("POST", "files/load", content=stream(body))
    for label, content in files.items():
        assert (await client.send("GET", f"files/supervoxel/{label}")).content == content
    labels = np.zeros((16, 16, 16), np.uint64)
    labels.flat[: len(files) + 1] = np.arange(1, len(files) + 2)
    await client.send("POST", "seg/raw/0_1_2/16_16_16/0_0_0", content=labels.tobytes())
    merged = str(list(range(1, len(files) + 2))).encode()
    await client.send("POST", "seg/merge", content=merged)
    answer = await client.send("GET", "files/tarfile/1")
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    last = len(files) + 1
    assert found == {**{f"{label}.dat": content for label, content in files.items()}, f"{last}.missing": b""}
    assert (await client.send("GET", "files/missing/1")).json() == [last]


@pytest.mark.parametrize("ending", ["cut", "bad name", "gone"])
async def test_a_load_that_fails_leaves_nothing(client: Client, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(tarsupervoxels, "HELD_BYTES", 100_000)
    await client.send("POST", "files/supervoxel/1", content=b"before")
    before = await client.keys()
    files = {f"{label}.dat": content for label, content in made([40_000] * 8 + [2 * PIECE_BYTES]).items()}
    body = archive({**files, "x.dat": b""} if ending == "bad name" else files)
    if ending == "gone":
        await client.send("POST", "files/load", 500, content=stream(body, failing=True))
    else:
        await client.send("POST", "files/load", 400, content=stream(body[:-20_000] if ending == "cut" else body))
    assert await client.keys() == before
    assert (await client.send("GET", "files/supervoxel/1")).content == b"before"


async def test_what_is_replaced_or_deleted_takes_its_pieces_along(client: Client) -> None:
    content = RNG.bytes(2 * PIECE_BYTES + 1)
    await client.send("POST", "files/supervoxel/5", content=stream(content))
    answer = await client.http.get(f"/api/node/{client.root}/files/supervoxel/5", headers={"Range": "bytes=5-9"})
    assert (answer.status_code, answer.content) == (206, content[5:10])
    assert len(await client.keys()) == 4
    await client.send("POST", "files/supervoxel/5", content=b"small")
    assert len(await client.keys()) == 1
    await client.send("POST", "files/supervoxel/5", content=stream(content))
    await client.send("DELETE", "files/supervoxel/5")
    assert await client.keys() == []
    await client.send("GET", "files/supervoxel/5", 404)


async def test_existence_of_many(client: Client) -> None:
    await client.send("POST", "files/load", content=archive({f"{label}.dat": b"x" for label in range(1, 10_000, 7)}))
    for wanted in (list(range(10_000)), [8, 1, 2, 8]):
        answer = await client.send("GET", "files/exists", content=str(wanted).encode())
        assert answer.json() == [label % 7 == 1 for label in wanted]


async def test_a_locked_version_refuses_but_sees_what_others_write(client: Client) -> None:
    await client.send("POST", "files/supervoxel/1", content=b"one")
    await client.send("POST", f"/api/node/{client.root}/commit", content=b'{"note": ""}')
    child = (await client.send("POST", f"/api/node/{client.root}/newversion", content=b"{}")).json()["child"]
    await client.send("POST", "files/supervoxel/1", 400, content=b"uno")
    await client.send("POST", f"/api/node/{child}/files/supervoxel/1", content=b"two")
    answer = await client.send("GET", "files/supervoxel/1")
    assert answer.content == b"two"
    assert "immutable" not in answer.headers["Cache-Control"]
    await client.send("POST", "files/supervoxel/1?admintoken=token", content=b"three")
    assert (await client.send("GET", f"/api/node/{child}/files/supervoxel/1")).content == b"three"
    info = (await client.send("GET", "files/info")).json()
    assert (info["Base"]["Versioned"], info["Extended"]) == (True, {"Extension": "dat"})
    await client.send("POST", f"/api/node/{child}/files/info", content=b'{"extension": "drc"}')
    assert (await client.send("GET", "files/info")).json()["Extended"] == {"Extension": "drc"}
