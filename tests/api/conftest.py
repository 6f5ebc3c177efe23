"""The API tests run once on a folder and once on the cloud's fakes: GCS for data, Firestore for the catalog."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.running import ADMIN, Server, running

PLACES = ("folder", "cloud")


@pytest.fixture(scope="session")
def folder_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(str(tmp_path_factory.mktemp("store")), "--durability", "process") as server:
        yield server


@pytest.fixture(scope="session")
def cloud_server(gcs_server: str, firestore_server: str) -> Iterator[Server]:
    environment = {"FIRESTORE_EMULATOR_HOST": firestore_server}
    store = f"gs://dvid/{uuid.uuid4().hex}"
    with running(store, "--catalog", "firestore://demo-p", environment=environment) as server:
        yield server


@pytest.fixture(params=PLACES)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def root(client: httpx.Client) -> str:
    """A new repo."""
    answer = client.post("/api/repos", params={"admintoken": ADMIN}, json={"alias": "test", "description": "test"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["root"])


def make_instance(client: httpx.Client, root: str, typename: str, name: str, **settings: str) -> None:
    body = {"typename": typename, "dataname": name, **settings}
    answer = client.post(f"/api/repo/{root}/instance", json=body)
    assert answer.status_code == 200, answer.text
