"""A service of ours in this process, with one repo, asked without a network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np

from app.bootstrap import build
from app.routes.service import Service
from app.settings import Settings

ADMIN = "token"


class Served(NamedTuple):
    """The service, a client of it, and the repo's root version."""

    service: Service
    http: httpx.AsyncClient
    root: str

    async def create(self, typename: str, name: str, **settings: str) -> None:
        """Make an instance."""
        body = {"typename": typename, "dataname": name, **settings}
        answer = await self.http.post(f"/api/repo/{self.root}/instance", json=body)
        assert answer.status_code == 200, answer.text

    async def ask(self, method: str, path: str, status: int = 200, **more: Any) -> httpx.Response:
        """Expect a status of a path, or of one below the root version; an error has words."""
        url = path if path.startswith("/") else f"/api/node/{self.root}/{path}"
        answer = await self.http.request(method, url, **more)
        assert answer.status_code == status, answer.text[:300]
        assert status == 200 or answer.text.strip()
        return answer

    async def child(self, branch: str = "") -> str:
        """A new version after the root, which is locked if it was open."""
        if not (await self.ask("GET", "commit")).json()["Locked"]:
            await self.ask("POST", "commit", json={})
        kind = "branch" if branch else "newversion"
        return str((await self.ask("POST", kind, json={"branch": branch})).json()["child"])


@asynccontextmanager
async def served(store: Path, **settings: Any) -> AsyncIterator[Served]:
    """A service on a folder, as long as this lasts."""
    service = build(Settings(store=str(store), durability="process", admin_token=ADMIN, **settings))
    await service.startup()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=service), base_url="http://test") as http:
        root = (await http.post(f"/api/repos?admintoken={ADMIN}", json={"alias": "test"})).json()["root"]
        yield Served(service, http, root)
    await service.shutdown()


@asynccontextmanager
async def served_labels(store: Path, **settings: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose paths begin at a labelmap `seg`."""
    async with served(store) as found:
        await found.create("labelmap", "seg", **settings)
        found.http.base_url = httpx.URL(f"http://test/api/node/{found.root}/seg/")
        yield found.http


async def post_volume(http: httpx.AsyncClient, volume: np.ndarray, corner_zyx: Sequence[int]) -> None:
    """Write labels, uint64 (z, y, x), at a place."""
    size, place = ("_".join(str(int(side)) for side in reversed(zyx)) for zyx in (volume.shape, tuple(corner_zyx)))
    answer = await http.post(f"raw/0_1_2/{size}/{place}", content=volume.tobytes())
    assert answer.status_code == 200, answer.text
