"""The GCS fake keeps every precondition, seen by TensorStore, gcsfs, google-cloud-storage and over plain HTTP."""

from __future__ import annotations

import os

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # read by gcsfs when it is imported

import base64
import hashlib
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec.asyn
import gcsfs
import httpx
import pytest
import tensorstore as ts

from tests.fakes import servers
from tests.fakes.gcs import FakeGcs

MISSING = b"\x02"  # TensorStore's generation of what must not exist
CONDITIONS = ("ifGenerationMatch", "ifGenerationNotMatch", "ifMetagenerationMatch", "ifMetagenerationNotMatch")


@pytest.fixture(scope="module")
def gcs() -> Iterator[servers.Gcs]:
    with servers.gcs() as started:
        yield started


@pytest.fixture
def server(gcs: servers.Gcs) -> FakeGcs:
    assert gcs.server is not None
    return gcs.server


@pytest.fixture
def bucket(gcs: servers.Gcs) -> str:
    name = f"b-{uuid.uuid4().hex[:10]}"
    make_bucket(gcs.url, name)
    return name


@pytest.fixture
def http(gcs: servers.Gcs) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gcs.url) as client:
        yield client


@pytest.fixture
def open_store(gcs: servers.Gcs, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    set_tensorstore(monkeypatch, gcs.url)
    return lambda **spec: open_kvstore(bucket, **spec)


@pytest.fixture
def fs(gcs: servers.Gcs) -> gcsfs.GCSFileSystem:
    return gcsfs.GCSFileSystem(project="p", token="anon", endpoint_url=gcs.url, skip_instance_cache=True)


def make_bucket(url: str, name: str) -> None:
    httpx.post(f"{url}/storage/v1/b?project=p", json={"name": name}).raise_for_status()


def set_tensorstore(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "anything")


def open_kvstore(bucket: str, **spec: Any) -> Any:
    return ts.KvStore.open({"driver": "gcs", "bucket": bucket, **spec}, context=ts.Context()).result()


def upload(http: httpx.Client, bucket: str, name: str, data: bytes = b"x", **params: str) -> httpx.Response:
    query = {"uploadType": "media", "name": name, **params}
    return http.post(f"/upload/storage/v1/b/{bucket}/o", params=query, content=data)


# TensorStore


def test_odd_names_ranges_and_lists(open_store: Callable[..., Any]) -> None:
    store = open_store(path="top/")
    names = ["a", "a b/ü%?#", "a%2Fb", "z/+&=", "ÿ", "\U0001f600"]
    for name in names:
        store.write(name, b"0123456789").result()
    assert store.list().result() == sorted(name.encode() for name in names)
    for name in names:
        assert store.read(name).result().value == b"0123456789"
    assert store.read("a", byte_range=slice(2, 5)).result().value == b"234"
    assert store.read("a", byte_range=slice(-3, None)).result().value == b"789"
    assert store.read("none").result().state == "missing"
    store.delete_range(ts.KvStore.KeyRange("a", "b")).result()
    assert store.list().result() == [b"z/+&=", "ÿ".encode(), "\U0001f600".encode()]


def test_sixteen_creates_have_one_winner(open_store: Callable[..., Any]) -> None:
    store = open_store()
    for key in ("one", "two", "three"):
        futures = [store.write(key, b"%d" % number, if_equal=MISSING) for number in range(16)]
        won = [number for number, future in enumerate(futures) if future.result().generation]
        assert len(won) == 1
        assert store.read(key).result().value == b"%d" % won[0]


def test_stale_generations_are_refused(open_store: Callable[..., Any]) -> None:
    store = open_store()
    first = store.write("k", b"same").result().generation
    second = store.write("k", b"same").result().generation
    assert first != second, "a generation is no hash of the content"
    assert not store.write("k", b"lost", if_equal=first).result().generation
    assert not store.write("k", None, if_equal=first).result().generation
    assert store.read("k", if_not_equal=second).result().state == "unspecified"
    assert store.read("k").result().value == b"same"
    assert store.write("k", None, if_equal=second).result().generation
    assert store.read("k").result().state == "missing"


COUNTER = """
import sys, tensorstore as ts
store = ts.KvStore.open({"driver": "gcs", "bucket": sys.argv[1]}, context=ts.Context()).result()
for _ in range(50):
    while True:
        seen = store.read("counter").result()
        if store.write("counter", b"%d" % (int(seen.value) + 1), if_equal=seen.stamp.generation).result().generation:
            break
"""
OCDBT = """
import sys, tensorstore as ts
base = {"driver": "gcs", "bucket": sys.argv[1], "path": "db/"}
store = ts.KvStore.open({"driver": "ocdbt", "base": base}, context=ts.Context()).result()
for number in range(20):
    store.write(f"{sys.argv[2]}/{number}", b"x").result()
    while True:
        transaction = ts.Transaction(atomic=True, repeatable_read=True)
        view = store.with_transaction(transaction)
        value = int(view.read("counter").result().value or b"0")
        view.write("counter", b"%d" % (value + 1)).result()
        try:
            transaction.commit_async().result()
            break
        except ValueError as error:
            assert str(error).startswith("ABORTED"), error
"""


def run_processes(script: str, bucket: str, count: int) -> None:
    arguments = [[sys.executable, "-c", script, bucket, str(number)] for number in range(count)]
    running = [subprocess.Popen(each, stderr=subprocess.DEVNULL) for each in arguments]
    assert [each.wait(50) for each in running] == [0] * count


def test_processes_lose_no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes add to one counter; two write into one OCDBT database, singly and in transactions."""
    with servers.gcs(process=True) as gcs:
        set_tensorstore(monkeypatch, gcs.url)
        make_bucket(gcs.url, "bkt")
        store = open_kvstore("bkt")
        store.write("counter", b"0").result()
        run_processes(COUNTER, "bkt", 3)
        assert store.read("counter").result().value == b"150"
        run_processes(OCDBT, "bkt", 2)
        base = {"driver": "gcs", "bucket": "bkt", "path": "db/"}
        database = ts.KvStore.open({"driver": "ocdbt", "base": base}, context=ts.Context()).result()
        assert len(database.list().result()) == 41
        assert database.read("counter").result().value == b"40"


def test_the_access_log_counts_requests(open_store: Callable[..., Any], server: FakeGcs) -> None:
    store = open_store()
    server.log.clear()
    store.write("some/key", b"x").result()
    store.read("some/key").result()
    store.read("other").result()
    assert server.count() == 3
    assert server.count("GET") == 2
    assert server.count("POST", "name=some/key") == 1
    assert server.count("GET", "/o/some/key") == 1


# gcsfs


def test_gcsfs_creates_once(fs: gcsfs.GCSFileSystem, bucket: str) -> None:
    fs.pipe_file(f"{bucket}/k", b"1", mode="create")
    for size in (1, 12_000_000):  # multipart and resumable
        with pytest.raises(FileExistsError):
            fs.pipe_file(f"{bucket}/k", b"x" * size, mode="create")
    with pytest.raises(FileExistsError), fs.open(f"{bucket}/k", "xb", block_size=2**20) as file:
        file.write(b"x" * 3_000_000)
    assert fs.cat_file(f"{bucket}/k") == b"1"

    def create(number: int) -> bool:
        try:
            fs.pipe_file(f"{bucket}/race", b"%d" % number, mode="create")
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(8))) == 1


def test_gcsfs_large_objects(fs: gcsfs.GCSFileSystem, bucket: str, server: FakeGcs) -> None:
    data = os.urandom(12_000_001)
    server.log.clear()
    with fs.open(f"{bucket}/pieces", "wb", block_size=5 * 2**20) as file:
        file.write(data)
    assert server.count("POST", "upload_id") > 1
    fs.pipe_file(f"{bucket}/whole", data)
    for name in ("pieces", "whole"):
        assert fs.cat_file(f"{bucket}/{name}") == data
        assert fs.cat_file(f"{bucket}/{name}", start=7, end=5_000_000) == data[7:5_000_000]
        assert fs.cat_file(f"{bucket}/{name}", start=-9) == data[-9:]


def test_gcsfs_files_and_folders(fs: gcsfs.GCSFileSystem, bucket: str) -> None:
    for name in ("a", "d/b", "d/e/c"):
        fs.pipe_file(f"{bucket}/{name}", name.encode() + b"\r")
    assert fs.ls(bucket, detail=False) == [f"{bucket}/a", f"{bucket}/d"]
    assert fs.find(f"{bucket}/d") == [f"{bucket}/d/b", f"{bucket}/d/e/c"]
    assert fs.cat_file(f"{bucket}/d/b") == b"d/b\r"
    fs.copy(f"{bucket}/a", f"{bucket}/copied")
    fs.mv(f"{bucket}/d/b", f"{bucket}/moved")
    fs.merge(f"{bucket}/joined", [f"{bucket}/a", f"{bucket}/moved"])
    assert fs.cat_file(f"{bucket}/joined") == b"a\rd/b\r"
    removed = fsspec.asyn.sync(fs.loop, fs._rm_files, [f"{bucket}/a", f"{bucket}/none", f"{bucket}/moved"])
    assert removed[0::2] == [f"{bucket}/a", f"{bucket}/moved"]
    assert isinstance(removed[1], OSError)
    fs.rm(f"{bucket}/", recursive=True)
    assert not fs.exists(bucket)


def test_google_cloud_storage_batches_and_checks_sums(
    gcs: servers.Gcs, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from google.api_core import exceptions
    from google.cloud import storage

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
    client = storage.Client.create_anonymous_client()
    holder = client.bucket(bucket)
    for number in range(3):
        holder.blob(f"n/{number}").upload_from_string(b"data", checksum="crc32c", if_generation_match=0)
    with pytest.raises(exceptions.PreconditionFailed):
        holder.blob("n/0").upload_from_string(b"data", if_generation_match=0)
    blob = holder.get_blob("n/0")
    assert blob.download_as_bytes(checksum="crc32c") == b"data"
    blob.metadata = {"a": "b"}
    blob.patch(if_metageneration_match=1)
    assert holder.get_blob("n/0").metadata == {"a": "b"}
    with client.batch():
        for number in range(3):
            holder.delete_blob(f"n/{number}")
    assert list(client.list_blobs(bucket)) == []


# Plain HTTP


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("holds", [True, False])
def test_every_condition_on_every_operation(http: httpx.Client, bucket: str, condition: str, holds: bool) -> None:
    """412 for what changes the object and for a failed match; 304 when a read finds what is not wanted."""
    objects = f"/storage/v1/b/{bucket}/o"

    def params(name: str) -> dict[str, str]:
        found = http.get(f"{objects}/{name}").json()
        actual = found["metageneration" if "Meta" in condition else "generation"]
        equal = holds != ("Not" in condition)
        return {condition: actual if equal else str(int(actual) + 1)}

    def multipart() -> dict[str, Any]:
        parts = f'--B\r\n\r\n{{"name": "{name}"}}\r\n--B\r\n\r\nnew\r\n--B--\r\n'
        return {"headers": {"content-type": "multipart/related; boundary=B"}, "content": parts.encode()}

    http.post(f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name=source", content=b"s")
    compose = {"sourceObjects": [{"name": "source"}], "destination": {}}
    calls: dict[str, tuple[str, str, dict[str, Any]]] = {
        "media": ("POST", f"/upload{objects}?uploadType=media&name=NAME", {"content": b"new"}),
        "multipart": ("POST", f"/upload{objects}?uploadType=multipart", {}),
        "resumable": ("POST", f"/upload{objects}?uploadType=resumable&name=NAME", {}),
        "patch": ("PATCH", f"{objects}/NAME", {"json": {"metadata": {"a": "b"}}}),
        "rewrite": ("POST", f"{objects}/source/rewriteTo/b/{bucket}/o/NAME", {}),
        "copy": ("POST", f"{objects}/source/copyTo/b/{bucket}/o/NAME", {}),
        "compose": ("POST", f"{objects}/NAME/compose", {"json": compose}),
        "delete": ("DELETE", f"{objects}/NAME", {}),
        "metadata": ("GET", f"{objects}/NAME", {}),
        "read": ("GET", f"{objects}/NAME?alt=media", {}),
        "download": ("GET", f"/download{objects}/NAME?alt=media", {}),
    }
    for name, (method, url, options) in calls.items():
        upload(http, bucket, name)
        before = http.get(f"{objects}/{name}").json()
        request = options or (multipart() if name == "multipart" else {})
        target = httpx.URL(url.replace("NAME", name)).copy_merge_params(params(name))
        answer = http.request(method, target, **request)
        if holds:
            assert answer.status_code in (200, 204), name
            continue
        assert answer.status_code == (304 if method == "GET" and "Not" in condition else 412), name
        assert http.get(f"{objects}/{name}").json() == before


def test_source_conditions_and_missing_objects(http: httpx.Client, bucket: str) -> None:
    generation = upload(http, bucket, "a").json()["generation"]
    copy = f"/storage/v1/b/{bucket}/o/a/rewriteTo/b/{bucket}/o/b"
    assert http.post(copy, params={"ifSourceGenerationMatch": "7"}).status_code == 412
    assert http.post(copy, params={"ifGenerationMatch": "7"}).status_code == 412
    assert http.post(copy, params={"ifSourceGenerationMatch": generation}).status_code == 200
    assert upload(http, bucket, "none", ifGenerationMatch="5").status_code == 412
    assert upload(http, bucket, "none", ifGenerationNotMatch="0").status_code == 412
    assert upload(http, bucket, "none", ifMetagenerationMatch="1").status_code == 412
    assert upload(http, bucket, "none", ifGenerationMatch="x").status_code == 400
    assert http.delete(f"/storage/v1/b/{bucket}/o/none").status_code == 404
    assert http.get(f"/storage/v1/b/{bucket}/o/a?generation=7").status_code == 404
    assert upload(http, "no-such-bucket", "a").status_code == 404


def test_generations_rise_strictly(http: httpx.Client, bucket: str) -> None:
    seen = [int(upload(http, bucket, "a").json()["generation"]) for _ in range(50)]
    assert seen == sorted(set(seen))
    assert seen[-1] < 2**63


@pytest.mark.parametrize(
    ("wanted", "status", "body"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-99", 206, b"0123456789"),
        ("bytes=10-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=4-2", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
def test_ranges(http: httpx.Client, bucket: str, wanted: str, status: int, body: bytes | None) -> None:
    generation = upload(http, bucket, "a", b"0123456789").json()["generation"]
    url = f"/storage/v1/b/{bucket}/o/a?alt=media&tensorstore=abc"
    answer = http.get(url, headers={"range": wanted})
    assert answer.status_code == status
    if body is None:
        assert answer.headers["content-range"] == "bytes */10"
        return
    assert answer.content == body
    assert answer.headers["x-goog-generation"] == generation
    md5 = base64.b64encode(hashlib.md5(b"0123456789").digest()).decode()
    assert f"md5={md5}" in answer.headers["x-goog-hash"]


def test_resumable_upload_by_hand(http: httpx.Client, bucket: str) -> None:
    chunk = 256 * 1024
    start = http.post(f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&ifGenerationMatch=0", json={"name": "big"})
    url = start.headers["location"]
    total = 2 * chunk + 5

    def send(first: int, data: bytes, size: str) -> httpx.Response:
        span = f"{first}-{first + len(data) - 1}" if data else "*"
        return http.put(url, content=data, headers={"content-range": f"bytes {span}/{size}"})

    assert send(0, b"", "*").headers.get("range") is None
    assert send(0, b"a" * 100, "*").status_code == 400, "not a multiple of 256 KiB"
    first = send(0, b"a" * chunk, "*")
    assert (first.status_code, first.headers["range"]) == (308, f"bytes=0-{chunk - 1}")
    assert send(3 * chunk, b"b" * chunk, "*").status_code == 400, "a gap"
    assert send(0, b"a" * chunk + b"b" * chunk, "*").headers["range"] == f"bytes=0-{2 * chunk - 1}"
    assert send(0, b"", str(total)).status_code == 308
    assert http.get(f"/storage/v1/b/{bucket}/o/big").status_code == 404
    done = send(2 * chunk, b"c" * 5, str(total))
    assert (done.status_code, done.json()["size"]) == (200, str(total))
    assert send(0, b"", str(total)).json() == done.json(), "a lost answer can be asked for again"
    data = http.get(f"/storage/v1/b/{bucket}/o/big?alt=media").content
    assert data == b"a" * chunk + b"b" * chunk + b"c" * 5


def test_resumable_upload_checks_its_condition_at_the_end(http: httpx.Client, bucket: str) -> None:
    begin = f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name=k&ifGenerationMatch=0"
    url = http.post(begin).headers["location"]
    upload(http, bucket, "k", b"came between")
    assert http.put(url, content=b"late").status_code == 412
    assert http.get(f"/storage/v1/b/{bucket}/o/k?alt=media").content == b"came between"
    assert http.post(begin).status_code == 412
    other = http.post(begin.replace("name=k", "name=other")).headers["location"]
    assert http.delete(other).status_code == 499
    assert http.put(other, content=b"x").status_code == 404


def test_listing(http: httpx.Client, bucket: str) -> None:
    for name in ("a", "b/1", "b/2", "b/c/1", "d/1", "e", "ü"):
        upload(http, bucket, name)

    def listed(**params: str) -> tuple[list[str], list[str]]:
        items: list[str] = []
        prefixes: list[str] = []
        while True:
            page = http.get(f"/storage/v1/b/{bucket}/o", params=params).raise_for_status().json()
            size = len(page.get("items", [])) + len(page.get("prefixes", []))
            assert size <= int(params.get("maxResults", "1000"))
            items += [item["name"] for item in page.get("items", [])]
            prefixes += page.get("prefixes", [])
            if "nextPageToken" not in page:
                return items, prefixes
            params["pageToken"] = page["nextPageToken"]

    assert listed() == (["a", "b/1", "b/2", "b/c/1", "d/1", "e", "ü"], [])
    assert listed(delimiter="/") == (["a", "e", "ü"], ["b/", "d/"])
    assert listed(delimiter="/", maxResults="1") == (["a", "e", "ü"], ["b/", "d/"])
    assert listed(delimiter="/", prefix="b/") == (["b/1", "b/2"], ["b/c/"])
    assert listed(startOffset="b/2", endOffset="e") == (["b/2", "b/c/1", "d/1"], [])
    assert listed(prefix="b/", startOffset="b/2", maxResults="1") == (["b/2", "b/c/1"], [])
    assert http.get(f"/storage/v1/b/{bucket}/o?matchGlob=*").status_code == 501


def test_buckets(http: httpx.Client, bucket: str) -> None:
    assert http.post("/storage/v1/b?project=p", json={"name": bucket}).status_code == 409
    assert http.post("/storage/v1/b?project=p", json={"name": "Not A Name"}).status_code == 400
    upload(http, bucket, "a")
    assert http.delete(f"/storage/v1/b/{bucket}").status_code == 409
    http.delete(f"/storage/v1/b/{bucket}/o/a")
    assert http.delete(f"/storage/v1/b/{bucket}").status_code == 204
    assert http.get(f"/storage/v1/b/{bucket}").status_code == 404


def test_a_fake_of_its_own_tells_its_access_log() -> None:
    with servers.gcs(process=True) as gcs:
        httpx.post(f"{gcs.url}/storage/v1/b?project=p", json={"name": "logged"}).raise_for_status()
        assert httpx.get(f"{gcs.url}/storage/v1/b/logged/o/a%2Fb").status_code == 404
        assert httpx.get(f"{gcs.url}/_fake/log").json() == [
            {"method": "POST", "path": "/storage/v1/b", "query": "project=p"},
            {"method": "GET", "path": "/storage/v1/b/logged/o/a/b", "query": ""},
        ]
        assert httpx.delete(f"{gcs.url}/_fake/log").status_code == 200
        assert httpx.get(f"{gcs.url}/_fake/log").json() == []
