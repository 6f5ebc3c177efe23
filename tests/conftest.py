"""Stores and catalogs on every backend; each server is started once for a session, when a test first asks for it."""

from __future__ import annotations

import os

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # read by gcsfs when it is imported

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3
import httpx
import pytest
import pytest_asyncio
from botocore.config import Config
from google.cloud import firestore

from app.backends.bucket_catalog import BucketCatalog
from app.backends.catalog import Catalog
from app.backends.store import Store, StoreOptions
from tests import journals
from tests.fakes import servers

BUCKET = "dvid"
#: `small` is a folder with small journals.
STORES = ("memory", "file", "small", "gcs", "s3")
CATALOGS = ("memory", "file", "small", "gcs", "firestore", "google")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--journals", choices=["ordinary", "small"], default="ordinary", help="how much waits in journals of folders"
    )


def pytest_configure(config: pytest.Config) -> None:
    environment = pytest.MonkeyPatch()
    config.add_cleanup(environment.undo)
    if config.getoption("journals") == "small":
        journals.choose_small(environment)


@pytest.fixture
def small_journals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small journals for what is opened, and for servers that are started, from now on."""
    if journals.are_small():
        pytest.skip("journals are small already")
    journals.choose_small(monkeypatch)


def options() -> StoreOptions:
    return journals.store_options(durability="process", cache_bytes=64 << 20, max_staleness_seconds=0.0)


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    """The GCS fake in a process of its own, with a bucket; TensorStore, also of child processes, is pointed at it."""
    with servers.gcs(process=True) as gcs, pytest.MonkeyPatch.context() as environment:
        httpx.post(f"{gcs.url}/storage/v1/b?project=p", json={"name": BUCKET}).raise_for_status()
        environment.setenv("TENSORSTORE_GCS_HTTP_URL", gcs.url)
        environment.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "anything")
        yield gcs.url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Ministack with a bucket; the environment has keys for it."""
    with servers.s3() as url, pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        client = boto3.client(
            "s3", endpoint_url=url, region_name="us-east-1", config=Config(retries={"max_attempts": 5})
        )
        client.create_bucket(Bucket=BUCKET)
        yield url


@pytest.fixture(scope="session")
def firestore_server() -> Iterator[str]:
    """The Firestore fake."""
    with servers.firestore() as firestore:
        yield firestore.host


@pytest.fixture(scope="session")
def google_firestore() -> Iterator[str]:
    """Google's own Firestore emulator, where the machine has it."""
    with servers.google_firestore_emulator() as host:
        if host is None:
            pytest.skip("NOT TESTED on Google's Firestore emulator: this machine does not have it")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("FIRESTORE_EMULATOR_HOST", host)
            client = firestore.Client(project="demo-warm")
            client.document("warm/up").set({"x": 1}, timeout=60)  # its first calls take seconds
            client.document("warm/up").get(timeout=60)
            client.close()
        yield host


def url_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of a fresh, empty store."""
    name = uuid.uuid4().hex
    if kind == "memory":
        return f"memory://{name}"
    if kind == "small":
        request.getfixturevalue("small_journals")
    if kind in ("file", "small"):
        return f"file://{folder}/{name}"
    if kind == "gcs":
        request.getfixturevalue("gcs_server")
        return f"gs://{BUCKET}/{name}"
    return f"s3://{BUCKET}/{name}?endpoint={request.getfixturevalue('s3_server')}&region=us-east-1"


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, request, tmp_path)


@pytest.fixture(params=STORES[1:])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh store that several processes can open."""
    return url_of(request.param, request, tmp_path)


@pytest.fixture
def store(store_url: str) -> Store:
    return Store(store_url, options())


@pytest_asyncio.fixture(params=CATALOGS)
async def catalog(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Catalog]:
    if request.param not in ("firestore", "google"):
        yield BucketCatalog(Store(url_of(request.param, request, tmp_path), options()))
        return
    from app.backends.firestore_catalog import FirestoreCatalog

    fixture = "firestore_server" if request.param == "firestore" else "google_firestore"
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", request.getfixturevalue(fixture))
    made = FirestoreCatalog("demo-p", root=f"dvid/{uuid.uuid4().hex}")
    yield made
    await made.close()
