"""Version merges of labels: two sides with random edits against numpy, and each kind of conflict."""

from __future__ import annotations

import copy
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from tests.api.conftest import make_instance
from tests.api.test_version_merges import branch, child_of, commit, merge

U64 = npt.NDArray[np.uint64]
#: The volume z, y, x: two blocks along x, in eight slabs along z that are supervoxels 1 to 8.
SHAPE = (32, 32, 64)
SLAB = 4


@dataclass
class Side:
    """A version as arrays: supervoxels, and the body of each (0: retired)."""

    client: httpx.Client
    version: str
    voxels: U64
    bodies: dict[int, int]

    @property
    def seg(self) -> str:
        return f"/api/node/{self.version}/seg"

    def post(self, path: str, **body: object) -> httpx.Response:
        answer = self.client.post(f"{self.seg}/{path}", **body)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        return answer

    def members(self, body: int) -> list[int]:
        return [label for label, of in self.bodies.items() if of == body]

    def alive(self) -> list[int]:
        return sorted(set(self.bodies.values()) - {0})

    def paint(self, label: int, corner: tuple[int, int, int]) -> None:
        z, y, x = corner
        self.voxels[z : z + 4, y : y + 4, x : x + 4] = label
        self.bodies.setdefault(label, label)
        x -= x % 32
        block = np.ascontiguousarray(self.voxels[:, :, x : x + 32])
        self.post(f"raw/0_1_2/32_32_32/{x}_0_0?mutate=true", content=block.tobytes())

    def merge(self, target: int, other: int) -> None:
        self.post("merge", json=[target, other])
        self.bodies.update(dict.fromkeys(self.members(other), target))

    def cleave(self, body: int, label: int) -> None:
        new = self.post(f"cleave/{body}", json=[label]).json()["CleavedLabel"]
        self.bodies[label] = new

    def split(self, label: int) -> None:
        chosen = np.argwhere(self.voxels == label)
        chosen = chosen[: len(chosen) // 2]
        runs = b"".join(struct.pack("<4i", x, y, z, 1) for z, y, x in chosen.tolist())
        body = struct.pack("<BBBBII", 0, 3, 0, 0, 0, len(chosen)) + runs
        said = self.post(f"split-supervoxel/{label}", content=body).json()
        part, rest = said["SplitSupervoxel"], said["RemainSupervoxel"]
        self.voxels[self.voxels == label] = rest
        self.voxels[tuple(chosen.T)] = part
        self.bodies[part] = self.bodies[rest] = self.bodies[label]
        self.bodies[label] = 0

    def check(self) -> None:
        table = np.zeros(max(self.bodies) + 1, np.uint64)
        table[list(self.bodies)] = list(self.bodies.values())
        for query, expected in (("?supervoxels=true", self.voxels), ("", table[self.voxels])):
            raw = self.client.get(f"{self.seg}/raw/0_1_2/64_32_32/0_0_0{query}").content
            found = np.frombuffer(raw, "<u8").reshape(SHAPE)
            assert (found == expected).all()
        labels, numbers = np.unique(table[self.voxels], return_counts=True)
        assert self.client.get(f"{self.seg}/existing-labels").json() == labels.tolist()
        sizes = self.client.request("GET", f"{self.seg}/sizes", json=labels.tolist()).json()
        assert sizes == numbers.tolist()
        for body in labels.tolist():
            held = np.unique(self.voxels[table[self.voxels] == body]).tolist()
            assert sorted(self.client.get(f"{self.seg}/supervoxels/{body}").json()) == held
        half = self.client.get(f"{self.seg}/raw/0_1_2/32_16_16/0_0_0?scale=1&supervoxels=true").content
        assert (np.frombuffer(half, "<u8").reshape(16, 16, 32) == halved(self.voxels)).all()


def halved(voxels: U64) -> U64:
    cells = voxels.reshape(16, 2, 16, 2, 32, 2).transpose(0, 2, 4, 1, 3, 5).reshape(16, 16, 32, 8)
    counts = (cells[..., :, None] == cells[..., None, :]).sum(axis=-1)
    most = counts.max(axis=-1, keepdims=True)
    return np.where(counts == most, cells, np.uint64((1 << 64) - 1)).min(axis=-1)  # type: ignore[no-any-return]


def joined(base: Side, ours: Side, theirs: Side) -> tuple[Side | None, set[int]]:
    """What a version merge holds, or None and bodies of which some must be named."""
    conflicts: set[int] = set()
    clash = (ours.voxels != base.voxels) & (theirs.voxels != base.voxels) & (ours.voxels != theirs.voxels)
    conflicts |= {base.bodies[label] for label in np.unique(base.voxels[clash]).tolist()}
    out = copy.copy(ours)
    out.voxels = np.where(theirs.voxels != base.voxels, theirs.voxels, ours.voxels)
    out.bodies = {}
    clashing: set[int] = set()
    for label in ours.bodies.keys() | theirs.bodies.keys():
        was, our, their = (side.bodies.get(label, label) for side in (base, ours, theirs))
        if was not in (our, their) and our != their:
            conflicts.add(was)
            clashing.add(label)
        out.bodies[label] = our if their == was else their
    for one, other in ((ours, theirs), (theirs, ours)):
        moved = {
            label: body
            for label, body in one.bodies.items()
            if base.bodies.get(label, label) != body and label not in clashing
        }
        lost = {base.bodies[label] for label in base.bodies if other.bodies[label] != base.bodies[label]}
        conflicts |= {body for body in set(moved.values()) & lost - {0} if not other.members(body)}
        painted = np.unique(other.voxels[other.voxels != base.voxels]).tolist()
        conflicts |= {base.bodies.get(label, label) for label in painted if one.bodies.get(label) == 0}
    return (None if conflicts else out), conflicts


def begin(client: httpx.Client, root: str) -> Side:
    make_instance(client, root, "labelmap", "seg", BlockSize="32,32,32", MaxDownresLevel="1")
    slabs = np.arange(SHAPE[0], dtype=np.uint64) // SLAB + 1
    voxels = np.ascontiguousarray(np.broadcast_to(slabs[:, None, None], SHAPE))
    base = Side(client, root, voxels, {label: label for label in range(1, 9)})
    base.post("raw/0_1_2/64_32_32/0_0_0", content=voxels.tobytes())
    base.merge(1, 2)
    base.merge(3, 4)
    commit(client, root)
    return base


def side(base: Side, name: str) -> Side:
    version = branch(base.client, base.version, name)
    return Side(base.client, version, base.voxels.copy(), dict(base.bodies))


def edit(on: Side, chance: random.Random, number: int) -> None:
    kind = chance.choice(["paint", "paint", "merge", "cleave", "split"])
    body = chance.choice(on.alive())
    if kind == "paint":
        label = chance.choice([1000 + number, *(label for label, of in on.bodies.items() if of and label < 9)])
        on.paint(label, (4 * chance.randrange(8), 4 * chance.randrange(8), 4 * chance.randrange(16)))
    elif kind == "merge" and len(on.alive()) > 1:
        on.merge(body, chance.choice([other for other in on.alive() if other != body]))
    elif kind == "cleave" and len(on.members(body)) > 1:
        on.cleave(body, chance.choice(on.members(body)))
    elif kind == "split":
        label = chance.choice(on.members(body))
        if (on.voxels == label).sum() > 8:
            on.split(label)


@pytest.mark.parametrize("seed", range(24))
def test_random_edits_on_two_sides(client: httpx.Client, root: str, seed: int) -> None:
    chance = random.Random(seed)
    base = begin(client, root)
    sides = [side(base, "left"), side(base, "right")]
    for each, start in zip(sides, (0, 100), strict=True):
        for number in range(chance.choice([1, 2, 4])):
            edit(each, chance, start + number)
        commit(client, each.version)
    expected, conflicts = joined(base, *sides)
    answer = merge(client, [each.version for each in sides])
    if expected is None:
        assert answer.status_code == 400, (conflicts, answer.text)
        named = {
            int(line.split()[2].rstrip(":")) for line in answer.text.splitlines() if line.startswith("  seg: body")
        }
        assert conflicts <= named, answer.text
    else:
        expected.version = child_of(answer)
        expected.check()
        for number in range(3):
            edit(expected, chance, 200 + number)
        expected.check()
    for each in sides:
        each.check()


@pytest.fixture
def sides(client: httpx.Client, root: str) -> tuple[Side, Side]:
    base = begin(client, root)
    return side(base, "left"), side(base, "right")


def attempt(sides: tuple[Side, Side]) -> httpx.Response:
    for each in sides:
        commit(each.client, each.version)
    return merge(sides[0].client, [each.version for each in sides])


@pytest.mark.parametrize(
    ("left", "right", "line"),
    [
        (lambda s: s.merge(5, 6), lambda s: s.merge(7, 6), "body 6: supervoxels 6 were put in different bodies"),
        (lambda s: s.merge(1, 5), lambda s: s.merge(6, 1), "body 1: one side added to it"),
        (lambda s: s.paint(1000, (8, 0, 0)), lambda s: s.paint(1001, (8, 0, 0)), "body 3: voxels were painted"),
        (lambda s: s.split(5), lambda s: s.paint(5, (0, 0, 0)), "body 5: supervoxels 5 were split or retired"),
        (lambda s: s.split(5), lambda s: s.split(5), "body 5: voxels were painted differently"),
        (
            lambda s: s.post("renumber", json=[100, 5]),
            lambda s: s.post("renumber", json=[100, 6]),
            "body 100: one side added",
        ),
    ],
)
def test_conflicts_are_named_by_body(
    sides: tuple[Side, Side], left: Callable[[Side], None], right: Callable[[Side], None], line: str
) -> None:
    left(sides[0])
    right(sides[1])
    before = sides[0].client.get(f"/api/repo/{sides[0].version}/info").json()["DAG"]["Nodes"].keys()
    answer = attempt(sides)
    assert answer.status_code == 400
    assert f"seg: {line}" in answer.text
    assert sides[0].client.get(f"/api/repo/{sides[0].version}/info").json()["DAG"]["Nodes"].keys() == before


def test_the_same_done_twice_is_no_conflict(sides: tuple[Side, Side]) -> None:
    for each in sides:
        each.merge(5, 6)
        each.paint(1000, (8, 0, 0))
    sides[1].merge(7, 8)
    child = child_of(attempt(sides))
    found = copy.copy(sides[1])
    found.version = child
    found.check()
    changed = found.client.get(f"/api/node/{child}/seg/lastmod/5").json()["mutation id"]
    assert changed == found.client.get(f"/api/node/{sides[1].version}/seg/lastmod/5").json()["mutation id"]


def test_a_resolution_keeps_what_the_first_parent_did(sides: tuple[Side, Side]) -> None:
    ours, theirs = sides
    ours.merge(5, 6)
    theirs.merge(7, 6)
    theirs.merge(1, 3)
    ours.paint(1000, (0, 0, 0))
    theirs.paint(1001, (0, 0, 0))
    theirs.paint(1002, (0, 0, 8))
    theirs.split(8)
    assert attempt(sides).status_code == 400
    body = {"data": ["seg"], "parents": [ours.version, theirs.version]}
    child = child_of(ours.client.post(f"/api/repo/{ours.version}/resolve", json=body))
    wanted = copy.copy(theirs)
    wanted.version = child
    wanted.bodies = {**theirs.bodies, 6: 5, 1000: 1000}
    wanted.voxels = theirs.voxels.copy()
    wanted.voxels[:4, :4, :4] = 1000
    wanted.check()
    wanted.split(5)
    wanted.cleave(5, 6)
    wanted.check()


def test_the_log_of_both_sides_is_there(sides: tuple[Side, Side]) -> None:
    sides[0].merge(5, 6)
    sides[1].merge(7, 8)
    child = child_of(attempt(sides))
    client = sides[0].client
    assert client.get(f"/api/node/{child}/seg/mutations").json() == []
    for each, target in zip(sides, (5, 7), strict=True):
        said = client.get(f"/api/node/{each.version}/seg/mutations").json()
        assert [record["Target"] for record in said] == [target]


def test_posted_mappings_and_indices_of_both_sides(client: httpx.Client, sides: tuple[Side, Side]) -> None:
    from app.formats.dvid_pb2 import MappingOps

    for each, (label, body) in zip(sides, ((5, 50), (6, 60)), strict=True):
        ops = MappingOps()
        ops.mappings.add(mutid=1, mapped=body, original=[label])
        each.post("mappings", content=ops.SerializeToString())
    child = child_of(attempt(sides))
    mapped = client.request("GET", f"/api/node/{child}/seg/mapping", json=[5, 6, 7]).json()
    assert mapped == [50, 60, 7]
