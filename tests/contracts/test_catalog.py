"""What the `Catalog` Protocol promises, on every implementation."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud.firestore_v1.async_batch import AsyncWriteBatch

from app.backends.bucket_catalog import BucketCatalog
from app.backends.catalog import NEW, Catalog, Change
from app.backends.firestore_catalog import FirestoreCatalog
from app.backends.ordered_map import OrderedMap
from app.backends.store import Store, StoreOptions
from app.core.errors import Conflict, StoreUnavailable
from tests.fakes import servers

ODD_NAMES = [
    ".",
    "..",
    "__x__",
    "~",
    "~.",
    "a b",
    "ünï",
    "a%2Fb",
    "a:b~1",
    "`",
    "x" * 200,
    "0",
    "\U0001f9e0",
    "a\tb",
    ".",
]
ODD_VALUES: dict[str, Any] = {
    "big": 2**64 - 1,
    "signed": -(2**63),
    "nested": [[1, [2, [3]]], {"a.b/c`": {"": None}}],
    "": True,
    "__name__": 1.5,
    "text": "\0\n\U0001f9e0",
}


async def put(catalog: Catalog, path: str, value: Any, revision: str | None = None) -> str:
    await catalog.commit([Change(path, {"v": value}, revision)])
    (document,) = await catalog.get([path])
    assert document is not None
    return document.revision


async def value(catalog: Catalog, path: str) -> Any:
    (document,) = await catalog.get([path])
    return None if document is None else document.data["v"]


async def test_documents_are_found_in_the_order_asked(catalog: Catalog) -> None:
    assert await catalog.get([]) == []
    assert await catalog.get(["a/x", "a/y"]) == [None, None]
    await catalog.commit([Change("a/x", {"v": 1}, NEW), Change("a/y", {"v": 2})])
    found = await catalog.get(["a/y", "a/none", "a/x", "a/y"])
    assert [each and each.data["v"] for each in found] == [2, None, 1, 2]
    assert found[0] is not None
    assert (found[0].path, found[0].name) == ("a/y", "y")


async def test_odd_names_and_values_come_back(catalog: Catalog) -> None:
    names = sorted(set(ODD_NAMES))
    await catalog.commit([Change(f"odd/{name}", {"v": {**ODD_VALUES, "me": name}}, NEW) for name in names])
    found = await catalog.list("odd")
    assert [each.name for each in found] == names
    assert [each.data["v"] for each in found] == [{**ODD_VALUES, "me": name} for name in names]
    again = await catalog.get([f"odd/{name}" for name in names])
    assert [each and (each.path, each.data, each.revision) for each in again] == [
        (each.path, each.data, each.revision) for each in found
    ]


async def test_a_list_has_its_own_collection_only(catalog: Catalog) -> None:
    paths = ["a/x", "a/x/b/1", "a/x/b/2", "a/x/bb/3", "a/y/b/4", "ab/z", "a\x01/q"]
    await catalog.commit([Change(path, {"v": path}) for path in paths])
    assert [each.path for each in await catalog.list("a")] == ["a/x"]
    assert [each.path for each in await catalog.list("a/x/b")] == ["a/x/b/1", "a/x/b/2"]
    assert await catalog.list("a/none/b") == []


async def test_new_means_not_there_yet(catalog: Catalog) -> None:
    await put(catalog, "a/x", 1, NEW)
    with pytest.raises(Conflict):
        await put(catalog, "a/x", 2, NEW)
    await catalog.commit([Change("a/x", None)])
    await put(catalog, "a/x", 3, NEW)
    assert await value(catalog, "a/x") == 3


async def test_a_revision_must_be_the_present_one(catalog: Catalog) -> None:
    first = await put(catalog, "a/x", 1, NEW)
    second = await put(catalog, "a/x", 2, first)
    assert second != first
    for stale in (Change("a/x", {"v": 3}, first), Change("a/x", None, first), Change("a/none", {"v": 3}, first)):
        with pytest.raises(Conflict):
            await catalog.commit([stale])
    assert await value(catalog, "a/x") == 2
    third = await put(catalog, "a/x", 1, second)
    assert third not in (first, second)  # the old content, but no old revision
    await catalog.commit([Change("a/x", None, third)])
    with pytest.raises(Conflict):
        await catalog.commit([Change("a/x", None, third)])


async def test_without_a_revision_anything_goes(catalog: Catalog) -> None:
    await put(catalog, "a/x", 1)
    await put(catalog, "a/x", 2)
    await catalog.commit([Change("a/x", None)])
    await catalog.commit([Change("a/x", None)])
    assert await value(catalog, "a/x") is None


async def test_a_commit_is_all_or_nothing(catalog: Catalog) -> None:
    revision = await put(catalog, "a/x", 1, NEW)
    await put(catalog, "a/x", 2, revision)
    with pytest.raises(Conflict):
        await catalog.commit(
            [Change("a/new", {"v": 9}, NEW), Change("a/blind", {"v": 9}), Change("a/x", {"v": 9}, revision)]
        )
    with pytest.raises(Conflict):
        await catalog.commit([Change("a/x", {"v": 9}, NEW), Change("a/new", {"v": 9}, NEW)])
    assert [(each.name, each.data["v"]) for each in await catalog.list("a")] == [("x", 2)]
    await catalog.commit([])


async def test_every_commit_changes_the_token(catalog: Catalog) -> None:
    seen = {await catalog.token()}
    if seen == {None}:
        pytest.skip("this catalog has no token, and says so")
    for number in range(5):
        await put(catalog, "a/x", number)
        token = await catalog.token()
        assert token not in seen
        assert await catalog.token() == token
        seen.add(token)


async def test_of_many_creators_one_wins(catalog: Catalog) -> None:
    tries = [put(catalog, "a/x", number, NEW) for number in range(8)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    won = [number for number, answer in enumerate(answers) if isinstance(answer, str)]
    assert len(won) == 1
    assert all(isinstance(answer, Conflict) for number, answer in enumerate(answers) if number != won[0])
    assert await value(catalog, "a/x") == won[0]


async def count(catalog: Catalog, times: int, path: str = "a/n") -> None:
    while times:
        (document,) = await catalog.get([path])
        present = 0 if document is None else document.data["v"]
        try:
            await catalog.commit([Change(path, {"v": present + 1}, NEW if document is None else document.revision)])
            times -= 1
        except Conflict:
            await asyncio.sleep(0.001)


async def test_racing_tasks_lose_no_update(catalog: Catalog) -> None:
    await asyncio.gather(*[count(catalog, 5) for _ in range(4)])
    assert await value(catalog, "a/n") == 20


async def test_commits_to_different_documents_do_not_fail_each_other(catalog: Catalog) -> None:
    await asyncio.gather(*[put(catalog, f"a/{number:02}", number, NEW) for number in range(24)])
    assert [each.data["v"] for each in await catalog.list("a")] == list(range(24))


async def test_readers_never_see_half_a_commit(catalog: Catalog, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["catalog"] == "google":
        pytest.skip("Google's emulator answers a batch of documents one after another; Firestore itself does not")
    await catalog.commit([Change("a/x", {"v": 0}), Change("a/y", {"v": 0})])
    done = False

    async def read() -> None:
        while not done:
            x, y = await catalog.get(["a/x", "a/y"])
            assert x is not None
            assert y is not None
            assert x.data == y.data
            assert len({each.data["v"] for each in await catalog.list("a")}) == 1
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read()) for _ in range(2)]
    for number in range(15):
        await catalog.commit([Change("a/x", {"v": number}), Change("a/y", {"v": number})])
    done = True
    await asyncio.gather(*readers)


# ------------------------------------------------------------------ answers that are lost


@pytest.fixture
def lost_answers(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What becomes of the next commits of the store: `after`, `before` or `` for as it should be."""
    plan: list[str] = []
    holder, name, error = (
        (AsyncWriteBatch, "commit", exceptions.ServiceUnavailable("lost"))
        if isinstance(catalog, FirestoreCatalog)
        else (OrderedMap, "commit", StoreUnavailable("lost"))
    )
    real = getattr(holder, name)

    async def commit(*args: Any, **kwargs: Any) -> Any:
        fault = plan.pop(0) if plan else ""
        if fault == "before":
            raise error
        answer = await real(*args, **kwargs)
        if fault == "after":
            raise error
        return answer

    monkeypatch.setattr(holder, name, commit)
    return plan


@pytest.mark.parametrize("plan", [["after"], ["before"], ["before", "after"], ["after", "after"]])
@pytest.mark.parametrize("kind", ["create", "change", "delete", "several"])
async def test_a_lost_answer_is_looked_up(
    catalog: Catalog, lost_answers: list[str], plan: list[str], kind: str
) -> None:
    revision = await put(catalog, "a/x", 0, NEW)
    changes = {
        "create": [Change("a/new", {"v": 1}, NEW)],
        "change": [Change("a/x", {"v": 1}, revision)],
        "delete": [Change("a/x", None, revision)],
        "several": [Change("a/x", None, revision), Change("a/new", {"v": 1}, NEW), Change("a/y", {"v": 1})],
    }[kind]
    lost_answers += plan
    await catalog.commit(changes)
    assert [await value(catalog, each.path) for each in changes] == [each.data and each.data["v"] for each in changes]
    lost_answers.clear()
    if kind != "delete":
        with pytest.raises(Conflict):
            await catalog.commit(changes)


async def test_a_conflict_after_a_lost_request_is_a_conflict(catalog: Catalog, lost_answers: list[str]) -> None:
    first = await put(catalog, "a/x", 0, NEW)
    await put(catalog, "a/x", 1, first)
    lost_answers += ["before"]
    with pytest.raises(Conflict):
        await catalog.commit([Change("a/x", {"v": 2}, first), Change("a/y", {"v": 2}, NEW)])
    assert await value(catalog, "a/x") == 1
    assert await value(catalog, "a/y") is None


async def test_counting_with_lost_answers(catalog: Catalog, lost_answers: list[str]) -> None:
    lost_answers += ["", "after", "before", "after", "", "after"] * 3
    await asyncio.gather(*[count(catalog, 5) for _ in range(2)])
    assert await value(catalog, "a/n") == 10


async def test_a_store_that_stays_away_is_given_up(catalog: Catalog, lost_answers: list[str]) -> None:
    lost_answers += ["before"] * 50
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await put(catalog, "a/x", 1)
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize("what", ["refused", "silent"])
async def test_no_firestore_there(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.listening_socket() as silent:
        port = silent.getsockname()[1] if what == "silent" else servers.free_port()
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", f"127.0.0.1:{port}")
        catalog = FirestoreCatalog("demo-p", timeout_seconds=0.5)
        for ask in (catalog.get(["a/x"]), catalog.list("a"), put(catalog, "a/x", 1)):
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await ask
            assert time.monotonic() - begun < 4
        await catalog.close()


# ------------------------------------------------------------------ two openings of one catalog


async def test_two_catalogs_on_one_store_agree(catalog: Catalog) -> None:
    one, other = catalog, second(catalog)
    await asyncio.gather(count(one, 5), count(other, 5))
    assert await value(one, "a/n") == await value(other, "a/n") == 10
    for number in range(5):
        await put(one, "a/n", number)
        assert await value(other, "a/n") == number
    await other.close()


def second(catalog: Catalog) -> Catalog:
    """Another opening of the same catalog, as another pod has it."""
    if isinstance(catalog, FirestoreCatalog):
        return FirestoreCatalog("demo-p", root=catalog._root)
    assert isinstance(catalog, BucketCatalog)
    store = catalog._store
    return BucketCatalog(store if store.scheme == "memory" else Store(store.url, store.options))


async def test_marks_of_commits_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}", StoreOptions())
    catalog, hour = BucketCatalog(store), time.time()
    for step in range(20):
        monkeypatch.setattr("app.backends.bucket_catalog.time.time", lambda: hour + step * 1800)  # noqa: B023
        await put(catalog, "a/x", step)
    seen = await catalog._look()
    assert seen is not None
    assert len(await seen.view.keys(b"commit/", b"commit0")) <= 4
