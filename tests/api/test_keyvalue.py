"""keyvalue over HTTP: values of any size, and many of them in one request."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from app.datatypes.values import _MARK, PIECE_BYTES
from app.formats.dvid_pb2 import Keys, KeyValues
from tests.api.conftest import make_instance
from tests.running import ADMIN

SIZES = [PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 2 * PIECE_BYTES + 12345]


@pytest.fixture
def kv(client: httpx.Client, root: str) -> str:
    make_instance(client, root, "keyvalue", "kv")
    return f"/api/node/{root}/kv"


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def streamed(value: bytes) -> Iterator[bytes]:
    """A body whose length is not announced."""
    for start in range(0, len(value), 1 << 20):
        yield value[start : start + (1 << 20)]


def child(client: httpx.Client, root: str) -> str:
    client.post(f"/api/node/{root}/commit", json={"note": ""}).raise_for_status()
    return str(client.post(f"/api/node/{root}/newversion", json={"note": ""}).json()["child"])


@pytest.mark.parametrize("size", SIZES)
def test_large_values_come_back(client: httpx.Client, kv: str, size: int) -> None:
    value = noise(size, size)
    assert client.post(f"{kv}/key/big", content=value).status_code == 200
    answer = client.get(f"{kv}/key/big")
    assert answer.content == value
    assert answer.headers["content-length"] == str(size)
    assert client.head(f"{kv}/key/big").headers["content-length"] == str(size)
    assert client.post(f"{kv}/key/big", content=streamed(value[::-1])).status_code == 200
    assert client.get(f"{kv}/key/big").content == value[::-1]
    assert client.get(f"{kv}/keys").json() == ["big"]


def test_parts_of_a_large_value(client: httpx.Client, kv: str) -> None:
    value = noise(2 * PIECE_BYTES + 1000)
    client.post(f"{kv}/key/big", content=value)
    for first, last in [(0, 0), (PIECE_BYTES - 5, PIECE_BYTES + 5), (10, 2 * PIECE_BYTES + 500), (len(value) - 1,) * 2]:
        answer = client.get(f"{kv}/key/big", headers={"Range": f"bytes={first}-{last}"})
        assert (answer.status_code, answer.content) == (206, value[first : last + 1])
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(value)}"
        answer = client.get(f"{kv}/key/big", params={"byte_start": first, "byte_end": last})
        assert (answer.status_code, answer.content) == (200, value[first : last + 1])
    assert client.get(f"{kv}/key/big", headers={"Range": "bytes=-7"}).content == value[-7:]
    beyond = client.get(f"{kv}/key/big", headers={"Range": f"bytes={len(value)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(value)}")
    assert client.get(f"{kv}/key/big", params={"byte_start": 0, "byte_end": len(value)}).status_code == 400
    wanted = [{"key": "big", "byte_start": 5, "byte_end": PIECE_BYTES + 9}, {"key": "absent"}]
    archive = client.request("GET", f"{kv}/keyvalues", params={"tar": "true"}, json=wanted).content
    assert files(archive) == [("big", value[5 : PIECE_BYTES + 10]), ("absent", b"")]


def files(archive: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def test_large_values_in_every_form(client: httpx.Client, kv: str) -> None:
    text = json.dumps({"x": "y" * (PIECE_BYTES + 100)}).encode()
    message = KeyValues()
    for key, value in [("a", b'"small"'), ("b", text), ("\u00fc", b""), ("long" * 60, b"5")]:
        message.kvs.add(key=key, value=value)
    assert client.post(f"{kv}/keyvalues", content=message.SerializeToString()).status_code == 200
    sent = sorted((item.key, item.value) for item in message.kvs)
    found = KeyValues.FromString(client.get(f"{kv}/keyrangevalues/a/\u00fc").content)
    assert sorted((item.key, item.value) for item in found.kvs) == sent
    assert sorted(files(client.get(f"{kv}/keyrangevalues/a/\u00fc?tar=true").content)) == sent
    as_json = client.get(f"{kv}/keyrangevalues/a/\u00fc?json=true&check=true").json()
    assert as_json == {key: json.loads(value or b"{}") for key, value in sent}
    keys = Keys(keys=["b", "nosuch"]).SerializeToString()
    found = KeyValues.FromString(client.request("GET", f"{kv}/keyvalues", content=keys).content)
    assert [(item.key, item.value) for item in found.kvs] == [("b", text), ("nosuch", b"")]


def test_bulk_writes_as_json_and_tar(client: httpx.Client, kv: str) -> None:
    given = {"a": {"x": [1, None]}, "\u00fc": "text", "n": 5}
    assert client.post(f"{kv}/keyvalues?json=true", json=given).status_code == 200
    assert client.get(f"{kv}/keyrangevalues/a/\u00fc?json=true").json() == given
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, value in [("t1", noise(1000)), ("t2", b""), ("name" * 50, b"x")]:
            member = tarfile.TarInfo(name)
            member.size = len(value)
            tar.addfile(member, io.BytesIO(value))
    assert client.post(f"{kv}/keyvalues?tar=true", content=archive.getvalue()).status_code == 200
    assert client.get(f"{kv}/key/t1").content == noise(1000)
    assert (client.get(f"{kv}/key/t2").status_code, client.get(f"{kv}/key/t2").content) == (200, b"")
    before = client.get(f"{kv}/keys").json()
    assert len(before) == 6
    for query, body in [("json", b"[1]"), ("json", b"{"), ("tar", archive.getvalue()[:700]), ("tar", b"x" * 1024)]:
        assert client.post(f"{kv}/keyvalues?{query}=true", content=body).status_code == 400
    assert client.get(f"{kv}/keys").json() == before


def test_a_value_that_looks_like_a_reference(client: httpx.Client, kv: str) -> None:
    for value in (_MARK, _MARK + b"\0", _MARK + b"\1", _MARK + b"\1" + bytes(56), _MARK[:-1]):
        client.post(f"{kv}/key/odd", content=value)
        assert client.get(f"{kv}/key/odd").content == value
        assert client.head(f"{kv}/key/odd").headers["content-length"] == str(len(value))


def test_large_values_in_versions_and_generations(client: httpx.Client, root: str, kv: str) -> None:
    first, second = noise(PIECE_BYTES + 1, 1), noise(PIECE_BYTES + 1, 2)
    client.post(f"{kv}/key/big", content=first)
    tag = client.get(f"{kv}/key/big").headers["etag"]
    generation = tag.strip('"').split(".")[2]
    client.post(f"{kv}/key/big", content=second)
    assert client.get(f"{kv}/key/big?generation={generation}").content == first
    younger = child(client, root)
    node = f"/api/node/{younger}/kv"
    assert client.get(f"{node}/key/big").content == second
    client.post(f"{node}/key/big", content=b"small now").raise_for_status()
    assert client.get(f"{node}/key/big").content == b"small now"
    assert client.get(f"{kv}/key/big").content == second
    client.delete(f"{node}/key/big").raise_for_status()
    assert client.get(f"{node}/key/big").status_code == 404
    assert client.get(f"{kv}/key/big").content == second
    assert client.post(f"{kv}/key/big", content=first).status_code == 400  # locked
    assert client.get(f"{kv}/key/big").content == second


def test_an_upload_that_breaks_off_leaves_nothing(client: httpx.Client, kv: str) -> None:
    client.post(f"{kv}/key/k", content=b"before")
    address = (client.base_url.host, client.base_url.port)
    with socket.create_connection(address) as connection:
        head = f"POST {kv}/key/k HTTP/1.1\r\nHost: x\r\nContent-Length: {3 * PIECE_BYTES}\r\n\r\n"
        connection.sendall(head.encode() + bytes(PIECE_BYTES + 1000))
        time.sleep(0.2)
    time.sleep(0.5)
    assert client.get(f"{kv}/key/k").content == b"before"
    assert [record["Action"] for record in client.get(f"{kv}/mutations").json()] == ["postkv"]


def test_a_large_value_beyond_the_limit_of_bodies(client: httpx.Client, kv: str) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall(f"POST {kv}/key/k HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_an_unversioned_instance_is_one_for_all_versions(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "keyvalue", "one", versioned="false")
    younger = child(client, root)
    value = noise(PIECE_BYTES + 1)
    assert client.post(f"/api/node/{younger}/one/key/a", content=value).status_code == 200
    assert client.get(f"/api/node/{root}/one/key/a").content == value
    assert client.post(f"/api/node/{root}/one/key/a", content=b"x").status_code == 200
    assert client.get(f"/api/node/{younger}/one/key/a").content == b"x"


def test_administrators_may_write_large_values_to_locked_versions(client: httpx.Client, root: str, kv: str) -> None:
    child(client, root)
    value = noise(PIECE_BYTES + 1)
    assert client.post(f"{kv}/key/a", content=value, params={"admintoken": ADMIN}).status_code == 200
    assert client.get(f"{kv}/key/a").content == value


def test_one_large_value_written_on_both_sides_of_a_version_merge(client: httpx.Client, root: str, kv: str) -> None:
    first, second = noise(PIECE_BYTES + 1, 1), noise(PIECE_BYTES + 1, 2)
    for key in "abc":
        client.post(f"{kv}/key/{key}", content=first).raise_for_status()
    client.post(f"/api/node/{root}/commit", json={}).raise_for_status()
    sides = [client.post(f"/api/node/{root}/branch", json={"branch": name}).json()["child"] for name in ("x", "y")]
    left, right = (f"/api/node/{side}/kv/key" for side in sides)
    for node in (left, right):
        client.post(f"{node}/a", content=second).raise_for_status()
    client.post(f"{left}/b", content=first).raise_for_status()
    client.post(f"{right}/b", content=b"small").raise_for_status()
    client.post(f"{right}/d", content=second).raise_for_status()
    for side in sides:
        client.post(f"/api/node/{side}/commit", json={}).raise_for_status()
    body = {"mergeType": "conflict-free", "parents": sides}
    answer = client.post(f"/api/repo/{root}/merge", json=body)
    assert answer.status_code == 200, answer.text
    merged = f"/api/node/{answer.json()['child']}/kv/key"
    assert [client.get(f"{merged}/{key}").content for key in "abcd"] == [second, b"small", first, second]
    assert [client.get(f"{left}/{key}").content for key in "abc"] == [second, first, first]
