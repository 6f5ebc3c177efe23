"""Workloads about versions: a chain of them that are locked and followed by the next, empty or with a key each."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator

from benchmarks.client import Request
from benchmarks.workloads import LABELMAP, Bench, Round, Workload, expect

#: Versions in one round, and rounds at most.
VERSIONS, ROUNDS = 150, 20
#: Versions that are there before those that are timed, in workloads about long histories.
BEFORE = 500


class Chain:
    """A repo of its own, and the requests that make one version after another; each needs the one before."""

    def __init__(self, bench: Bench, *, has_keys: bool) -> None:
        self._bench = Bench(bench.server, bench.volume, 1, bench.name)
        self._data = self._bench.instance({"typename": "keyvalue"}).rpartition("/")[2]
        self._bench.instance(LABELMAP)
        self._has_keys = has_keys
        self._versions = [self._bench.root]

    def grow(self, number: int) -> list[Request]:
        """The requests for so many further versions."""
        post, requests = self._bench.server.target.request, list[Request]()
        for _ in range(number):
            node, child = f"/api/node/{self._versions[-1]}", uuid.uuid4().hex
            if self._has_keys:
                requests.append(post("POST", f"{node}/{self._data}/key/a", self._value(len(self._versions) - 1)))
            requests.append(post("POST", f"{node}/commit", b"{}"))
            requests.append(post("POST", f"{node}/newversion", json.dumps({"uuid": child}).encode()))
            self._versions.append(child)
        return requests

    def load(self, number: int) -> None:
        """Make so many versions, untimed."""
        self._bench.load(self.grow(number))

    def check(self) -> None:
        """All versions are there, each the child of the one before, and hold what was written."""
        server, versions = self._bench.server, self._versions
        nodes = json.loads(server.get(f"/api/repo/{versions[0]}/info"))["DAG"]["Nodes"]
        numbers = [nodes[version]["VersionID"] for version in versions]
        expect([nodes[version]["Parents"] for version in versions[1:]] == [[n] for n in numbers[:-1]], "parents")
        expect([nodes[version]["Locked"] for version in versions] == [True] * (len(versions) - 1) + [False], "locks")
        if self._has_keys:
            for number in (0, len(versions) // 2, len(versions) - 1):
                found = server.get(f"/api/node/{versions[number]}/{self._data}/key/a")
                expect(found == self._value(min(number, len(versions) - 2)), f"the key in version {number}")

    def _value(self, number: int) -> bytes:
        return f"written in version {number}".encode()


def _chain(*, has_keys: bool, is_late: bool) -> Callable[[Bench], Iterator[Round]]:
    def plan(bench: Bench) -> Iterator[Round]:
        bench.connections = 1
        for _ in range(ROUNDS):
            chain = Chain(bench, has_keys=has_keys)
            if is_late:
                chain.load(BEFORE)
            yield Round(chain.grow(VERSIONS), VERSIONS, chain.check, unit="versions/s")

    return plan


WORKLOADS: dict[str, Workload] = {
    name: Workload(name, _chain(has_keys=has_keys, is_late=is_late), 1)
    for name, has_keys, is_late in (
        ("versions-empty", False, False),
        ("versions-keys", True, False),
        ("versions-empty-late", False, True),
        ("versions-keys-late", True, True),
    )
}
