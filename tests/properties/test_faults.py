"""Trees and catalogs over a bad network: what was acknowledged is there once, the rest wholly or not, nothing hangs."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise

import pytest

from app.backends.bucket_catalog import BucketCatalog
from app.backends.store import Store, StoreOptions
from app.core.errors import Conflict, DvidError, StoreUnavailable
from app.versioning import log
from app.versioning.cache import Cache
from app.versioning.leases import Counter
from app.versioning.repos import Repos
from app.versioning.trees import Trees
from tests.conftest import BUCKET
from tests.fakes import faults
from tests.fakes.faults import Fault, Mode
from tests.properties import worker

BAD = {
    Fault.UNAVAILABLE: 0.03,
    Fault.TOO_MANY: 0.02,
    Fault.RESET: 0.02,
    Fault.LOST_REPLY: 0.04,
    Fault.ERROR_AFTER: 0.02,
    Fault.DELAY: 0.05,
}
TERRIBLE = {fault: 3 * chance for fault, chance in BAD.items()}


class Network:
    """A store behind a proxy; each `store` is a new opening."""

    def __init__(self, kind: str, proxy: faults.Proxy) -> None:
        self.proxy = proxy
        self._name = uuid.uuid4().hex
        self.url = f"gs://{BUCKET}/{self._name}"
        if kind == "s3":
            self.url = f"s3://{BUCKET}/{self._name}?endpoint={proxy.url}&region=us-east-1"

    def renew(self) -> None:
        """From now on a store that is empty."""
        self.url = self.url.replace(self._name, fresh := uuid.uuid4().hex)
        self._name = fresh

    def store(self, timeout_seconds: float = 10.0, retries: int = 4) -> Store:
        options = StoreOptions(timeout_seconds=timeout_seconds, retries=retries, max_staleness_seconds=0.0)
        return Store(self.url, options)

    def trees(self, timeout_seconds: float = 10.0, retries: int = 4) -> Trees:
        return Trees(self.store(timeout_seconds, retries), Cache(1 << 20))


@pytest.fixture(params=["gcs", "s3"])
def network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    target = request.getfixturevalue(f"{request.param}_server")
    with ExitStack() as stack:
        proxy = stack.enter_context(faults.proxy(target, seed=5))
        if request.param == "gcs":
            monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", proxy.url)
        yield Network(request.param, proxy)


async def increments(trees: list[Trees], each: int) -> tuple[set[int], set[int]]:
    """Count from several pods and tasks at once; the ids that were acknowledged, and those that failed."""
    good, bad = set[int](), set[int]()

    async def some(pod: Trees, number: int) -> None:
        for step in range(each):
            mutation_id = number * 1000 + step + 1
            try:
                await worker.mutate(pod, worker.increment, mutation_id)
                good.add(mutation_id)
            except (Conflict, StoreUnavailable):
                bad.add(mutation_id)

    await asyncio.gather(*[some(pod, 10 * n + task) for n, pod in enumerate(trees) for task in range(3)])
    return good, bad


async def counted(trees: Trees) -> tuple[int, list[int]]:
    """What was counted and by whom; the keys that belong together must agree."""
    snapshot = await trees.head(worker.FOLDER, worker.LINE)
    values = set(await snapshot.get_many([*worker.PAIR, *worker.COUNTERS]))
    assert len(values) == 1
    records = await log.records(snapshot, "root")
    return int(values.pop() or b"0"), [record.mutation_id for record in records]


async def check(network: Network, good: set[int], bad: set[int]) -> None:
    network.proxy.calm()
    count, ids = await counted(network.trees())
    assert len(ids) == len(set(ids)) == count
    assert good <= set(ids) <= good | bad


@pytest.mark.parametrize(("name", "retries"), [("bad", 4), ("terrible", 4), ("bad", 0)])
async def test_each_acknowledged_mutation_is_there_once(network: Network, name: str, retries: int) -> None:
    pods = [network.trees(retries=retries) for _ in range(2)]
    network.proxy.chance.update({"bad": BAD, "terrible": TERRIBLE}[name])
    good, bad = await asyncio.wait_for(increments(pods, 5), 90)
    assert network.proxy.injected.total() > 5
    assert good
    if name == "bad" and retries:
        assert not bad
    await check(network, good, bad)


@pytest.mark.torture
async def test_each_acknowledged_mutation_is_there_once_for_long(network: Network) -> None:
    for chances, retries in [(BAD, 4), (TERRIBLE, 4), (BAD, 0), (TERRIBLE, 1)]:
        network.renew()
        pods = [network.trees(retries=retries) for _ in range(3)]
        network.proxy.chance.update(chances)
        good, bad = await increments(pods, 25)
        await check(network, good, bad)


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.ERROR_AFTER, Fault.RESET, Fault.UNAVAILABLE])
@pytest.mark.parametrize("retries", [0, 4])
async def test_a_fault_at_any_request_of_a_commit(network: Network, fault: Fault, retries: int) -> None:
    """One fault makes nothing happen twice, and with retries not even fails, not that either which makes the tree."""
    for position in range(12):
        network.renew()
        trees, good = network.trees(retries=retries), {0}
        if position % 2:
            await worker.mutate(trees, worker.increment, 0)
        network.proxy.plan(*[Fault.NONE] * position, fault)
        for number in (0, 1, 2)[position % 2 :]:
            try:
                await worker.mutate(trees, worker.increment, number)
                good.add(number)
            except StoreUnavailable:
                assert not retries
                good -= {number}
        network.proxy.calm()
        assert await counted(trees) == await counted(network.trees())
        await check(network, good, {0, 1, 2} - good)


@pytest.mark.parametrize("mode", [Mode.DEAD, Mode.REFUSED])
async def test_a_store_that_is_away_is_given_up_and_found_again(network: Network, mode: Mode) -> None:
    known, unknown = network.trees(timeout_seconds=0.5), network.trees(timeout_seconds=0.5)
    await worker.mutate(known, worker.increment, 1)
    network.proxy.mode = mode
    for ask in (
        known.head(worker.FOLDER, worker.LINE),
        unknown.head(worker.FOLDER, worker.LINE),
        worker.mutate(known, worker.increment, 2),
        worker.mutate(unknown, worker.increment, 3),
        BucketCatalog(network.store(0.5)).get(["a/x"]),
        Counter(BucketCatalog(network.store(0.5)), "c", first=1, stride=1).take(),
    ):
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await ask
        assert time.monotonic() - begun < 6
    network.proxy.mode = Mode.NORMAL
    await asyncio.sleep(0.3)
    for pod in (unknown, known):
        for _ in range(20):
            try:
                await worker.mutate(pod, worker.increment, 4 if pod is known else 5)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.1)
    await check(network, {1, 4, 5}, {2, 3})


@pytest.mark.parametrize("mode", [Mode.DEAD, Mode.REFUSED])
@pytest.mark.parametrize("position", range(1, 8, 2))
async def test_a_store_that_goes_away_in_the_middle_of_a_batch(network: Network, mode: Mode, position: int) -> None:
    trees = network.trees(timeout_seconds=0.5)
    await worker.mutate(trees, worker.increment, 1)
    forwarded = network.proxy.forwarded
    tasks = [asyncio.create_task(worker.mutate(trees, worker.increment, 2 + n)) for n in range(5)]  # type: ignore[arg-type]
    while network.proxy.forwarded < forwarded + position and not all(task.done() for task in tasks):  # noqa: ASYNC110
        await asyncio.sleep(0)
    network.proxy.mode = mode
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    assert all(answer is None or isinstance(answer, StoreUnavailable) for answer in answers)
    good = {2 + n for n, answer in enumerate(answers) if answer is None}
    network.proxy.mode = Mode.NORMAL
    await check(network, {1} | good, set(range(2, 7)) - good)


async def test_a_commit_that_arrives_after_it_was_given_up(network: Network) -> None:
    """The store carries out a request long after its sender has asked again: still once."""
    trees, other = network.trees(timeout_seconds=0.6), network.trees()
    await worker.mutate(trees, worker.increment, 1)
    network.proxy.delay_seconds = (1.0, 1.0)
    network.proxy.only = lambda method, target: method in ("POST", "PUT") and "manifest" in target
    network.proxy.plan(Fault.DELAY)
    try:
        await worker.mutate(trees, worker.increment, 2)
        good = {1, 2}
    except (Conflict, StoreUnavailable):
        good = {1}
    await asyncio.sleep(1.2)
    await worker.mutate(other, worker.increment, 3)
    await check(network, good | {3}, {2} - good)


async def test_catalogs_over_a_bad_network(network: Network) -> None:
    pods = [Repos(BucketCatalog(network.store()), 0.0) for _ in range(2)]
    root = (await pods[0].create("r", "")).root
    network.proxy.chance.update(BAD)
    good, bad, numbers = set[str](), set[str](), list[int]()

    async def work(pod: Repos, name: str) -> None:
        for step in range(4):
            line = f"{name}{step}"
            try:
                await pod.add_log(root, [line])
                good.add(line)
            except DvidError:
                bad.add(line)
            with suppress(DvidError):
                numbers.append(await pod.mutation_ids(root).take(60))

    await asyncio.wait_for(asyncio.gather(work(pods[0], "a"), work(pods[1], "b"), work(pods[1], "c")), 90)
    network.proxy.calm()
    repo = (await Repos(BucketCatalog(network.store()), 0.0).forest()).repos[root]
    lines = [line.split("  ")[1] for line in repo.log]
    assert len(lines) == len(set(lines))
    assert good <= set(lines) <= good | bad
    assert len(good) > 6
    numbers.sort()
    assert all(after - before >= 60 for before, after in pairwise(numbers))
