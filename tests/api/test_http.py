"""What the service promises about HTTP itself: methods, preflights, entity tags, generations, documentation."""

from __future__ import annotations

import gzip
import struct

import httpx
import numpy as np
import pytest

from app.bootstrap import endpoints
from app.routes.documentation import full_path
from tests.api.conftest import make_instance
from tests.running import ADMIN

GENERAL, BY_TYPE = endpoints()


@pytest.fixture
def kv(client: httpx.Client, root: str) -> str:
    make_instance(client, root, "keyvalue", "kv")
    return f"/api/node/{root}/kv"


@pytest.fixture
def seg(client: httpx.Client, root: str) -> str:
    make_instance(client, root, "labelmap", "seg", BlockSize="32,32,32", MaxDownresLevel="1")
    return f"/api/node/{root}/seg"


def write_block(client: httpx.Client, seg: str, label: int, **query: str) -> None:
    labels = np.full((32, 32, 32), label, "<u8")
    answer = client.post(f"{seg}/raw/0_1_2/32_32_32/0_0_0", content=labels.tobytes(), params=query)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("typename", ["", *BY_TYPE])
def test_every_endpoint_answers_a_preflight(client: httpx.Client, root: str, typename: str) -> None:
    headers = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "POST"}
    headers["Access-Control-Request-Headers"] = "content-type,x-odd"
    if typename:
        make_instance(client, root, typename, "data", Extension="dat")
    for path in {full_path(described) for described in (BY_TYPE[typename] if typename else GENERAL)}:
        filled = path.replace("{version}", root).replace("{data}", "data").replace("{", "").replace("}", "")
        answer = client.options(filled, headers=headers)
        assert (answer.status_code, answer.content) == (200, b""), path
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "content-type,x-odd"


def test_get_with_a_body_and_its_twin(client: httpx.Client, seg: str) -> None:
    write_block(client, seg, 5)
    for path, body, wanted in [("labels", [[1, 1, 1], [99, 0, 0]], [5, 0]), ("sizes", [5, 6], [32**3, 0])]:
        assert client.request("GET", f"{seg}/{path}", json=body).json() == wanted
        assert client.post(f"{seg}/{path}", json=body).json() == wanted


def test_head_has_the_headers_and_no_body(client: httpx.Client, kv: str) -> None:
    client.post(f"{kv}/key/a", content=b"12345")
    answer = client.head(f"{kv}/key/a")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "5")


def test_entity_tags_follow_the_data(client: httpx.Client, kv: str) -> None:
    client.post(f"{kv}/key/a", content=b"1")
    first = client.get(f"{kv}/key/a")
    again = client.get(f"{kv}/key/a", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    client.post(f"{kv}/key/b", content=b"2")
    changed = client.get(f"{kv}/key/a", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.headers["cache-control"] == "no-cache"


def test_answers_of_a_locked_version_are_immutable_by_its_full_name_only(
    client: httpx.Client, root: str, kv: str
) -> None:
    client.post(f"{kv}/key/a", content=b"1")
    client.post(f"/api/node/{root}/commit", json={}).raise_for_status()
    assert "immutable" in client.get(f"{kv}/key/a").headers["cache-control"]
    short = client.get(f"/api/node/{root[:20]}/kv/key/a")
    assert short.content == b"1"
    assert "immutable" not in short.headers["cache-control"]


def test_reads_of_an_earlier_generation(client: httpx.Client, seg: str) -> None:
    write_block(client, seg, 5)
    generation = client.get(f"{seg}/label/1_1_1").headers["etag"].strip('"').split(".")[2]
    write_block(client, seg, 6, mutate="true")
    assert client.get(f"{seg}/label/1_1_1").json() == {"Label": 6}
    before = {"generation": generation}
    assert client.get(f"{seg}/label/1_1_1", params=before).json() == {"Label": 5}
    assert client.get(f"{seg}/size/5", params=before).json() == {"voxels": 32**3}
    assert client.get(f"{seg}/size/5").status_code == 404
    raw = client.get(f"{seg}/raw/0_1_2/16_16_16/0_0_0", params={**before, "scale": "1", "compression": "gzip"})
    assert set(np.frombuffer(gzip.decompress(raw.content), "<u8").tolist()) == {5}
    assert client.get(f"{seg}/label/1_1_1", params={"generation": "100000"}).status_code == 400


def test_an_overwrite_keeps_counts_exact_with_and_without_mutate(client: httpx.Client, seg: str) -> None:
    for query in ({}, {}, {"mutate": "true"}):
        write_block(client, seg, 5, **query)
        assert client.get(f"{seg}/size/5").json() == {"voxels": 32**3}
    block = gzip.compress(struct.pack("<4IQ", 4, 4, 4, 1, 7))
    client.post(f"{seg}/blocks", content=struct.pack("<4i", 0, 0, 0, len(block)) + block).raise_for_status()
    assert client.request("GET", f"{seg}/sizes", json=[5, 7]).json() == [0, 32**3]


def test_a_background_block_does_not_wipe_its_neighbours_at_coarser_scales(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "labelmap", "two", BlockSize="32,32,32", MaxDownresLevel="1")
    seg = f"/api/node/{root}/two"
    for z, y, x in np.ndindex(2, 2, 2):
        labels = np.full((32, 32, 32), 9, "<u8").tobytes()
        client.post(f"{seg}/raw/0_1_2/32_32_32/{x * 32 - 32}_{y * 32 - 32}_{z * 32 - 32}", content=labels)
    client.post(f"{seg}/raw/0_1_2/32_32_32/-32_-32_-32", content=bytes(32**3 * 8), params={"mutate": "true"})
    half = client.get(f"{seg}/raw/0_1_2/32_32_32/-16_-16_-16", params={"scale": "1"})
    found = np.frombuffer(half.content, "<u8").reshape(32, 32, 32)
    wanted = np.full((32, 32, 32), 9)
    wanted[:16, :16, :16] = 0
    assert (found == wanted).all()
    assert client.get(f"{seg}/label/-40_-40_-40").json() == {"Label": 0}
    assert client.get(f"{seg}/label/-1_-1_0").json() == {"Label": 9}


def test_a_repo_needs_the_admin_token(client: httpx.Client) -> None:
    for query in ({}, {"admintoken": ""}, {"admintoken": ADMIN + "x"}):
        assert client.post("/api/repos", params=query, json={}).status_code == 401


def test_the_documentation_lists_every_endpoint(client: httpx.Client) -> None:
    document = client.get("/api/openapi.json").json()
    for typename, described in [("server", d) for d in GENERAL] + [
        (typename, d) for typename, listed in BY_TYPE.items() for d in listed
    ]:
        path = full_path(described).replace("?}", "}").replace("*}", "}")
        operation = document["paths"][path][described.method.lower()]
        assert typename in operation["tags"]
        assert operation["summary"], path
    for typename, listed in BY_TYPE.items():
        page = client.get(f"/api/help/{typename}").text
        assert all(full_path(described) in page for described in listed)
    assert "/api/repos/info" in client.get("/api/help").text


def test_masters_leaf_is_read_when_there_is_one_repo_only(client: httpx.Client, root: str) -> None:
    answer = client.get("/api/node/:master/nosuch/keys")
    assert answer.status_code == 400  # other repos are there, or the instance is not: a reason either way
    assert answer.text.strip()
