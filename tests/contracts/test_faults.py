"""The fault proxy does each fault as it says, before the GCS fake and before ministack."""

from __future__ import annotations

import time
from collections.abc import Iterator

import boto3
import httpx
import pytest
import tensorstore as ts
from botocore.config import Config

from tests.fakes import faults, servers
from tests.fakes.faults import Fault, Mode
from tests.fakes.gcs import FakeGcs

NO_RETRY = {"max_retries": 1, "initial_delay": "1ms", "max_delay": "2ms"}
BATTERED = {
    Fault.UNAVAILABLE: 0.1,
    Fault.TOO_MANY: 0.05,
    Fault.RESET: 0.05,
    Fault.LOST_REPLY: 0.1,
    Fault.ERROR_AFTER: 0.05,
    Fault.DELAY: 0.1,
}


@pytest.fixture(scope="module")
def store() -> Iterator[servers.Gcs]:
    with servers.gcs() as gcs:
        httpx.post(f"{gcs.url}/storage/v1/b?project=p", json={"name": "bkt"}).raise_for_status()
        yield gcs


@pytest.fixture
def net(store: servers.Gcs) -> Iterator[faults.Proxy]:
    with faults.proxy(store.url, seed=1) as made:
        yield made


def server(store: servers.Gcs) -> FakeGcs:
    assert store.server is not None
    return store.server


def put(net: faults.Proxy, name: str, data: bytes = b"x") -> httpx.Response:
    query = {"uploadType": "media", "name": name, "ifGenerationMatch": "0"}
    return httpx.post(f"{net.url}/upload/storage/v1/b/bkt/o", params=query, content=data, timeout=5)


@pytest.mark.parametrize(
    ("fault", "status", "stored"),
    [
        (Fault.NONE, 200, True),
        (Fault.DELAY, 200, True),
        (Fault.UNAVAILABLE, 503, False),
        (Fault.TOO_MANY, 429, False),
        (Fault.ERROR_AFTER, 500, True),
        (Fault.RESET, None, False),
        (Fault.LOST_REPLY, None, True),
    ],
)
def test_a_fault_leaves_the_store_as_it_says(
    net: faults.Proxy, store: servers.Gcs, fault: Fault, status: int | None, stored: bool
) -> None:
    name = f"one/{fault.name}"
    net.plan(fault)
    if status is None:
        with pytest.raises(httpx.TransportError):
            put(net, name)
    else:
        assert put(net, name).status_code == status
    assert (name in server(store).buckets["bkt"].blobs) is stored
    assert net.injected.total() == (fault is not Fault.NONE)
    assert put(net, name).status_code == (412 if stored else 200)


def test_only_and_most_limit_the_faults(net: faults.Proxy) -> None:
    net.only = lambda method, target: method == "GET"
    net.chance[Fault.UNAVAILABLE] = 1.0
    net.most = 2
    assert put(net, "limited").status_code == 200
    url = f"{net.url}/storage/v1/b/bkt/o/limited"
    assert [httpx.get(url).status_code for _ in range(4)] == [503, 503, 200, 200]
    net.most = None
    net.calm()
    assert httpx.get(url).status_code == 200


def test_the_same_seed_makes_the_same_faults(store: servers.Gcs) -> None:
    runs = []
    for _ in range(2):
        with faults.proxy(store.url, seed=5) as net, httpx.Client() as client:
            net.chance[Fault.UNAVAILABLE] = 0.5
            runs.append([client.get(f"{net.url}/storage/v1/b/bkt").status_code for _ in range(30)])
    assert runs[0] == runs[1]
    assert set(runs[0]) == {200, 503}


def test_dead_and_refused_and_back(net: faults.Proxy) -> None:
    url = f"{net.url}/storage/v1/b/bkt"
    net.mode = Mode.DEAD
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(url, timeout=0.2)
    net.mode = Mode.REFUSED
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, timeout=5)
    net.mode = Mode.NORMAL
    assert httpx.get(url).status_code == 200


def test_large_bodies_pass(net: faults.Proxy) -> None:
    data = bytes(range(256)) * 20_000
    assert put(net, "large", data).status_code == 200
    chunks = (data[at : at + 70_000] for at in range(0, len(data), 70_000))
    query = {"uploadType": "media", "name": "chunked"}
    httpx.post(f"{net.url}/upload/storage/v1/b/bkt/o", params=query, content=chunks).raise_for_status()
    for name in ("large", "chunked"):
        assert httpx.get(f"{net.url}/storage/v1/b/bkt/o/{name}?alt=media").content == data


def test_tensorstore_gives_up_quickly_on_a_dead_store(net: faults.Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", net.url)
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "anything")
    context = ts.Context({"gcs_request_retries": NO_RETRY})
    kvstore = ts.KvStore.open({"driver": "gcs", "bucket": "bkt"}, context=context).result()
    net.mode = Mode.REFUSED
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"^ABORTED: All 1 retry attempts failed"):
        kvstore.read("a").result()
    assert time.monotonic() - began < 5


def test_tensorstore_cas_through_a_bad_network(
    net: faults.Proxy, store: servers.Gcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write carries a nonce, so a writer whose reply was lost can see whether it was its own."""
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", net.url)
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "anything")
    retries = {"max_retries": 20, "initial_delay": "1ms", "max_delay": "5ms"}
    context = ts.Context({"gcs_request_retries": retries})
    kvstore = ts.KvStore.open({"driver": "gcs", "bucket": "bkt"}, context=context).result()
    kvstore.write("count", b"0 start").result()
    net.chance.update(BATTERED)
    for number in range(1, 61):
        value = b"%d by-me" % number
        seen = kvstore.read("count").result()
        written = kvstore.write("count", value, if_equal=seen.stamp.generation).result()
        if not written.generation:  # a retry met the write whose reply was lost
            assert kvstore.read("count").result().value == value
    assert server(store).buckets["bkt"].blobs["count"].data == b"60 by-me"
    assert net.injected[Fault.LOST_REPLY]
    assert net.injected[Fault.UNAVAILABLE]


def test_s3_through_the_proxy() -> None:
    with servers.s3() as url, faults.proxy(url) as net:
        client = boto3.client(
            "s3",
            endpoint_url=net.url,
            region_name="us-east-1",
            aws_access_key_id="k",
            aws_secret_access_key="s",
            config=Config(retries={"max_attempts": 5, "mode": "standard"}, s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket="bkt")
        data = b"y" * 300_000
        net.plan(Fault.UNAVAILABLE, Fault.LOST_REPLY)
        client.put_object(Bucket="bkt", Key="k", Body=data)
        assert client.get_object(Bucket="bkt", Key="k")["Body"].read() == data
        assert net.injected == {Fault.UNAVAILABLE: 1, Fault.LOST_REPLY: 1}
        with pytest.raises(client.exceptions.ClientError, match="PreconditionFailed"):
            client.put_object(Bucket="bkt", Key="k", Body=b"z", IfNoneMatch="*")
