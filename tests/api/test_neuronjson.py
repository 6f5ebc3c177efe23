"""neuronjson over HTTP, beyond the recorded conversations: versions, generations, bulk, what is refused."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import Any

import httpx
import orjson
import pytest

from app.formats.dvid_pb2 import KeyValues
from tests.api.conftest import make_instance
from tests.running import running

Node = str


@pytest.fixture
def node(client: httpx.Client, root: str) -> Node:
    make_instance(client, root, "neuronjson", "nj")
    return f"/api/node/{root}/nj"


def post(client: httpx.Client, node: Node, body: int, fields: dict[str, Any], **query: str) -> httpx.Response:
    return client.post(f"{node}/key/{body}", params={"u": "ann", **query}, json={"bodyid": body, **fields})


def query(client: httpx.Client, node: Node, wanted: Any, **parameters: str) -> Any:
    answer = client.post(f"{node}/query", json=wanted, params={"onlyid": "true", **parameters})
    assert answer.status_code == 200, answer.text
    return answer.json()


def bulk(client: httpx.Client, node: Node, found: dict[int, dict[str, Any]], **parameters: str) -> httpx.Response:
    message = KeyValues()
    for body, fields in found.items():
        message.kvs.add(key=str(body), value=orjson.dumps({"bodyid": body, **fields}))
    return client.post(f"{node}/keyvalues", params={"u": "ann", **parameters}, content=message.SerializeToString())


def generation_of(answer: httpx.Response) -> str:
    return answer.headers["etag"].strip('"').split(".")[2]


def test_lists_and_queries_follow_every_write_at_once(client: httpx.Client, node: Node) -> None:
    assert bulk(client, node, {body: {"type": f"T{body % 7}", "n": body} for body in range(1, 1001)}).status_code == 200
    assert query(client, node, {"type": "T3"}) == list(range(3, 1001, 7))
    assert post(client, node, 3, {"type": "other"}).status_code == 200
    assert query(client, node, {"type": "T3"}) == list(range(10, 1001, 7))
    assert query(client, node, {"type": "other"}) == [3]
    client.delete(f"{node}/key/10").raise_for_status()
    assert query(client, node, {"type": "T3", "n": [10, 17]}) == [17]
    assert post(client, node, 5000, {"type": "T3"}).status_code == 200
    assert query(client, node, {"n": "exists/0"}) == [5000]
    assert client.get(f"{node}/keys").json() == [str(body) for body in [*range(1, 10), *range(11, 1001), 5000]]
    assert client.get(f"{node}/keyrange/998/99999").json() == ["998", "999", "1000", "5000"]
    found = client.get(f"{node}/all", headers={"Accept-Encoding": "identity"}).json()
    assert [each["bodyid"] for each in found] == [*range(1, 10), *range(11, 1001), 5000]
    assert client.get(f"{node}/fields?counts=true").json()["n"] == 999
    client.delete(f"{node}/key/5000").raise_for_status()
    assert query(client, node, {"n": "exists/0"}) == []


def test_every_version_and_generation_stays_readable(client: httpx.Client, root: str, node: Node) -> None:
    bulk(client, node, {body: {"a": 1} for body in range(1, 601)}).raise_for_status()
    first = generation_of(client.get(f"{node}/keys"))
    post(client, node, 300, {"a": 2})
    client.delete(f"{node}/key/301")
    assert query(client, node, {"a": 2}) == [300]
    assert query(client, node, {"a": 2}, generation=first) == []
    assert len(client.get(f"{node}/keys", params={"generation": first}).json()) == 600
    client.post(f"/api/node/{root}/commit", json={"note": ""}).raise_for_status()
    sides = [client.post(f"/api/node/{root}/branch", json={"branch": name}).json()["child"] for name in "ab"]
    left, right = (f"/api/node/{side}/nj" for side in sides)
    assert query(client, left, {"a": 2}) == [300]
    post(client, left, 1, {"a": 3})
    post(client, right, 2, {"a": 3})
    for _ in range(2):
        assert query(client, left, {"a": 3}) == [1]
        assert query(client, right, {"a": 3}) == [2]
        assert query(client, node, {"a": 3}) == []
        assert query(client, node, {"a": 2}, generation=first) == []
        assert len(query(client, node, {"a": 1}, generation=first)) == 600


def test_all_in_gzip_and_plain_streamed_and_whole(client: httpx.Client, node: Node) -> None:
    for count in (3, 3000):
        found = {body: {"text": f"{body} " * 400} for body in range(1, count + 1)}
        bulk(client, node, found).raise_for_status()
        plain = client.get(f"{node}/all", headers={"Accept-Encoding": "identity"})
        assert plain.json() == [{"bodyid": body, **fields} for body, fields in found.items()]
        assert "content-encoding" not in plain.headers
        with client.stream("GET", f"{node}/all", headers={"Accept-Encoding": "gzip"}) as answer:
            assert gzip.decompress(b"".join(answer.iter_raw())) == plain.content
            assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.headers["etag"] != plain.headers["etag"]
    assert query(client, node, {"text": "re/^2999 "}) == [2999]
    everything = client.post(f"{node}/query", json={"text": "re/^"}).content
    assert everything == plain.content


def test_bulk_writes_are_all_or_none(client: httpx.Client, node: Node) -> None:
    post(client, node, 1, {"a": 1})
    assert bulk(client, node, {1: {"a": 2}, 2: {"a": 2}, 0: {"a": 2}}).status_code == 400
    client.post(f"{node}/json_schema", json={"properties": {"a": {"type": "integer"}}}).raise_for_status()
    assert bulk(client, node, {1: {"a": 2}, 2: {"a": "x"}}).status_code == 400
    assert client.get(f"{node}/keyrangevalues/0/z?json=true").json() == {"1": {"bodyid": 1, "a": 1}}
    given = {"1": {"bodyid": 1, "a": "3"}, "5": {"bodyid": 5}}
    assert client.post(f"{node}/keyvalues?json=true&u=ann", json=given).status_code == 200
    assert client.get(f"{node}/key/1").json() == {"bodyid": 1, "a": 3}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        content = json.dumps({"bodyid": 6, "b": 1}).encode()
        member = tarfile.TarInfo("6")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    assert client.post(f"{node}/keyvalues?tar=true&u=ann", content=archive.getvalue()).status_code == 200
    assert client.get(f"{node}/keys").json() == ["1", "5", "6"]


def test_one_body_twice_in_a_bulk_write_is_merged(client: httpx.Client, node: Node) -> None:
    message = KeyValues()
    for fields in ({"a": 1}, {"b": 2}, {"a": None}):
        message.kvs.add(key="7", value=orjson.dumps({"bodyid": 7, **fields}))
    client.post(f"{node}/keyvalues?u=ann", content=message.SerializeToString()).raise_for_status()
    assert client.get(f"{node}/key/7").json() == {"bodyid": 7, "b": 2}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b'{"bodyid": 8}',
        b'{"bodyid": 7.0}',
        b'{"bodyid": true}',
        b'{"bodyid": 7, "x": 1e999}',
        b'{"bodyid": 7, "x": NaN}',
        b'{"bodyid": 7, "x": "\\ud800"}',
        b'{"bodyid": 7, "x": "\xff"}',
        b'{"bodyid": 7, "bodyid_user": "x"}',
    ],
)
def test_bad_annotations_change_nothing(client: httpx.Client, node: Node, text: bytes) -> None:
    post(client, node, 7, {"x": 1})
    answer = client.post(f"{node}/key/7?u=ann", content=text)
    assert answer.status_code == 400
    assert answer.text.strip()
    assert client.get(f"{node}/key/7").json() == {"bodyid": 7, "x": 1}


@pytest.mark.parametrize("name", ["json_schema", "schema", "schema_batch"])
def test_bad_schemas_change_nothing(client: httpx.Client, node: Node, name: str) -> None:
    good = b'{"properties": {"n": {"type": "integer"}}}'
    client.post(f"{node}/{name}", content=good).raise_for_status()
    bad = [b"", b"{nonsense"] + ([b'{"type": 5}', b"[1]", b'{"$ref": "http://127.0.0.1/"}'] if name[0] == "j" else [])
    for text in bad:
        assert client.post(f"{node}/{name}", content=text).status_code == 400
        assert client.get(f"{node}/{name}").content == good
    client.delete(f"{node}/{name}").raise_for_status()
    assert client.get(f"{node}/{name}").status_code == 404
    assert post(client, node, 7, {"n": "free again"}).status_code == 200


def test_a_removed_schema_no_longer_counts(client: httpx.Client, node: Node) -> None:
    client.post(f"{node}/json_schema", json={"required": ["type"]}).raise_for_status()
    assert post(client, node, 7, {"n": 1}).status_code == 400
    client.delete(f"{node}/json_schema").raise_for_status()
    assert post(client, node, 7, {"n": 1}).status_code == 200


def test_leading_zeros_name_the_same_body(client: httpx.Client, node: Node) -> None:
    assert client.post(f"{node}/key/007?u=ann", json={"bodyid": 7, "a": 1}).status_code == 200
    assert client.get(f"{node}/key/7").json() == {"bodyid": 7, "a": 1}
    assert client.get(f"{node}/keys").json() == ["7"]
    client.delete(f"{node}/key/07").raise_for_status()
    assert client.get(f"{node}/keys").json() == []


def test_times_of_fields_that_are_gone(client: httpx.Client, node: Node) -> None:
    old = "2001-02-03T04:05:06Z"
    post(client, node, 1, {"a": 1, "a_time": old, "b": 1, "b_time": old})
    post(client, node, 2, {"a": 1, "a_time": "2002-02-03T04:05:06Z"})
    assert client.get(f"{node}/fieldtimes").json() == {"a": "2002-02-03T04:05:06Z", "b": old}
    client.delete(f"{node}/key/1").raise_for_status()
    times = client.get(f"{node}/fieldtimes").json()
    assert times["b"] > "2020"


def test_what_happened_is_in_the_log(client: httpx.Client, node: Node) -> None:
    post(client, node, 7, {"a": 1})
    bulk(client, node, {1: {}, 2: {}})
    client.delete(f"{node}/key/1")
    client.post(f"{node}/schema", json={})
    found = client.get(f"{node}/mutations").json()
    assert [record["Action"] for record in found] == [
        "postneuronjson",
        "ingestneuronjson",
        "deleteneuronjson",
        "metadataneuronjson",
    ]
    assert (found[0]["Key"], found[1]["Keys"], found[2]["Key"], found[3]["Key"]) == ("7", ["1", "2"], "1", "schema")


def test_other_processes_see_every_write(tmp_path: Any) -> None:
    with running(str(tmp_path), "--durability", "process", workers=2) as server:
        clients = [httpx.Client(base_url=server.url) for _ in range(6)]  # connections of both processes
        root = clients[0].post("/api/repos?admintoken=golden", json={}).json()["root"]
        make_instance(clients[0], root, "neuronjson", "nj")
        node = f"/api/node/{root}/nj"
        for number in range(1, 40):
            assert post(clients[number % 6], node, number, {"a": number % 3}).status_code == 200
            expected = [body for body in range(1, number + 1) if body % 3 == 1]
            for client in clients:
                assert query(client, node, {"a": 1}) == expected
