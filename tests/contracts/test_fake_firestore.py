"""The Firestore fake keeps what Firestore promises; the same checks run on Google's emulator where it is."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Iterator
from functools import partial

import pytest
from google.api_core import exceptions
from google.cloud import firestore
from google.cloud.firestore_v1.base_query import FieldFilter, Or

from tests.fakes import servers

EMULATOR_VARIABLE = "FIRESTORE_EMULATOR_HOST"


@pytest.fixture(scope="module", params=["fake", "google"])
def host(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "fake":
        with servers.firestore() as fake:
            yield fake.host
        return
    with servers.google_firestore_emulator() as found:
        if found is None:
            pytest.skip("this machine does not have Google's Firestore emulator")
        yield found


@pytest.fixture(scope="module")
def fake_host() -> Iterator[str]:
    with servers.firestore() as fake:
        yield fake.host


@pytest.fixture
def project() -> str:
    return f"p-{uuid.uuid4().hex[:12]}"


def sync_client(host: str, project: str) -> firestore.Client:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(EMULATOR_VARIABLE, host)
        client = firestore.Client(project=project)
        assert client._firestore_api is not None  # connects here, while the variable is set
        return client


@pytest.fixture
def client(host: str, project: str) -> firestore.Client:
    return sync_client(host, project)


@pytest.fixture
async def async_client(host: str, project: str, monkeypatch: pytest.MonkeyPatch) -> firestore.AsyncClient:
    monkeypatch.setenv(EMULATOR_VARIABLE, host)
    return firestore.AsyncClient(project=project)


def ids(snapshots: object) -> list[str]:
    return [snapshot.id for snapshot in snapshots]  # type: ignore[attr-defined]


def test_every_kind_of_value_comes_back(client: firestore.Client) -> None:
    document = client.document("c/d")
    value = {
        "none": None,
        "bool": True,
        "int": 2**62,
        "float": 1.5,
        "text": "ü",
        "bytes": b"\x00\xff",
        "list": [1, "a", {"b": 2}],
        "map": {"a.b": {"`c`": 1}},
        "point": firestore.GeoPoint(1, 2),
        "empty": {"list": [], "map": {}},
    }
    document.set(value)
    assert document.get().to_dict() == value
    assert not client.document("c/none").get().exists
    assert [each.exists for each in client.get_all([document, client.document("c/none")])].count(True) == 1


def test_create_and_update_need_what_they_say(client: firestore.Client) -> None:
    document = client.document("c/d")
    with pytest.raises(exceptions.NotFound):
        document.update({"a": 1})
    document.create({"a": 1})
    with pytest.raises(exceptions.AlreadyExists):
        document.create({"a": 2})
    document.update({"m.x": 1, "m.y": 2})
    document.update({"m.x": firestore.DELETE_FIELD})
    document.set({"m": {"z": 3}}, merge=True)
    assert document.get().to_dict() == {"a": 1, "m": {"y": 2, "z": 3}}
    document.delete()
    document.delete()
    with pytest.raises(exceptions.NotFound):
        document.delete(option=client.write_option(exists=True))


def test_stale_update_time_is_refused(client: firestore.Client) -> None:
    document = client.document("c/d")
    document.set({"n": 1})
    stale = document.get()
    document.set({"n": 2})
    fresh = document.get()
    assert fresh.update_time > stale.update_time
    option = client.write_option(last_update_time=stale.update_time)
    for write in (lambda: document.update({"n": 9}, option=option), lambda: document.delete(option=option)):
        with pytest.raises(exceptions.FailedPrecondition):
            write()
    with pytest.raises(exceptions.FailedPrecondition):
        client.document("c/absent").update({"n": 9}, option=option)
    document.update({"n": 3}, option=client.write_option(last_update_time=fresh.update_time))
    assert document.get().to_dict() == {"n": 3}


def test_a_write_that_changes_nothing_keeps_the_update_time(client: firestore.Client) -> None:
    document = client.document("c/d")
    first = document.set({"n": 1})
    assert document.set({"n": 1}).update_time == first.update_time
    assert document.set({"n": 2}).update_time > first.update_time


def test_batch_is_all_or_nothing(client: firestore.Client) -> None:
    client.document("c/there").set({"n": 1})
    stale = client.document("c/there").get().update_time
    client.document("c/there").set({"n": 2})
    for spoil in ("create", "stale", "absent"):
        batch = client.batch()
        batch.set(client.document("c/new"), {"n": 1})
        batch.delete(client.document("c/there"))
        if spoil == "create":
            batch.create(client.document("c/new"), {"n": 1})
        elif spoil == "stale":
            option = client.write_option(last_update_time=stale)
            batch.update(client.document("c/there"), {"n": 9}, option=option)
        else:
            batch.update(client.document("c/absent"), {"n": 9})
        with pytest.raises(exceptions.GoogleAPICallError):
            batch.commit()
        assert not client.document("c/new").get().exists
        assert client.document("c/there").get().to_dict() == {"n": 2}
    batch = client.batch()
    for number in range(600):
        batch.set(client.document(f"many/{number}"), {"n": number})
    assert len({result.update_time.timestamp() for result in batch.commit()}) == 1


def test_transforms(client: firestore.Client) -> None:
    document = client.document("c/d")
    document.set({"n": 1, "s": "a", "l": [1, 2], "top": 2**63 - 1})
    document.update(
        {
            "n": firestore.Increment(2),
            "s": firestore.Increment(5),
            "f": firestore.Increment(0.5),
            "l": firestore.ArrayUnion([2, 3]),
            "top": firestore.Increment(1),
            "high": firestore.Maximum(4),
            "when": firestore.SERVER_TIMESTAMP,
        }
    )
    document.update({"l": firestore.ArrayRemove([1]), "high": firestore.Minimum(3)})
    found = document.get()
    when = found.to_dict().pop("when")
    assert abs(when.timestamp() - time.time()) < 60
    rest = {key: value for key, value in found.to_dict().items() if key != "when"}
    assert rest == {"n": 3, "s": 5, "f": 0.5, "l": [2, 3], "top": 2**63 - 1, "high": 3}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("c/big", {"x": b"x" * 2**20}),
        ("c/nested", {"x": [[1]]}),
        ("c/__reserved__", {"x": 1}),
        ("c/field", {"__x__": 1}),
    ],
)
def test_documents_beyond_the_limits_are_refused(client: firestore.Client, path: str, value: object) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        client.document(path).set(value)
    client.document("c/full").set({"x": b"x" * (2**20 - 200)})


def test_queries(client: firestore.Client) -> None:
    things = client.collection("things")
    values: dict[str, dict[str, object]] = {
        "a": {"n": 1, "t": "x", "tags": ["p", "q"]},
        "b": {"n": 2.5, "t": "y", "tags": ["q"]},
        "c": {"n": 3, "t": "x", "tags": []},
        "d": {"n": "text", "t": None},
        "e": {"other": 1},
    }
    for name, value in values.items():
        things.document(name).set(value)

    def where(*condition: object) -> list[str]:
        return ids(things.where(filter=FieldFilter(*condition)).stream())

    assert where("n", ">=", 2) == ["b", "c"]
    assert where("n", "<", 3.0) == ["a", "b"]
    assert where("n", "!=", 3) == ["a", "b", "d"]
    assert where("n", "in", [1, "text"]) == ["a", "d"]
    assert where("t", "not-in", ["x"]) == ["b"]
    assert where("t", "==", None) == ["d"]
    assert where("tags", "array_contains", "q") == ["a", "b"]
    assert where("tags", "array_contains_any", ["p", "z"]) == ["a"]
    assert where("__name__", ">", things.document("c")) == ["d", "e"]
    either = Or([FieldFilter("n", "==", 1), FieldFilter("other", "==", 1)])
    assert ids(things.where(filter=either).stream()) == ["a", "e"]
    ordered = things.order_by("n", direction=firestore.Query.DESCENDING)
    assert ids(ordered.stream()) == ["d", "c", "b", "a"]
    assert ids(ordered.offset(1).limit(2).stream()) == ["c", "b"]
    assert ids(things.order_by("n").limit_to_last(2).get()) == ["c", "d"]
    assert ids(things.order_by("n").start_after({"n": 1}).end_at({"n": 3}).stream()) == ["b", "c"]
    assert ids(things.order_by("n").start_at(things.document("b").get()).stream()) == ["b", "c", "d"]
    chosen = next(iter(things.select(["n"]).limit(1).stream()))
    assert chosen.to_dict() == {"n": 1}
    numbers = things.where(filter=FieldFilter("n", "<=", 3))
    assert numbers.count().get()[0][0].value == 3
    assert numbers.sum("n").get()[0][0].value == 6.5
    assert numbers.avg("n").get()[0][0].value == pytest.approx(6.5 / 3)
    assert list(things.where(filter=FieldFilter("n", "==", 77)).stream()) == []
    assert things.where(filter=FieldFilter("n", "==", 77)).count().get()[0][0].value == 0


def test_collections_below_documents(client: firestore.Client) -> None:
    client.document("a/1/deep/x").set({"n": 1})
    client.document("a/2").set({"n": 1})
    client.document("b/1/deep/y").set({"n": 2})
    assert sorted(each.id for each in client.collections()) == ["a", "b"]
    assert [each.id for each in client.document("a/1").collections()] == ["deep"]
    assert [each.id for each in client.collection("a").list_documents()] == ["1", "2"]
    assert ids(client.collection("a").stream()) == ["2"]
    assert sorted(ids(client.collection_group("deep").stream())) == ["x", "y"]
    assert client.recursive_delete(client.collection("a")) == 2
    assert [each.id for each in client.collections()] == ["b"]


def test_bulk_writer_reports_each_write(client: firestore.Client) -> None:
    client.document("c/1").set({})
    failed: list[int] = []
    writer = client.bulk_writer()
    writer.on_write_error(lambda error, _: failed.append(error.code) or False)
    for number in range(3):
        writer.create(client.document(f"c/{number}"), {"n": 1})
    writer.close()
    assert len(failed) == 1
    assert sorted(ids(client.collection("c").stream())) == ["0", "1", "2"]


def test_transaction_that_raises_changes_nothing(client: firestore.Client) -> None:
    @firestore.transactional
    def body(transaction: firestore.Transaction) -> None:
        transaction.set(client.document("c/d"), {"n": 1})
        raise KeyError("on purpose")

    with pytest.raises(KeyError):
        body(client.transaction())
    assert not client.document("c/d").get().exists


def run_together(*bodies: object) -> None:
    threads = [threading.Thread(target=body) for body in bodies]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_write_skew_is_prevented(client: firestore.Client) -> None:
    """Two may go off duty only while the other is on; both see both on before either commits."""
    duty = client.collection("duty")
    duty.document("a").set({"on": True})
    duty.document("b").set({"on": True})
    seen = threading.Barrier(2)

    def leave(name: str) -> None:
        first = [True]

        @firestore.transactional
        def body(transaction: firestore.Transaction) -> None:
            others = duty.where(filter=FieldFilter("on", "==", True)).get(transaction=transaction)
            if first.pop() if first else False:
                seen.wait(30)
            if len(list(others)) > 1:
                transaction.update(duty.document(name), {"on": False})

        body(client.transaction(max_attempts=10))

    run_together(lambda: leave("a"), lambda: leave("b"))
    assert len(duty.where(filter=FieldFilter("on", "==", True)).get()) == 1


def test_transactional_counter_loses_nothing(client: firestore.Client) -> None:
    counter = client.document("c/counter")
    counter.set({"n": 0})

    def increment() -> None:
        @firestore.transactional
        def body(transaction: firestore.Transaction) -> None:
            value = counter.get(transaction=transaction).get("n")
            transaction.update(counter, {"n": value + 1})

        body(client.transaction(max_attempts=20))

    run_together(increment, increment)
    assert counter.get().get("n") == 2


def test_heavy_transactional_contention_on_the_fake(fake_host: str, project: str) -> None:
    """Not on Google's emulator, which locks for two seconds at each collision."""
    counter = sync_client(fake_host, project).document("c/counter")
    counter.set({"n": 0})

    def increment(client: firestore.Client) -> None:
        mine = client.document("c/counter")

        @firestore.transactional
        def body(transaction: firestore.Transaction) -> None:
            value = mine.get(transaction=transaction).get("n")
            transaction.update(mine, {"n": value + 1})

        for _ in range(20):
            while True:
                try:
                    body(client.transaction(max_attempts=1))
                    break
                except (exceptions.Aborted, ValueError):
                    continue

    run_together(*(partial(increment, sync_client(fake_host, project)) for _ in range(4)))
    assert counter.get().get("n") == 80


async def test_counter_by_update_time_loses_nothing(async_client: firestore.AsyncClient) -> None:
    counter = async_client.document("c/counter")
    await counter.set({"n": 0})
    lost = 0

    async def increment() -> None:
        nonlocal lost
        for _ in range(10):
            while True:
                seen = await counter.get()
                option = async_client.write_option(last_update_time=seen.update_time)
                try:
                    await counter.update({"n": seen.get("n") + 1}, option=option)
                    break
                except (exceptions.FailedPrecondition, exceptions.Aborted):
                    lost += 1

    await asyncio.gather(*(increment() for _ in range(4)))
    assert (await counter.get()).get("n") == 40
    assert lost > 0


async def test_sixteen_creates_have_one_winner(async_client: firestore.AsyncClient) -> None:
    async def create(number: int) -> bool:
        try:
            await async_client.document("c/d").create({"winner": number})
        except (exceptions.AlreadyExists, exceptions.Aborted):
            return False
        return True

    assert sum(await asyncio.gather(*(create(number) for number in range(16)))) == 1


async def test_transaction_sees_one_moment(fake_host: str, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only transaction sees neither half of a later batch."""
    monkeypatch.setenv(EMULATOR_VARIABLE, fake_host)
    client = firestore.AsyncClient(project=project)
    for name in "ab":
        await client.document(f"c/{name}").set({"n": 1})

    @firestore.async_transactional
    async def body(transaction: firestore.AsyncTransaction) -> list[int]:
        first = await client.document("c/a").get(transaction=transaction)
        batch = client.batch()
        for name in "ab":
            batch.set(client.document(f"c/{name}"), {"n": 2})
        await batch.commit()
        second = await client.document("c/b").get(transaction=transaction)
        return [first.get("n"), second.get("n")]

    assert await body(client.transaction(read_only=True)) == [1, 1]
    assert (await client.document("c/b").get()).get("n") == 2
