"""Annotations and their numbers by body against dictionaries and arrays, while labels are edited at the same time.

Two pods serve one folder. Versions branch; voxels are overwritten; bodies are edited, or supervoxels mapped by posts.
Elements of any generation are asked for in labels of any other.
"""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
import struct
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
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
from app.datatypes.annotation import deltas, folding
from app.formats.dvid_pb2 import MappingOp, MappingOps
from app.settings import Settings

ADMIN = "token"
SIDE = 16
LABELS = range(1, 7)
TAGS = ["a", "a\0", "user:b"]
KINDS = ["Unknown", "PostSyn", "PreSyn", "Gap", "Note"]
#: Few places, so that elements meet; in four blocks of labels, and outside of the labels.
points = st.tuples(st.sampled_from([0, 5, 15, 16, 31, -3]), st.sampled_from([0, 15, 17]), st.sampled_from([0, 9]))
elements = st.fixed_dictionaries(
    {
        "Pos": points.map(list),
        "Kind": st.sampled_from(KINDS),
        "Tags": st.lists(st.sampled_from(TAGS), max_size=2, unique=True),
        "Prop": st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["", 'q"é']), max_size=2),
        "Rels": st.lists(
            st.fixed_dictionaries(
                {"Rel": st.sampled_from(["PreSynTo", "GroupedWith"]), "To": points.map(list)},
            ),
            max_size=2,
        ),
    }
)
pods = st.integers(0, 1)
choices = st.integers(0, 1 << 16)


@dataclass
class Version:
    """What one version holds: elements by point, supervoxels z, y, x of two by two blocks, and their bodies."""

    uuid: str
    elements: dict[tuple[int, ...], dict[str, Any]] = field(default_factory=dict)
    voxels: np.ndarray = field(default_factory=lambda: np.zeros((SIDE, 2 * SIDE, 2 * SIDE), np.uint64))
    bodies: dict[int, int] = field(default_factory=dict)
    locked: bool = False

    def child(self, uuid: str) -> Version:
        return Version(uuid, copy.deepcopy(self.elements), self.voxels.copy(), dict(self.bodies))

    def body_of(self, supervoxel: int) -> int:
        return self.bodies.get(supervoxel, supervoxel)

    def existing(self) -> dict[int, list[int]]:
        """Bodies with voxels, and their supervoxels with voxels."""
        found: dict[int, list[int]] = {}
        for supervoxel in np.unique(self.voxels).tolist():
            if supervoxel:
                found.setdefault(self.body_of(supervoxel), []).append(supervoxel)
        return found

    def body(self, point: tuple[int, ...]) -> int:
        x, y, z = point
        if x < 0:
            return 0
        return self.body_of(int(self.voxels[z, y, x]))

    def in_label(self, label: int) -> list[dict[str, Any]]:
        return [element for point, element in self.elements.items() if self.body(point) == label]


def bare(listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in element.items() if key != "Rels"} for element in listed]


def same(found: list[dict[str, Any]] | None, expected: list[dict[str, Any]]) -> bool:
    def order(element: dict[str, Any]) -> Any:
        return element["Pos"]

    return sorted(found or [], key=order) == sorted(expected, key=order)


class Machine(RuleBasedStateMachine):
    has_edits: bool

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.mkdtemp()
        self.services = [
            build(Settings(store=self.folder, durability="process", admin_token=ADMIN, threads=1)) for _ in range(2)
        ]
        self.clients: list[httpx.AsyncClient] = []
        self.versions: list[Version] = []
        #: What was there at a version and generation: elements, and labels.
        self.elements_at: dict[tuple[str, int], dict[tuple[int, ...], dict[str, Any]]] = {}
        self.labels_at: dict[tuple[str, int], Version] = {}
        self.flat: set[tuple[int, ...]] = set()
        self.step = 0

    def teardown(self) -> None:
        async def stop() -> None:
            for client in self.clients:
                await client.aclose()
            for service in self.services:
                await service.shutdown()

        self.runner.run(stop())
        self.runner.close()
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------------ requests

    def send(self, pod: int, method: str, path: str, body: Any = None, status: int = 200) -> httpx.Response:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()

        async def work() -> httpx.Response:
            return await self.clients[pod].request(method, path, content=content)

        answer = self.runner.run(work())
        assert (answer.status_code == 200) == (status == 200), (method, path, answer.status_code, answer.text)
        assert answer.status_code < 500
        return answer

    def get(self, pod: int, version: Version, path: str) -> Any:
        return self.send(pod, "GET", f"/api/node/{version.uuid}/{path}").json()

    def open(self, choice: int) -> Version:
        chosen = [version for version in self.versions if not version.locked]
        return chosen[choice % len(chosen)]

    @initialize()
    def begin(self) -> None:
        async def start() -> None:
            for service in self.services:
                await service.startup()
                transport = httpx.ASGITransport(app=service)
                self.clients.append(httpx.AsyncClient(transport=transport, base_url="http://test"))

        self.runner.run(start())
        root = self.send(0, "POST", f"/api/repos?admintoken={ADMIN}", {"alias": "test"}).json()["root"]
        for name, typename in [
            ("seg", "labelmap"),
            ("syn", "annotation"),
            ("late", "annotation"),
            ("flat", "annotation"),
            ("sizes", "labelsz"),
        ]:
            body = {"typename": typename, "dataname": name, "BlockSize": "16,16,16", "Versioned": str(name != "flat")}
            self.send(0, "POST", f"/api/repo/{root}/instance", body)
        self.versions.append(Version(root))
        for name, other in [("syn", "seg"), ("flat", "seg"), ("sizes", "syn")]:
            self.send(0, "POST", f"/api/node/{root}/{name}/sync", {"sync": other})
        self.is_late_synced = False
        for number, (x, y) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
            self.write_voxels(0, 0, x, y, number, 0)
        everywhere = [(x, y, z) for x in (0, 5, 16, 31, -3) for y in (0, 17) for z in (0, 9)]
        posted = [
            {"Pos": list(p), "Kind": KINDS[sum(p) % 5], "Tags": ["a"], "Prop": {}, "Rels": []} for p in everywhere
        ]
        self.post_elements(1, 0, posted)

    # ------------------------------------------------------------------ annotations

    @rule(pod=pods, choice=choices, posted=st.lists(elements, max_size=6))
    def post_elements(self, pod: int, choice: int, posted: list[dict[str, Any]]) -> None:
        version = self.open(choice)
        for name in ("syn", "late"):
            self.send(pod, "POST", f"/api/node/{version.uuid}/{name}/elements", posted)
        for element in posted:
            version.elements[tuple(element["Pos"])] = copy.deepcopy(element)
        if len(posted) % 2:
            self.send(pod, "POST", f"/api/node/{version.uuid}/flat/elements", posted)
            self.flat.update(tuple(element["Pos"]) for element in posted)

    @rule(pod=pods, choice=choices, posted=st.lists(elements, max_size=4), x=st.integers(-1, 1), y=st.integers(0, 1))
    def post_blocks(self, pod: int, choice: int, posted: list[dict[str, Any]], x: int, y: int) -> None:
        version = self.open(choice)
        inside = {tuple(e["Pos"]): e for e in posted if e["Pos"][0] // SIDE == x and e["Pos"][1] // SIDE == y}
        self.send(pod, "POST", f"/api/node/{version.uuid}/syn/blocks", {f"{x},{y},0": list(inside.values())})
        gone = [p for p in version.elements if p[0] // SIDE == x and p[1] // SIDE == y and p not in inside]
        for point in gone:
            del version.elements[point]
        version.elements.update(copy.deepcopy(inside))
        # The other instance has its blocks elsewhere: it comes to the same by other requests.
        self.send(pod, "POST", f"/api/node/{version.uuid}/late/elements", list(inside.values()))
        for point in gone:
            present = version.elements.copy()
            self.send(pod, "DELETE", f"/api/node/{version.uuid}/late/element/{'_'.join(map(str, point))}")
            assert present == version.elements
        if gone:  # which took relations with it
            self.send(pod, "POST", f"/api/node/{version.uuid}/late/elements", list(version.elements.values()))

    @rule(pod=pods, choice=choices, point=points)
    def delete(self, pod: int, choice: int, point: tuple[int, ...]) -> None:
        version = self.open(choice)
        element = version.elements.pop(point, None)
        for name in ("syn", "late"):
            path = f"/api/node/{version.uuid}/{name}/element/{'_'.join(map(str, point))}"
            self.send(pod, "DELETE", path, status=200 if element else 400)
        for rel in element["Rels"] if element else []:
            partner = version.elements.get(tuple(rel["To"]))
            if partner is not None:
                partner["Rels"] = [back for back in partner["Rels"] if tuple(back["To"]) != point]

    @rule(pod=pods, choice=choices, start=points, end=points)
    def move(self, pod: int, choice: int, start: tuple[int, ...], end: tuple[int, ...]) -> None:
        version = self.open(choice)
        is_right = start in version.elements and (end not in version.elements or start == end)
        for name in ("syn", "late"):
            path = f"/api/node/{version.uuid}/{name}/move/{'_'.join(map(str, start))}/{'_'.join(map(str, end))}"
            self.send(pod, "POST", path, status=200 if is_right else 400)
        if not is_right or start == end:
            return
        element = version.elements.pop(start)
        partners = [version.elements.get(tuple(rel["To"])) for rel in element["Rels"]]
        for changed in [element, *[partner for partner in partners if partner is not None]]:
            for rel in changed["Rels"]:
                if tuple(rel["To"]) == start:
                    rel["To"] = list(end)
        version.elements[end] = {**element, "Pos": list(end)}

    @rule(pod=pods, choice=choices, name=st.sampled_from(["syn", "late"]))
    def reload(self, pod: int, choice: int, name: str) -> None:
        self.send(pod, "POST", f"/api/node/{self.open(choice).uuid}/{name}/reload")

    @rule(pod=pods, choice=choices)
    def sync_late(self, pod: int, choice: int) -> None:
        if not self.is_late_synced:
            self.send(pod, "POST", f"/api/node/{self.open(choice).uuid}/late/sync", {"sync": "seg"})
            self.is_late_synced = True

    # ------------------------------------------------------------------ labels

    @rule(pod=pods, choice=choices, x=st.integers(0, 1), y=st.integers(0, 1), seed=st.integers(0, 1 << 16), few=pods)
    def write_voxels(self, pod: int, choice: int, x: int, y: int, seed: int, few: int) -> None:
        version = self.open(choice)
        rng = np.random.default_rng(seed)
        # Supervoxels that were split are not painted again.
        paints = np.array([0, *[label for label in LABELS if not self.has_edits or version.body_of(label)]], np.uint64)
        block = rng.choice(paints, (SIDE,) * 3)
        if few:
            block[:] = block[0, 0, 0]
        path = f"seg/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/{x * SIDE}_{y * SIDE}_0?mutate=true"
        self.send(pod, "POST", f"/api/node/{version.uuid}/{path}", block.tobytes())
        version.voxels[:, y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] = block

    @precondition(lambda self: not self.has_edits)
    @rule(pod=pods, choice=choices, supervoxels=st.sets(st.sampled_from(LABELS), max_size=3), body=st.integers(0, 8))
    def map_supervoxels(self, pod: int, choice: int, supervoxels: set[int], body: int) -> None:
        version = self.open(choice)
        message = MappingOps(mappings=[MappingOp(mutid=1, mapped=body, original=sorted(supervoxels))])
        self.send(pod, "POST", f"/api/node/{version.uuid}/seg/mappings", message.SerializeToString())
        version.bodies.update(dict.fromkeys(supervoxels, body))

    @precondition(lambda self: self.has_edits)
    @rule(pod=pods, choice=choices, first=choices, second=choices)
    def merge(self, pod: int, choice: int, first: int, second: int) -> None:
        version = self.open(choice)
        bodies = sorted(version.existing())
        if len(bodies) < 2:
            return
        target, other = bodies[first % len(bodies)], bodies[second % len(bodies)]
        if target == other:
            return
        self.send(pod, "POST", f"/api/node/{version.uuid}/seg/merge", [target, other])
        everybody = {other, *version.bodies}
        version.bodies.update({label: target for label in everybody if version.body_of(label) == other})

    @precondition(lambda self: self.has_edits)
    @rule(pod=pods, choice=choices, which=choices)
    def cleave(self, pod: int, choice: int, which: int) -> None:
        version = self.open(choice)
        bodies = [(body, labels) for body, labels in sorted(version.existing().items()) if len(labels) > 1]
        if bodies:
            body, labels = bodies[which % len(bodies)]
            cleaved = labels[which % len(labels)]
            answer = self.send(pod, "POST", f"/api/node/{version.uuid}/seg/cleave/{body}", [cleaved])
            version.bodies[cleaved] = answer.json()["CleavedLabel"]

    @precondition(lambda self: self.has_edits)
    @rule(pod=pods, choice=choices, which=choices, seed=st.integers(0, 1 << 16))
    def split_supervoxel(self, pod: int, choice: int, which: int, seed: int) -> None:
        version = self.open(choice)
        labels = [label for label in np.unique(version.voxels).tolist() if label]
        if not labels:
            return
        label = labels[which % len(labels)]
        places = np.argwhere(version.voxels == label)
        chosen = places[np.random.default_rng(seed).random(len(places)) < 0.5]
        if not 0 < len(chosen) < len(places):
            return
        runs = np.ones((len(chosen), 4), "<i4")
        runs[:, :3] = chosen[:, ::-1]
        body = struct.pack("<BBBBII", 0, 3, 0, 0, 0, len(runs)) + runs.tobytes()
        answer = self.send(pod, "POST", f"/api/node/{version.uuid}/seg/split-supervoxel/{label}", body).json()
        split, remain = answer["SplitSupervoxel"], answer["RemainSupervoxel"]
        version.voxels[version.voxels == label] = remain
        version.voxels[tuple(chosen.T)] = split
        version.bodies |= {split: version.body_of(label), remain: version.body_of(label), label: 0}

    # ------------------------------------------------------------------ versions

    @rule(pod=pods, choice=choices)
    def branch(self, pod: int, choice: int) -> None:
        if len(self.versions) == 5:
            return
        parent = self.versions[choice % len(self.versions)]
        if not parent.locked:
            self.send(pod, "POST", f"/api/node/{parent.uuid}/commit", {"note": ""})
            parent.locked = True
        body = {"branch": f"b{len(self.versions)}"}
        child = self.send(pod, "POST", f"/api/node/{parent.uuid}/branch", body).json()["child"]
        self.versions.append(parent.child(child))

    # ------------------------------------------------------------------ answers

    def check_label(self, pod: int, version: Version, label: int) -> None:
        expected = version.in_label(label)
        assert same(self.get(pod, version, f"syn/label/{label}?relationships=true"), expected)
        assert same(self.get(pod, version, f"syn/label/{label}"), bare(expected))
        if self.is_late_synced:
            assert same(self.get(pod, version, f"late/label/{label}?relationships=true"), expected)
        else:
            assert self.get(pod, version, f"late/label/{label}") == []
        flat = {point for point in self.flat if version.body(point) == label}
        assert {tuple(element["Pos"]) for element in self.get(pod, version, f"flat/label/{label}")} == flat

    @rule(pod=pods, first=choices, second=choices)
    def ask_for_other_times(self, pod: int, first: int, second: int) -> None:
        (version, generation), elements = list(self.elements_at.items())[first % len(self.elements_at)]
        others = [(number, state) for (uuid, number), state in self.labels_at.items() if uuid == version]
        number, labels = others[second % len(others)]
        for label in LABELS:
            path = f"/api/node/{version}/syn/label/{label}?relationships=true&generation={generation}-{number}"
            expected = [element for point, element in elements.items() if labels.body(point) == label]
            assert same(self.send(pod, "GET", path).json(), expected)

    @rule(pod=pods, choice=choices)
    def count(self, pod: int, choice: int) -> None:
        version = self.versions[choice % len(self.versions)]
        for index_type, kinds in [("PreSyn", {"PreSyn"}), ("AllSyn", {"PostSyn", "PreSyn", "Gap"})]:
            numbers = Counter(version.body(p) for p, e in version.elements.items() if e["Kind"] in kinds)
            del numbers[0]
            ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
            expected = [{"Label": label, "Size": size} for label, size in ranked]
            few = self.send(pod, "GET", f"/api/node/{version.uuid}/sizes/counts/{index_type}", list(LABELS)).json()
            assert few == [{"Label": label, index_type: numbers[label]} for label in LABELS]
            assert self.get(pod, version, f"sizes/top/20/{index_type}") == expected
            for label in (1, 5):
                found = self.get(pod, version, f"sizes/count/{label}/{index_type}")
                assert found == {"Label": label, index_type: numbers[label]}

    @rule(pod=pods, choice=choices, first=points, last=points)
    def ask_for_places(self, pod: int, choice: int, first: tuple[int, ...], last: tuple[int, ...]) -> None:
        version = self.versions[choice % len(self.versions)]
        low, high = np.minimum(first, last), np.maximum(first, last)
        size, offset = "_".join(map(str, high - low + 1)), "_".join(map(str, low))
        inside = [e for p, e in version.elements.items() if (low <= p).all() and (p <= high).all()]
        for name in ("syn", "late"):
            found = self.get(pod, version, f"{name}/elements/{size}/{offset}")
            assert (found is None) == (not inside)
            assert same(found, inside)
            everything = self.get(pod, version, f"{name}/all-elements")
            assert same([e for listed in everything.values() for e in listed], list(version.elements.values()))
            for tag in TAGS:
                tagged = [e for e in version.elements.values() if tag in e["Tags"]]
                path = f"{name}/tag/{tag}".replace("\0", "%00")
                assert same(self.get(pod, version, f"{path}?relationships=true"), tagged)
        blocks = self.get(pod, version, f"syn/blocks/{size}/{offset}")
        assert set(blocks) == {
            ",".join(str(a // SIDE) for a in p)
            for p in version.elements
            if all(a // SIDE <= b // SIDE <= c // SIDE for a, b, c in zip(low, p, high, strict=True))
        }

    @invariant()
    def labels_are_right(self) -> None:
        if not self.versions:
            return
        self.step += 1
        version, pod = self.versions[self.step % len(self.versions)], self.step % 3 % 2
        for label in {*LABELS, *[version.body(point) for point in version.elements]} - {0}:
            self.check_label(pod, version, label)
        answer = self.send(pod, "GET", f"/api/node/{version.uuid}/syn/label/1")
        generation, other = map(int, answer.headers["ETag"].strip('"').split(".")[2].split("-"))
        if generation and other:
            self.elements_at[version.uuid, generation] = copy.deepcopy(version.elements)
            self.labels_at[version.uuid, other] = version.child(version.uuid)


class Edits(Machine):
    has_edits = True


class Posts(Machine):
    has_edits = False


QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def run(machine: type[Machine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=steps, **QUIET),  # type: ignore[arg-type]
    )


#: What may wait, and how much a post may hold to wait: all waits, most is folded at once, small posts wait a little.
WAYS = {"waiting": (1 << 40, 1 << 14), "folded": (100, 1 << 14), "mixed": (500, 3)}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    most_weight, most_elements = WAYS[request.param]
    monkeypatch.setattr(folding, "MOST_WEIGHT", most_weight)
    monkeypatch.setattr(folding, "TOGETHER", 2)
    monkeypatch.setattr(deltas, "MOST_ELEMENTS", most_elements)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("machine", [Edits, Posts])
def test_annotations_follow_the_labels(machine: type[Machine]) -> None:
    run(machine, 6, 20)


@pytest.mark.torture
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("machine", [Edits, Posts])
def test_annotations_follow_the_labels_for_long(machine: type[Machine]) -> None:
    run(machine, 400, 80)
