"""Bodies under random edits, overwrites, branches and time travel against a plain model, through the HTTP interface."""

from __future__ import annotations

import asyncio
import struct
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.bootstrap import build
from app.datatypes.labelmap import deltas
from app.datatypes.labelmap.checks.report import Report
from app.datatypes.labelmap.checks.verify import Silent, verify
from app.formats.dvid_pb2 import LabelIndex
from app.routes.service import Service
from app.settings import Settings
from tests.journals import a_folder_or_memory
from tests.properties.label_model import BLOCK, Model, halved, mask_of, runs_of

SIDE = 3 * BLOCK
SHAPE = (SIDE, SIDE, SIDE)
ADMIN = "secret"
HEADER = struct.pack("<4B2I", 0, 3, 0, 0, 0, 0)

seeds = st.integers(0, 2**32 - 1)
#: Numbers that are painted beside those already there.
fresh = st.integers(1, 12)


@dataclass
class Version:
    uuid: str
    model: Model
    is_locked: bool = False
    past: dict[int, Model] = field(default_factory=dict)


class Labels(RuleBasedStateMachine):
    """One labelmap and its versions."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = ExitStack()
        store = self.stack.enter_context(a_folder_or_memory())
        self.service: Service = build(Settings(store=store, durability="process", admin_token=ADMIN))
        self.runner.run(self.service.startup())
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.service), base_url="http://test")
        self.versions: list[Version] = []
        self.largest = 0
        self.next = 0
        self.users = 0
        self.at: Version | None = None

    def teardown(self) -> None:
        for version in self.versions:
            report = self.runner.run(self.verified(version))
            assert report.is_clean, (report.summary(), report.faults)
            assert not report.notes, report.summary()
        self.runner.run(self.client.aclose())
        self.runner.run(self.service.shutdown())
        self.runner.close()
        self.stack.close()

    async def verified(self, version: Version) -> Report:
        """What `dvid-cloud verify` says of a version."""
        data = await self.service.datastore.data(version.uuid, "seg")
        return await verify(data, self.service.workers, Silent())

    # ------------------------------------------------------------ talking

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.runner.run(self.client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        answer = self.ask("GET", f"/api/node/{self.version.uuid}/seg/{path}", **options)
        assert answer.status_code == 200, (path, answer.text)
        return answer

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.ask("POST", f"/api/node/{self.version.uuid}/seg/{path}", **options)

    @property
    def version(self) -> Version:
        assert self.at is not None
        return self.at

    @property
    def model(self) -> Model:
        return self.version.model

    def who(self) -> str:
        self.users += 1
        return f"user{self.users}"

    def a_body(self, random: np.random.Generator) -> int:
        return int(random.choice(sorted(self.model.all_bodies())))

    def has_bodies(self, number: int = 1) -> bool:
        return self.at is not None and not self.at.is_locked and len(self.at.model.all_bodies()) >= number

    # ------------------------------------------------------------ versions

    @initialize(scales=st.integers(0, 3))
    def begin(self, scales: int) -> None:
        made = self.ask("POST", "/api/repos", params={"admintoken": ADMIN}, json={"alias": "m"}).json()["root"]
        config = {"typename": "labelmap", "dataname": "seg", "BlockSize": "16,16,16", "MaxDownresLevel": str(scales)}
        answer = self.ask("POST", f"/api/repo/{made}/instance", json=config)
        assert answer.status_code == 200, answer.text
        self.scales = scales
        self.at = Version(made, Model(np.zeros(SHAPE, np.uint64)))
        self.versions = [self.at]

    @precondition(lambda self: len(self.versions) < 8)
    @rule(on_branch=st.booleans())
    def new_version(self, on_branch: bool) -> None:
        if not self.version.is_locked:
            assert self.ask("POST", f"/api/node/{self.version.uuid}/commit", json={"note": ""}).status_code == 200
            self.version.is_locked = True
        options = ("branch", {"branch": uuid.uuid4().hex}) if on_branch else ("newversion", {})
        answer = self.ask("POST", f"/api/node/{self.version.uuid}/{options[0]}", json=options[1])
        if answer.status_code == 200:  # a version has one child on its own branch
            model = self.model.copy()
            model.edits = 0
            self.at = Version(answer.json()["child"], model)
            self.versions.append(self.at)

    @rule(seed=seeds)
    def go_to(self, seed: int) -> None:
        self.at = self.versions[seed % len(self.versions)]

    # ------------------------------------------------------------ edits

    @precondition(lambda self: self.at is not None and not self.at.is_locked)
    @rule(seed=seeds, numbers=st.lists(fresh, min_size=1, max_size=4), mutate=st.booleans())
    def paint(self, seed: int, numbers: list[int], mutate: bool) -> None:
        random = np.random.default_rng(seed)
        first = random.integers(0, 3, 3)
        last = np.array([random.integers(low, 3) + 1 for low in first])
        shape = (last - first) * BLOCK
        known = list(self.model.sizes()) + [label for label, of in self.model.bodies.items() if of == 0]
        pool = np.array([0, *numbers, *known[:6]], np.uint64)
        coarse = random.choice(pool, tuple(-(-side // 5) for side in shape))
        labels = coarse.repeat(5, 0).repeat(5, 1).repeat(5, 2)[: shape[0], : shape[1], : shape[2]]
        labels = np.ascontiguousarray(labels)
        place = tuple(int(a) * BLOCK for a in first)
        size = "_".join(str(side) for side in shape[::-1])
        offset = "_".join(str(side) for side in place[::-1])
        answer = self.post(
            f"raw/0_1_2/{size}/{offset}", params={"mutate": str(mutate).lower()}, content=labels.tobytes()
        )
        assert answer.status_code == 200, answer.text
        self.model.paint(place, labels)  # type: ignore[arg-type]
        self.saw(int(labels.max()))

    def saw(self, label: int) -> None:
        self.largest = max(self.largest, label)

    @precondition(lambda self: self.has_bodies(2))
    @rule(seed=seeds, count=st.integers(1, 3))
    def merge(self, seed: int, count: int) -> None:
        random, who = np.random.default_rng(seed), self.who()
        chosen = random.permutation(sorted(self.model.all_bodies())).tolist()[: count + 1]
        answer = self.post("merge", params={"u": who}, json=chosen)
        assert answer.status_code == 200, answer.text
        self.model.merge(chosen[0], chosen[1:], who)

    @precondition(lambda self: self.has_bodies())
    @rule(seed=seeds)
    def cleave(self, seed: int) -> None:
        random, who = np.random.default_rng(seed), self.who()
        body = self.a_body(random)
        members = self.model.members(body)
        chosen = random.permutation(members).tolist()[: int(random.integers(1, len(members) + 1))]
        answer = self.post(f"cleave/{body}", params={"u": who}, json=chosen)
        self.largest += 1  # used up by a refusal too
        if len(chosen) == len(members):
            assert answer.status_code == 400
            return
        assert answer.status_code == 200, answer.text
        assert answer.json()["CleavedLabel"] == self.largest
        self.model.cleave(body, chosen, self.largest, who)

    @precondition(lambda self: self.has_bodies())
    @rule(seed=seeds)
    def renumber(self, seed: int) -> None:
        random, who = np.random.default_rng(seed), self.who()
        old = self.a_body(random)
        new = int(random.choice([*self.model.bodies, self.largest + 3, int(random.integers(1, 20))]))
        answer = self.post("renumber", params={"u": who}, json=[new, old])
        self.saw(new)
        if new in self.model.all_bodies():
            assert answer.status_code == 400
            return
        assert answer.status_code == 200, answer.text
        self.model.renumber(old, new, who)

    @precondition(lambda self: self.has_bodies())
    @rule(seed=seeds, is_given=st.booleans(), share=st.sampled_from([0.02, 0.3, 0.9, 1.0]))
    def split_supervoxel(self, seed: int, is_given: bool, share: float) -> None:
        random, who = np.random.default_rng(seed), self.who()
        old = int(random.choice(self.model.members(self.a_body(random))))
        mine = self.model.voxels == old
        inside = mine & (random.random(SHAPE) < share)
        if not inside.any():
            return
        runs = random.permutation(runs_of(inside))
        params = {"u": who}
        if is_given:
            params |= {"split": str(self.largest + 2), "remain": str(self.largest + 1)}
        answer = self.post(f"split-supervoxel/{old}", params=params, content=encoded(runs))
        self.largest += 2
        if (inside == mine).all():
            assert answer.status_code == 400
            return
        assert answer.status_code == 200, answer.text
        split, remain = answer.json()["SplitSupervoxel"], answer.json()["RemainSupervoxel"]
        wanted = (self.largest, self.largest - 1) if is_given else (self.largest - 1, self.largest)
        assert (split, remain) == wanted
        body = self.model.split_supervoxel(old, inside, split, remain)
        self.model.changes[body] = who
        self.model.edits += 1

    @precondition(lambda self: self.has_bodies())
    @rule(seed=seeds, share=st.sampled_from([0.05, 0.5, 1.0]))
    def split_body(self, seed: int, share: float) -> None:
        random, who = np.random.default_rng(seed), self.who()
        body = self.a_body(random)
        mine = self.model.shown() == body
        inside = mine & (random.random(SHAPE) < share)
        if share < 1:
            inside[:, :, int(random.integers(1, SIDE)) :] = False
        if not inside.any():
            return
        met = self.model.order_met(inside)
        answer = self.post(f"split/{body}", params={"u": who}, content=encoded(runs_of(inside)))
        new = self.largest + 1
        self.largest += 1 + 2 * len(met)
        if (inside == mine).all():
            assert answer.status_code == 400
            return
        assert answer.status_code == 200, answer.text
        assert answer.json()["label"] == new
        for number, old in enumerate(met):
            split, remain = new + 1 + 2 * number, new + 2 + 2 * number
            self.model.split_supervoxel(old, inside, split, remain)
            self.model.bodies[split] = new
        self.model.changes[body] = self.model.changes[new] = who
        self.model.edits += 1

    @precondition(lambda self: self.has_bodies())
    @rule(seed=seeds)
    def refused(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        body = self.a_body(random)
        absent = self.largest + 1000
        foreign = [label for label in self.model.sizes() if self.model.body_of(label) != body]
        attempts: list[tuple[str, Any]] = [
            ("merge", [body, body]),
            ("merge", [body, absent]),
            ("merge", [absent, body]),
            ("merge", [0, body]),
            ("renumber", [body, body]),
            ("renumber", [absent, absent + 1]),
            ("renumber", [body]),
        ]
        if foreign:
            attempts.append(("renumber", [self.model.body_of(foreign[0]) or body, body]))
        for path, value in attempts:
            answer = self.post(path, json=value)
            assert answer.status_code == 400, (path, value, answer.text)
            if path == "renumber" and len(value) == 2 and value[0] != value[1]:
                self.saw(value[0])

    # ------------------------------------------------------------ questions

    @invariant()
    def everything_is_as_in_the_model(self) -> None:
        if self.at is None:
            return
        self.check_voxels()
        self.check_bodies()
        self.check_members()
        self.check_log()
        self.travel()

    def check_voxels(self) -> None:
        shown, size = self.model.shown(), f"{SIDE}_{SIDE}_{SIDE}"
        for supervoxels, wanted in (("false", shown), ("true", self.model.voxels)):
            options = {"supervoxels": supervoxels}
            found = np.frombuffer(self.get(f"raw/0_1_2/{size}/0_0_0", params=options).content, "<u8").reshape(SHAPE)
            assert (found == wanted).all()
        coarse = self.model.voxels
        if self.scales:
            coarse = halved(coarse)
            side = SIDE // 2
            found = np.frombuffer(
                self.get(f"raw/0_1_2/{side}_{side}_{side}/0_0_0", params={"scale": "1", "supervoxels": "true"}).content,
                "<u8",
            )
            assert (found.reshape(coarse.shape) == coarse).all()
        points = [[5, 6, 7], [20, 40, 9], [47, 0, 30]]
        assert self.get("labels", content=str(points)).json() == [int(shown[z, y, x]) for x, y, z in points]

    def check_bodies(self) -> None:
        sizes = self.model.all_bodies()
        assert self.get("existing-labels").json() == sorted(sizes)
        listed = np.frombuffer(self.get("listlabels", params={"sizes": "true"}).content, "<u8").reshape(-1, 2)
        assert listed.tolist() == [list(row) for row in sorted(sizes.items())]
        asked = [*sizes, self.largest + 5, *list(self.model.bodies)[:3]]
        assert self.get("sizes", content=str(asked)).json() == [sizes.get(body, 0) for body in asked]
        if self.largest:
            assert self.get("nextlabel").json() == {"nextlabel": self.largest + 1}

    def check_members(self) -> None:
        sizes = self.model.sizes()
        everybody = sorted({*sizes, *self.model.bodies})
        wanted = [
            self.model.body_of(label) if label in sizes or self.model.bodies.get(label, label) != label else 0
            for label in everybody
        ]
        assert self.get("mapping", content=str(everybody)).json() == wanted
        pairs = {tuple(map(int, line.split())) for line in self.get("mappings").text.splitlines()}
        assert pairs == {(label, body) for label, body in self.model.bodies.items() if label != body}
        shown = self.model.shown()
        for body in list(self.model.all_bodies())[:3]:
            members = self.model.members(body)
            assert sorted(self.get(f"supervoxels/{body}").json()) == sorted(members)
            each = self.get(f"supervoxel-sizes/{body}").json()
            assert dict(zip(each["supervoxels"], each["sizes"], strict=True)) == {s: sizes[s] for s in members}
            self.check_shape(body, shown == body)
            self.check_index(body, members)
            if body in self.model.changes:
                assert self.get(f"lastmod/{body}").json()["last mod user"] == self.model.changes[body]
        for label in list(sizes)[:2]:
            self.check_shape(label, self.model.voxels == label, supervoxels="true")

    def check_shape(self, label: int, mask: npt.NDArray[np.bool_], **options: str) -> None:
        body = self.get(f"sparsevol/{label}", params=options).content
        assert (mask_of(np.frombuffer(body[12:], "<i4").reshape(-1, 4), SHAPE) == mask).all()
        blocks = mask.reshape(3, BLOCK, 3, BLOCK, 3, BLOCK).any(axis=(1, 3, 5))
        coarse = self.get(f"sparsevol-coarse/{label}", params=options).content
        assert (mask_of(np.frombuffer(coarse[12:], "<i4").reshape(-1, 4), (3, 3, 3)) == blocks).all()
        told = self.get(f"sparsevol-size/{label}", params=options).json()
        places = np.argwhere(blocks)
        assert told["voxels"] == mask.sum()
        assert told["numblocks"] == len(places)
        assert told["minvoxel"] == (places.min(axis=0) * BLOCK)[::-1].tolist()
        assert told["maxvoxel"] == ((places.max(axis=0) + 1) * BLOCK - 1)[::-1].tolist()

    def check_index(self, body: int, members: list[int]) -> None:
        message = LabelIndex()
        message.ParseFromString(self.get(f"index/{body}").content)
        found = {
            (place, label): number for place, block in message.blocks.items() for label, number in block.counts.items()
        }
        wanted = {}
        for z, y, x in np.ndindex(3, 3, 3):
            part = self.model.voxels[tuple(slice(a * BLOCK, (a + 1) * BLOCK) for a in (z, y, x))]
            for label in members:
                number = int((part == label).sum())
                if number:
                    wanted[z << 42 | y << 21 | x, label] = number
        assert found == wanted

    def check_log(self) -> None:
        assert len(self.get("mutations").json()) == self.model.edits
        told = self.get("supervoxel-splits").json()
        rows = [row[1:] for _, rows in zip(told[::2], told[1::2], strict=True) for row in rows]
        assert sorted(map(tuple, rows)) == sorted(self.model.splits)

    def travel(self) -> None:
        """Remember this generation, and look at an earlier one."""
        answer = self.get("existing-labels")
        _, owner, generation = answer.headers["etag"].strip('"').split(".")
        if not self.version.uuid.startswith(owner) or generation == "0":
            return
        self.version.past.setdefault(int(generation), self.model.copy())
        earlier = sorted(self.version.past)[len(self.version.past) // 2]
        then = self.version.past[earlier]
        at = {"generation": str(earlier)}
        assert self.get("existing-labels", params=at).json() == sorted(then.all_bodies())
        asked = list(self.model.all_bodies())
        sizes = then.all_bodies()
        found = self.get("sizes", params=at, content=str(asked)).json()
        assert found == [sizes.get(body, 0) for body in asked]
        raw = self.get(f"raw/0_1_2/{SIDE}_{SIDE}_1/0_0_20", params=at).content
        assert (np.frombuffer(raw, "<u8").reshape(SIDE, SIDE) == then.shown()[20]).all()


def encoded(runs: npt.NDArray[np.int32]) -> bytes:
    return struct.pack("<4B2I", 0, 3, 0, 0, 0, len(runs)) + np.ascontiguousarray(runs, "<i4").tobytes()


def run(examples: int, steps: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Labels,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=phases,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_short() -> None:
    run(15, 20)


def test_waiting_changes_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "FOLD_ROWS", 60)
    run(10, 20)


@pytest.mark.torture
def test_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deltas, "FOLD_ROWS", 2000)
    run(400, 60)
