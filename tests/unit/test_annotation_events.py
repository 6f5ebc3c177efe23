"""Messages about mutations of annotations, as DVID sends them."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.bootstrap import build
from app.datatypes import events
from app.settings import Settings
from app.versioning import blobs
from app.versioning.relay import Relay
from tests.fakes.bus import MemoryBus


def element(*point: int, **fields: Any) -> dict[str, Any]:
    return {"Pos": list(point), "Kind": "Note", "Tags": [], "Prop": {}, "Rels": [], **fields}


@pytest.fixture
async def told(tmp_path: Path) -> list[dict[str, Any]]:
    """The messages about a few mutations, their blobs read."""
    service = build(Settings(store=str(tmp_path), durability="process", admin_token="token"))
    await service.startup()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=service), base_url="http://test") as http:
        root = (await http.post("/api/repos?admintoken=token", json={"alias": "test"})).json()["root"]
        body = {"typename": "annotation", "dataname": "syn"}
        (await http.post(f"/api/repo/{root}/instance", json=body)).raise_for_status()

        async def send(method: str, path: str, content: Any = None) -> None:
            answer = await http.request(method, f"/api/node/{root}/syn/{path}", json=content)
            assert answer.status_code == 200, answer.text

        await send("POST", "elements?u=ann&app=x", [element(1, 1, 1), element(99, 1, 1)])
        await send("POST", "elements", [element(1, 1, 1, Tags=["t"]), element(2, 1, 1), element(99, 1, 1)])
        await send("POST", "elements?kafkalog=off", [element(3, 1, 1)])
        await send("POST", "blocks", {"1,0,0": [element(70, 1, 1)]})
        await send("POST", "move/1_1_1/5_5_5?u=bob")
        await send("DELETE", "element/2_1_1")
        await send("DELETE", "element/3_1_1?kafkalog=off")
        await send("POST", "reload")
    datastore, bus = service.datastore, MemoryBus()
    await Relay(datastore, bus, events).round()
    (messages,) = [messages for topic, messages in bus.topics.items() if not topic.endswith("repo-ops")]
    found = [json.loads(message.value) for message in messages]
    for message in found:
        assert message.pop("UUID") == root
        assert message.pop("Timestamp")
        if "DataRef" in message:
            message["data"] = json.loads(await blobs.get(datastore.store, message.pop("DataRef")))
    await service.shutdown()
    return found


async def test_what_is_said(told: list[dict[str, Any]]) -> None:
    assert told == [
        {"Action": "element-post", "User": "ann", "data": [element(1, 1, 1), element(99, 1, 1)]},
        {"Action": "element-post", "data": [element(1, 1, 1, Tags=["t"]), element(2, 1, 1)]},
        {"Action": "blocks-post", "data": {"1,0,0": [element(70, 1, 1)]}},
        {"Action": "element-move", "From": [1, 1, 1], "To": [5, 5, 5], "User": "bob"},
        {"Action": "element-delete", "Point": [2, 1, 1]},
    ]
