"""Bad input at every endpoint: always a 4xx with a reason, never a 500, never half a write."""

from __future__ import annotations

import gzip
import http.client
import struct
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from app.bootstrap import endpoints
from app.kernels import label_block
from app.routes.documentation import full_path
from tests.api.conftest import make_instance
from tests.running import ADMIN

GENERAL, BY_TYPE = endpoints()
ALL = [("", described) for described in GENERAL] + [
    (typename, described) for typename, described_ in BY_TYPE.items() for described in described_
]
#: Words that no placeholder of a path accepts, whatever it stands for.
GARBAGE = ["garbage", "-1", "1_2", "99999999999999999999999", "%00%FF", "1.5_2_3"]
BODIES = [b"{nonsense", b'{"a": 1}', b"\x00\xff" * 40, b"null", b"[[1,2],[-1]]", b"[-1]"]
QUERIES = ["scale=x&compression=zip", "scale=-1&format=odd", "scale=999&minx=a", "generation=x"]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The repos made so far, by server: what is refused must not change them."""
    return {}


@pytest.fixture
def instances(client: httpx.Client, request: pytest.FixtureRequest, made: dict[str, str]) -> str:
    """A repo with one instance of each datatype, and data in some."""
    known = made.get(str(client.base_url))
    if known is None:
        known = made[str(client.base_url)] = make_all(client, request.getfixturevalue("root"))
    return known


def make_all(client: httpx.Client, root: str) -> str:
    for typename in BY_TYPE:
        source = {"Source": "the-uint8blk"} if typename == "imagetile" else {}
        make_instance(client, root, typename, f"the-{typename}", BlockSize="32,32,32", Extension="dat", **source)
    labels = np.arange(32**3, dtype="<u8").reshape(32, 32, 32) // 5000 + 1
    answer = client.post(f"/api/node/{root}/the-labelmap/raw/0_1_2/32_32_32/0_0_0", content=labels.tobytes())
    assert answer.status_code == 200, answer.text
    client.post(f"/api/node/{root}/the-keyvalue/key/k", content=b"value").raise_for_status()
    levels = {"0": {"Resolution": [8, 8, 8], "TileSize": [32, 32, 32]}}
    client.post(f"/api/node/{root}/the-imagetile/metadata", json={"Levels": levels}).raise_for_status()
    return root


def fill(path: str, root: str, typename: str, word: str) -> str:
    """A path with its version and data right, and every other placeholder filled with the same word."""
    parts = []
    for part in path.split("/"):
        if part == "{version}":
            parts.append(root)
        elif part == "{data}":
            parts.append(f"the-{typename}")
        else:
            parts.append(word if part.startswith("{") else part)
    return "/".join(parts)


def variations(typename: str, path: str, root: str) -> Iterator[str]:
    for word in GARBAGE if path.count("{") > (2 if typename else 0) else ["-"]:
        yield fill(path, root, typename, word)


def assert_refused_or_harmless(answer: httpx.Response) -> None:
    what = f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.content[:300]!r}"
    assert answer.status_code < 500, what
    if answer.status_code >= 400 and answer.request.method != "HEAD":
        assert answer.content.strip(), f"no reason: {what}"


@pytest.mark.parametrize(("typename", "described"), ALL, ids=[f"{t or 'general'} {d.method} {d.path}" for t, d in ALL])
def test_garbage_is_never_a_server_error(
    client: httpx.Client, instances: str, typename: str, described: object
) -> None:
    from app.routes.endpoint import Endpoint

    assert isinstance(described, Endpoint)
    if described.path == "/api/node/{version}/commit" and described.method == "POST":
        bodies = [body for body in BODIES if not body.startswith(b'{"')]  # a good one would lock the version
    else:
        bodies = BODIES
    for path in variations(typename, full_path(described), instances):
        assert_refused_or_harmless(client.request(described.method, path))
    path = fill(full_path(described), instances, typename, "1")
    for query in QUERIES:
        assert_refused_or_harmless(client.request(described.method, f"{path}?{query}"))
    for body in bodies:
        assert_refused_or_harmless(client.request(described.method, f"{path}?admintoken={ADMIN}", content=body))


@pytest.mark.parametrize(("typename", "described"), ALL, ids=[f"{t or 'general'} {d.method} {d.path}" for t, d in ALL])
def test_other_methods_are_refused(client: httpx.Client, instances: str, typename: str, described: object) -> None:
    from app.routes.endpoint import Endpoint

    assert isinstance(described, Endpoint)
    path = fill(full_path(described), instances, typename, "1")
    answer = client.request("PATCH", path)
    assert answer.status_code in (400, 404, 405), (path, answer.status_code)


def stream(*blocks: tuple[tuple[int, int, int], bytes]) -> bytes:
    return b"".join(struct.pack("<4i", *place, len(payload)) + payload for place, payload in blocks)


def good_block(label: int = 777) -> bytes:
    return gzip.compress(bytes(label_block.solid(label, (32, 32, 32))))


BROKEN_BLOCKS = {
    "cut in the header": stream(((1, 1, 1), good_block())) + b"\x01\x00\x00",
    "cut in the payload": stream(((1, 1, 1), good_block()))[:-5],
    "no payload": stream(((1, 1, 1), b"")),
    "negative length": struct.pack("<4i", 1, 1, 1, -5),
    "huge length": struct.pack("<4i", 1, 1, 1, 0x7FFF_FFFF),
    "not gzip": stream(((1, 1, 1), b"nonsense")),
    "gzip of nonsense": stream(((1, 1, 1), gzip.compress(b"nonsense"))),
    "gzip bomb": stream(((1, 1, 1), gzip.compress(bytes(80 << 20)))),
    "another block size": stream(((1, 1, 1), gzip.compress(bytes(label_block.solid(777, (64, 64, 64)))))),
    "cut label block": stream(((1, 1, 1), gzip.compress(bytes(label_block.solid(777, (32, 32, 32)))[:-3]))),
    "a good one first": stream(((1, 1, 1), good_block()), ((2, 2, 2), b"nonsense")),
}


@pytest.mark.parametrize("name", BROKEN_BLOCKS)
@pytest.mark.parametrize("keyword", ["blocks", "ingest-supervoxels"])
def test_broken_streams_of_blocks_leave_nothing(client: httpx.Client, instances: str, name: str, keyword: str) -> None:
    node = f"/api/node/{instances}/the-labelmap"
    answer = client.post(f"{node}/{keyword}", content=BROKEN_BLOCKS[name])
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.text.strip()
    assert client.get(f"{node}/label/40_40_40").json() == {"Label": 0}
    assert client.get(f"{node}/sizes", params={"x": 1}).status_code == 400
    assert client.request("GET", f"{node}/sizes", json=[777]).json() == [0]


@pytest.mark.parametrize("typename", ["labelmap", "uint8blk"])
@pytest.mark.parametrize(
    ("path", "body", "query"),
    [
        ("raw/0_1_2/32_32_32/0_0_0", b"too short", ""),
        ("raw/0_1_2/32_32_32/0_0_0", bytes(32**3 * 8 + 1), ""),
        ("raw/0_1_2/32_32_32/1_0_0", bytes(32**3), ""),
        ("raw/0_1_2/31_32_32/0_0_0", bytes(31 * 32 * 32), ""),
        ("raw/0_1_2/0_32_32/0_0_0", b"", ""),
        ("raw/0_1_2/-32_32_32/0_0_0", b"", ""),
        ("raw/0_1_2/2000000000_2000000000_2000000000/0_0_0", b"", ""),
        ("raw/0_1/32_32/0_0_0", bytes(32 * 32), ""),
        ("raw/xyzzy/32_32_32/0_0_0", bytes(32**3), ""),
        ("raw/0_1_2/32_32_32/0_0_0", bytes(32**3), "roi=nosuch"),
    ],
)
def test_bad_volumes_leave_nothing(
    client: httpx.Client, instances: str, typename: str, path: str, body: bytes, query: str
) -> None:
    node = f"/api/node/{instances}/the-{typename}"
    before = client.get(f"{node}/raw/0_1_2/32_32_32/0_0_0").content
    answer = client.post(f"{node}/{path}?{query}", content=body)
    assert 400 <= answer.status_code < 500, answer.status_code
    assert answer.text.strip()
    assert client.get(f"{node}/raw/0_1_2/32_32_32/0_0_0").content == before


@pytest.mark.parametrize("packed", ["lz4", "gzip"])
def test_corrupt_compression_of_labels(client: httpx.Client, instances: str, packed: str) -> None:
    node = f"/api/node/{instances}/the-labelmap"
    for body in (b"", b"\xff" * 100, gzip.compress(b"short"), b"\x1f\x8b\x08nonsense", gzip.compress(bytes(64 << 20))):
        answer = client.post(f"{node}/raw/0_1_2/32_32_32/32_0_0?compression={packed}", content=body)
        assert 400 <= answer.status_code < 500, answer.status_code
    assert client.get(f"{node}/label/40_0_0").json() == {"Label": 0}


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(client: httpx.Client, instances: str) -> None:
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=30)
    connection.putrequest("POST", f"/api/node/{instances}/the-keyvalue/key/k")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders(b"the beginning")
    answer = connection.getresponse()
    assert answer.status == 413
    assert answer.read()
    connection.close()


def test_an_answer_beyond_the_limit_is_refused(client: httpx.Client, instances: str) -> None:
    answer = client.get(f"/api/node/{instances}/the-labelmap/raw/0_1_2/100000_100000_100000/0_0_0")
    assert answer.status_code == 413
    assert "voxels" in answer.text
