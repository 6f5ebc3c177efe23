"""What operators do, over HTTP and as commands: rename and remove data, remove repos, exchange and hide branches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from app.backends.bucket_catalog import BucketCatalog
from app.backends.store import Store, StoreOptions
from app.cli import main
from app.versioning import curation
from app.versioning.datastore import Datastore
from app.versioning.graph import Instance
from tests.api.conftest import make_instance
from tests.api.test_version_merges import branch, commit, put, values
from tests.running import ADMIN, running

AS_ADMIN = {"admintoken": ADMIN}
SURE = {**AS_ADMIN, "imsure": "true"}


def new_version(client: httpx.Client, version: str) -> str:
    return str(client.post(f"/api/node/{version}/newversion").json()["child"])


def names(client: httpx.Client, root: str) -> set[str]:
    return set(client.get(f"/api/repo/{root}/info").json()["DataInstances"])


def test_a_renamed_instance_is_there_by_its_new_name(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "labelmap", "seg")
    make_instance(client, root, "annotation", "notes")
    make_instance(client, root, "keyvalue", "kv")
    client.post(f"/api/node/{root}/notes/sync", json={"sync": "seg"}).raise_for_status()
    put(client, root, k="v")
    path = f"/api/repo/{root}/instance/kv/rename"
    assert client.post(path, json={"name": "new"}).status_code == 401
    for bad in ({"name": "seg"}, {"name": "a/b"}, {"name": "branch"}, {"name": ""}, {"name": 5}, {}):
        assert client.post(path, params=AS_ADMIN, json=bad).status_code == 400, bad
    assert (
        client.post(f"/api/repo/{root}/instance/nosuch/rename", params=AS_ADMIN, json={"name": "x"}).status_code == 400
    )
    for old, new in (("kv", "new"), ("seg", "labels")):
        assert (
            client.post(f"/api/repo/{root}/instance/{old}/rename", params=AS_ADMIN, json={"name": new}).status_code
            == 200
        )
    assert client.get(f"/api/node/{root}/new/key/k").text == "v"
    assert client.get(f"/api/node/{root}/kv/key/k").status_code == 400
    assert client.get(f"/api/node/{root}/notes/info").json()["Base"]["Syncs"] == ["labels"]
    assert names(client, root) == {"labels", "notes", "new"}


def test_a_removed_instance_is_gone_and_its_name_free(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "keyvalue", "kv")
    make_instance(client, root, "keyvalue", "other")
    put(client, root, k="v")
    path = f"/api/repo/{root}/instance/kv"
    assert client.delete(path, params={"imsure": "true"}).status_code == 401
    assert client.delete(path, params=AS_ADMIN).status_code == 400
    assert client.delete(f"/api/repo/{root}/instance/nosuch", params=SURE).status_code == 400
    assert values(client, root) == {"k": "v"}
    assert client.delete(path, params=SURE).status_code == 200
    assert client.get(f"/api/node/{root}/kv/key/k").status_code == 400
    assert names(client, root) == {"other"}
    make_instance(client, root, "keyvalue", "kv")
    assert values(client, root) == {}
    put(client, root, k="again")
    assert values(client, root) == {"k": "again"}


def test_a_removed_repo_is_gone(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "keyvalue", "kv")
    put(client, root, k="v")
    commit(client, root)
    child = new_version(client, root)
    assert client.delete(f"/api/repo/{child}", params=SURE).status_code == 400
    assert client.delete(f"/api/repo/{root}", params=AS_ADMIN).status_code == 400
    assert client.delete(f"/api/repo/{root}", params={"imsure": "true"}).status_code == 401
    assert client.delete(f"/api/repo/{root}", params=SURE).status_code == 200
    for version in (root, child):
        assert client.get(f"/api/repo/{version}/info").status_code == 400
    assert root not in client.get("/api/repos/info").json()


def test_a_passcode_is_asked_for(client: httpx.Client) -> None:
    root = client.post("/api/repos", params=AS_ADMIN, json={"passcode": "secret"}).json()["root"]
    make_instance(client, root, "keyvalue", "kv")
    right = {**SURE, "passcode": "secret"}
    requests: list[tuple[str, str, dict[str, object]]] = [
        ("POST", f"/api/repo/{root}/instance/kv/rename", {"json": {"name": "new"}}),
        ("DELETE", f"/api/repo/{root}/instance/new", {}),
        ("DELETE", f"/api/repo/{root}", {}),
    ]
    for method, path, more in requests:
        for wrong in (SURE, {**SURE, "passcode": "guess"}):
            assert client.request(method, path, params=wrong, **more).status_code == 401  # type: ignore[arg-type]
        assert client.request(method, path, params=right, **more).status_code == 200  # type: ignore[arg-type]


def test_a_branch_becomes_master(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "keyvalue", "kv")
    commit(client, root)
    old = new_version(client, root)
    commit(client, old)
    older_leaf = new_version(client, old)
    side = branch(client, root, "side")
    put(client, side, k="side")
    commit(client, side)
    leaf = new_version(client, side)
    path = f"/api/repo/{side}/make-master"
    assert client.post(path, json={"branch": "before"}).status_code == 401
    for name in ("side", "master", "", 5):
        assert client.post(path, params=AS_ADMIN, json={"branch": name}).status_code == 400, name
    for version in (root, old, leaf):
        answer = client.post(f"/api/repo/{version}/make-master", params=AS_ADMIN, json={"branch": "before"})
        assert answer.status_code == 400, version
    assert client.post(path, params=AS_ADMIN, json={"branch": "before"}).status_code == 200
    assert client.get(f"/api/repo/{root}/branch-versions/master").json() == [leaf, side, root]
    assert client.get(f"/api/repo/{root}/branch-versions/before").json() == [older_leaf, old, root]
    assert client.get(f"/api/node/{root}:master/kv/key/k").text == "side"
    assert client.get(f"/api/node/{root}:before/kv/key/k").status_code == 404
    commit(client, leaf)
    assert new_version(client, leaf)


def test_a_hidden_branch_is_forgotten(client: httpx.Client, root: str) -> None:
    commit(client, root)
    side = branch(client, root, "side")
    commit(client, side)
    leaf, other = new_version(client, side), branch(client, side, "other")
    path = f"/api/repo/{root}/hide-branch"
    assert client.post(path, json={"branch": "other"}).status_code == 401
    for name in ("side", "master", "nosuch", ""):
        assert client.post(path, params=AS_ADMIN, json={"branch": name}).status_code == 400, name
    assert client.post(path, params=AS_ADMIN, json={"branch": "other"}).json() == {"hidden": [other]}
    assert client.get(f"/api/node/{other}/note").status_code == 400
    assert set(client.post(path, params=AS_ADMIN, json={"branch": "side"}).json()["hidden"]) == {side, leaf}
    assert client.get(f"/api/repo/{root}/info").json()["DAG"]["Nodes"].keys() == {root}
    assert branch(client, root, "side")


@pytest.fixture
def command() -> Callable[..., str]:
    def run(*arguments: str, status: int = 0, answer: str | None = None) -> str:
        result = CliRunner().invoke(main, ["admin", *arguments], input=answer)
        assert result.exit_code == status, result.output
        return result.output

    return run


def test_the_commands_beside_a_running_server(tmp_path: Path, command: Callable[..., str]) -> None:
    store = str(tmp_path / "store")
    with running(store, "--durability", "process") as server, httpx.Client(base_url=server.url) as client:
        root = client.post("/api/repos", params=AS_ADMIN, json={"alias": "mb"}).json()["root"]
        for name in ("kv", "old"):
            make_instance(client, root, "keyvalue", name)
            client.post(f"/api/node/{root}/{name}/key/k", content=bytes(5000)).raise_for_status()
        at = ("--store", store)
        assert "kv  keyvalue" in command(*at, "repos")
        command(*at, "rename-data", "mb", "old", "new")
        assert names(client, root) == {"kv", "new"}
        command(*at, "delete-data", "mb", "new", status=1, answer="n\n")
        assert names(client, root) == {"kv", "new"}
        said = command(*at, "delete-data", root[:8], "new", "--yes")
        assert " 0 objects" not in said
        assert names(client, root) == {"kv"}
        commit(client, root)
        side = branch(client, root, "side")
        command(*at, "make-master", side, "before")
        assert client.get(f"/api/repo/{root}/branch-versions/master").json() == [side, root]
        other = branch(client, root, "other")
        assert other in command(*at, "hide-branch", "mb", "other", "--yes")
        assert client.get(f"/api/node/{other}/note").status_code == 400
        command(*at, "delete-repo", "mb", "--yes", status=1)
        command(*at, "delete-repo", root, "--yes")
        assert client.get("/api/repos/info").json() == {}
        command(*at, "rename-data", "nosuch", "a", "b", status=1)
    left = [path for path in (tmp_path / "store" / "repos").rglob("*") if path.is_file()]
    assert left == []


async def test_an_interrupted_removal_goes_on(store: Store) -> None:
    catalog = BucketCatalog(store)
    datastore = Datastore(store, catalog, StoreOptions())
    repo = await datastore.repos.create("r", "")
    for name in ("a", "b"):
        await datastore.repos.add_instance(repo.root, Instance(name * 32, name, "keyvalue", repo.root))
        for number in range(3):
            folder = await store.folder(f"repos/{repo.root}/{name * 32}/d/")
            await folder.write(str(number), b"x")
    await curation.remove_repo(datastore, repo.root)
    assert (await datastore.repos.forest()).repos == {}
    begun_removing = curation.empty_trash(datastore)
    assert await anext(begun_removing) == 3
    await begun_removing.aclose()  # type: ignore[attr-defined]
    assert await catalog.list("trash")
    removed = [count async for count in curation.empty_trash(datastore)]
    assert sum(removed) <= 3
    for collection in ("trash", "repos", f"repos/{repo.root}/versions", f"repos/{repo.root}/instances"):
        assert await catalog.list(collection) == []
    left = await store.folder(f"repos/{repo.root}/")
    assert await left.list() == []
    again = await datastore.repos.create("again", "", root=repo.root)
    assert again.instances == {}
