"""Several servers on one store edit the same bodies at once: nothing is lost, doubled, or seen by halves."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.backends.store import Store
from app.bootstrap import open_datastore
from app.core.work import Workers
from app.datatypes.labelmap.checks.verify import Silent, verify
from app.formats import sparse_volumes
from app.settings import Settings
from app.versioning import blobs
from tests.api.conftest import make_instance
from tests.conftest import options, url_of
from tests.properties.label_model import U64, Model, mask_of
from tests.running import ADMIN, Server, start

SIDE = 32
SHAPE = (SIDE, SIDE, SIDE)
#: Few bodies, so that most edits meet each other.
LABELS = 24


def sample() -> U64:
    random = np.random.default_rng(1)
    coarse = random.integers(0, LABELS + 1, (SIDE // 4,) * 3).astype(np.uint64)
    return np.ascontiguousarray(coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2))


class Scene:
    """Servers on one store, the clients of each, and what they were told."""

    def __init__(self, store: str, servers: int) -> None:
        self.store = store
        self.servers = [start(store, "--durability", "process") for _ in range(servers)]
        self.root = httpx.post(
            f"{self.servers[0].url}/api/repos", params={"admintoken": ADMIN}, json={"alias": "test"}
        ).json()["root"]
        with httpx.Client(base_url=self.servers[0].url, timeout=60) as client:
            make_instance(client, self.root, "labelmap", "seg", BlockSize="16,16,16", MaxDownresLevel="1")
            path = f"/api/node/{self.root}/seg/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/0_0_0"
            client.post(path, content=sample().tobytes()).raise_for_status()
        for server in self.servers:  # on a bucket some learn of a new repo within a second
            while httpx.get(f"{server.url}/api/node/{self.root}/seg/maxlabel").status_code != 200:
                time.sleep(0.1)
        self.supervoxels = [label for label in np.unique(sample()).tolist() if label]
        self.numbers = itertools.count(10_000)
        #: Mutations that were acknowledged, and how many answers never came.
        self.acknowledged: list[int | tuple[int, int]] = []
        self.refused = 0
        self.unanswered = 0
        self.seen: list[list[str]] = []
        self.failures: list[BaseException] = []
        self.is_over = threading.Event()

    def close(self) -> None:
        for server in self.servers:
            if server.process.poll() is None:
                server.kill()

    def threads(self, function: Callable[[int], None], numbers: range) -> list[threading.Thread]:
        def guarded(number: int) -> None:
            try:
                function(number)
            except BaseException as error:
                self.failures.append(error)
                self.is_over.set()

        started = [threading.Thread(target=guarded, args=(number,)) for number in numbers]
        for thread in started:
            thread.start()
        return started

    def client(self, number: int) -> Client:
        return Client(self, number)


class Client:
    """One client of one server; if that was killed, of the one that took its place."""

    def __init__(self, scene: Scene, number: int) -> None:
        self.scene = scene
        self.place = number % len(scene.servers)
        self.random = np.random.default_rng(number)
        self._server: Server | None = None
        self._http = httpx.Client()

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        server = self.scene.servers[self.place]
        if server is not self._server:
            self._http.close()
            self._server, self._http = server, httpx.Client(base_url=server.url, timeout=60)
        return self._http.request(method, f"/api/node/{self.scene.root}/seg/{path}", **options)

    # ------------------------------------------------------------ edits

    def edit(self) -> None:
        """One edit chosen from what this client has just read, which others may have changed since."""
        supervoxels = list(self.scene.supervoxels)
        asked = self.ask("GET", "mapping", json=supervoxels).json()
        bodies: dict[int, list[int]] = {}
        for label, body in zip(supervoxels, asked, strict=True):
            if body:
                bodies.setdefault(body, []).append(label)
        kind = self.random.choice(["merge", "merge", "cleave", "cleave", "renumber", "split"])
        getattr(self, f"_{kind}")(bodies)

    def _merge(self, bodies: dict[int, list[int]]) -> None:
        if len(bodies) > 2:
            chosen = self.random.choice(list(bodies), self.random.integers(2, 4), replace=False).tolist()
            self._told(self.ask("POST", "merge", json=chosen, params={"u": "m"}))

    def _cleave(self, bodies: dict[int, list[int]]) -> None:
        largest = sorted(bodies, key=lambda body: -len(bodies[body]))[:3]
        body = int(self.random.choice(largest))
        some = bodies[body][: max(1, len(bodies[body]) // 2)]
        self._told(self.ask("POST", f"cleave/{body}", json=some))

    def _renumber(self, bodies: dict[int, list[int]]) -> None:
        old = int(self.random.choice(list(bodies)))
        # Now and then a number that is taken, or that another client is about to take.
        new = next(self.scene.numbers) if self.random.random() < 0.7 else int(self.random.choice([*bodies, 10_000]))
        self._told(self.ask("POST", "renumber", json=[new, old]), (new, old))

    def _split(self, bodies: dict[int, list[int]]) -> None:
        label = int(self.random.choice([member for members in bodies.values() for member in members]))
        shape = self.ask("GET", f"sparsevol/{label}", params={"supervoxels": "true"})
        if shape.status_code != 200:
            return  # somebody else has split it
        runs = sparse_volumes.decode_runs(shape.content)
        half = sparse_volumes.encode_runs(runs[: len(runs) // 2]) if len(runs) > 1 else b""
        answer = self.ask("POST", f"split-supervoxel/{label}", content=half)
        self._told(answer)
        if answer.status_code == 200:
            told = answer.json()
            self.scene.supervoxels += [told["SplitSupervoxel"], told["RemainSupervoxel"]]

    def _told(self, answer: httpx.Response, numbers: tuple[int, int] | None = None) -> None:
        if answer.status_code == 200:
            self.scene.acknowledged.append(numbers or answer.json()["MutationID"])
        else:
            assert answer.status_code == 400, answer.text
            self.scene.refused += 1

    def edits(self, count: int) -> None:
        for _ in range(count):
            if self.scene.is_over.is_set():
                return
            try:
                self.edit()
            except httpx.TransportError:
                self.scene.unanswered += 1
                time.sleep(0.3)  # until there is a server again

    # ------------------------------------------------------------ reads

    def watch(self) -> None:
        """Read one state after another; each must agree with itself, in every query."""
        seen: list[str] = []
        self.scene.seen.append(seen)
        foreground = int((sample() != 0).sum())
        while not self.scene.is_over.is_set():
            try:
                seen.append(self._look(foreground))
            except httpx.TransportError:
                time.sleep(0.3)

    def _look(self, foreground: int) -> str:
        volume = f"raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/0_0_0"
        answer = self.ask("GET", volume)
        shown = np.frombuffer(answer.content, np.uint64)
        at = {"generation": answer.headers["etag"].strip('"').rpartition(".")[2]}
        voxels = np.frombuffer(self.ask("GET", volume, params={**at, "supervoxels": "true"}).content, np.uint64)
        supervoxels = np.unique(voxels[voxels != 0])
        mapped = np.array(self.ask("GET", "mapping", params=at, json=supervoxels.tolist()).json(), np.uint64)
        table = np.concatenate([np.zeros(1, np.uint64), mapped])
        assert (table[np.where(voxels == 0, 0, np.searchsorted(supervoxels, voxels) + 1)] == shown).all()
        bodies, numbers = np.unique(shown[shown != 0], return_counts=True)
        assert numbers.sum() == foreground
        assert self.ask("GET", "sizes", params=at, json=bodies.tolist()).json() == numbers.tolist()
        body = int(self.random.choice(bodies))
        members = self.ask("GET", f"supervoxels/{body}", params=at).json()
        assert sorted(members) == supervoxels[mapped == body].tolist()
        return state(voxels, shown)


def state(voxels: U64, shown: U64) -> str:
    return hashlib.sha256(voxels.tobytes() + shown.tobytes()).hexdigest()


# ------------------------------------------------------------------ the replay


async def replayed(store: str, log: list[dict[str, Any]]) -> tuple[Model, list[str]]:
    """The log applied in its order to a plain model, and the states on the way."""
    model = Model(sample())
    states = [state(model.voxels, model.shown())]
    for record in log:
        action = record["Action"].removesuffix("-complete")
        sizes = model.all_bodies()
        if action == "merge":
            assert record["Target"] in sizes
            assert set(record["Labels"]) <= set(sizes) - {record["Target"]}
            model.merge(record["Target"], record["Labels"], "")
        elif action == "cleave":
            members = set(model.members(record["OrigLabel"]))
            assert set(record["CleavedSupervoxels"]) < members
            assert record["CleavedLabel"] not in sizes
            model.cleave(record["OrigLabel"], record["CleavedSupervoxels"], record["CleavedLabel"], "")
            now = model.all_bodies()
            assert now[record["CleavedLabel"]] == record["CleavedSize"]
            assert now[record["OrigLabel"]] == record["RemainSize"]
        elif action == "renumber":
            assert record["OrigLabel"] in sizes
            assert record["NewLabel"] not in sizes
            model.renumber(record["OrigLabel"], record["NewLabel"], "")
        else:
            assert action == "split-supervoxel"
            runs = np.frombuffer(await blobs.get(Store(store, options()), record["Split"]), "<i4").reshape(-1, 4)
            inside = mask_of(runs, SHAPE)
            assert (model.voxels[inside] == record["Supervoxel"]).all()
            parts = record["SplitSupervoxel"], record["RemainSupervoxel"]
            assert model.split_supervoxel(record["Supervoxel"], inside, *parts) == record["Body"]
            assert [model.sizes()[part] for part in parts] == [record["SplitSize"], record["RemainSize"]]
        states.append(state(model.voxels, model.shown()))
    return model, states


async def check_stored(scene: Scene) -> None:
    datastore = await open_datastore(Settings(store=scene.store, durability="process", max_staleness=0))
    workers = Workers(2)
    try:
        report = await verify(await datastore.data(scene.root, "seg"), workers, Silent())
    finally:
        workers.close()
        await datastore.close()
    assert report.is_clean, (report.summary(), report.faults)
    assert not report.notes


def check(scene: Scene) -> None:
    """What the log says is what was acknowledged, what was seen, and what there is now."""
    if "://" in scene.store:
        time.sleep(1.2)  # on a bucket the last commits of others may stay unseen for a second
    log = scene.client(0).ask("GET", "mutations").json()
    ids = [record["MutationID"] for record in log]
    assert len(set(ids)) == len(ids)
    told = [(r["NewLabel"], r["OrigLabel"]) if r["Action"].startswith("renumber") else r["MutationID"] for r in log]
    assert not Counter(scene.acknowledged) - Counter(told), "an acknowledged edit is not in the log"
    assert 0 <= len(log) - len(scene.acknowledged) <= scene.unanswered
    model, states = asyncio.run(replayed(scene.store, log))
    order = {name: number for number, name in reversed(list(enumerate(states)))}
    last = {name: number for number, name in enumerate(states)}
    for seen in scene.seen:
        assert set(seen) <= set(states), "a reader saw a state that never was"
        reached = 0
        for name in seen:  # a renumbering there and back again gives the same state twice
            assert last[name] >= reached, "a reader went back in time"
            reached = max(reached, order[name])
    final = state(model.voxels, model.shown())
    for place in range(len(scene.servers)):
        client = scene.client(place)
        assert client._look(int((sample() != 0).sum())) == final
        supervoxels = sorted(model.sizes())
        mapped = client.ask("GET", "mapping", json=supervoxels).json()
        assert mapped == [model.body_of(label) for label in supervoxels]
        assert client.ask("GET", "sizes", json=sorted(model.all_bodies())).json() == [
            size for _, size in sorted(model.all_bodies().items())
        ]
    asyncio.run(check_stored(scene))


def run(store: str, *, servers: int, clients: int, count: int, kills: int = 0) -> None:
    scene = Scene(store, servers)
    try:
        watching = scene.threads(lambda number: scene.client(number).watch(), range(servers))
        editing = scene.threads(lambda number: scene.client(number).edits(count), range(100, 100 + servers * clients))
        for number in range(kills):
            time.sleep(0.5 + 0.5 * number)
            scene.servers[number % servers].kill()
            scene.servers[number % servers] = start(store, "--durability", "process")
        for thread in editing:
            thread.join()
        scene.is_over.set()
        for thread in watching:
            thread.join()
        if scene.failures:
            raise scene.failures[0]
        assert len(scene.acknowledged) >= count, (scene.acknowledged, scene.refused)
        assert all(scene.seen)
        check(scene)
    finally:
        scene.is_over.set()
        scene.close()


def test_edits_through_several_servers(tmp_path: Path) -> None:
    run(str(tmp_path / uuid.uuid4().hex), servers=2, clients=2, count=10)


def test_edits_through_several_servers_on_a_bucket(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run(url_of("gcs", request, tmp_path), servers=2, clients=2, count=5)


@pytest.mark.parametrize("kind", ["file", "small"])
def test_edits_while_a_server_is_killed(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run(url_of(kind, request, tmp_path), servers=2, clients=2, count=8, kills=1)


@pytest.mark.torture
@pytest.mark.parametrize("kind", ["file", "gcs", "s3"])
def test_edits_through_several_servers_for_long(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run(url_of(kind, request, tmp_path), servers=3, clients=3, count=300 if kind == "file" else 40)


@pytest.mark.torture
@pytest.mark.parametrize("kind", ["file", "gcs", "s3"])
def test_edits_while_servers_are_killed_for_long(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run(url_of(kind, request, tmp_path), servers=3, clients=3, count=150 if kind == "file" else 40, kills=8)
