"""Workloads about bodies: their shapes and sizes, merges and cleaves, and what a giant body costs."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import decode
from benchmarks.client import Request
from benchmarks.workloads import CHUNK, Bench, Plan, Reading, Round, Workload, expect

#: Bodies that are merged into the largest one (three in five at most), and those asked for together.
MERGED, ASKED = 1500, 1000
#: Bodies of middling size: so many, around this share of all bodies by size.
MIDDLING, SHARE = 100, 0.9
#: Edits in one round, and rounds at most: each needs a volume of its own.
EDITS, ROUNDS = 500, 3


def by_size(bench: Bench) -> list[int]:
    """All bodies, the smallest first."""
    sizes = bench.volume.sizes
    return sorted(sizes, key=lambda label: (sizes[label], label))


def middling(bench: Bench) -> list[int]:
    order = by_size(bench)
    middle = int(len(order) * SHARE)
    return order[max(0, middle - MIDDLING // 2) : middle + MIDDLING // 2]


def merge_into_largest(bench: Bench, data: str) -> tuple[int, list[int]]:
    """Merge many bodies into the largest one; return it and them."""
    *others, giant = by_size(bench)
    number = min(MERGED, len(others) * 3 // 5)
    merged = [others[i] for i in bench.rng.permutation(len(others))[:number]]
    bench.server.post(f"{data}/merge", json.dumps([giant, *merged]).encode())
    return giant, merged


# ---------------------------------------------------------------- shapes and sizes


def check_runs(data: bytes, labels: NDArray[np.unsignedinteger], wanted: Sequence[int], voxels: int) -> None:
    """Compare a sparse volume with the dense one: all voxels there, and runs drawn at random of nothing else."""
    expect(data[:4] == bytes([0, 3, 0, 0]), "header of a sparse volume")
    runs = np.frombuffer(data, "<i4", offset=12).reshape(-1, 4)
    expect(len(runs) == struct.unpack_from("<I", data, 8)[0], "number of runs")
    expect(int(runs[:, 3].sum()) == voxels, "voxels of a sparse volume")
    for x, y, z, length in runs[np.random.default_rng(1).integers(0, len(runs), 500)].tolist():
        expect(bool(np.isin(labels[z, y, x : x + length], wanted).all()), f"run at {x}, {y}, {z}")


def _sparsevol(choose: Callable[[Bench], list[int]], *, is_merged: bool = False) -> Callable[[Bench], Plan]:
    def plan(bench: Bench) -> Plan:
        data = bench.load_labels()
        bodies, members = choose(bench), choose(bench)[:1]
        if is_merged:
            giant, merged = merge_into_largest(bench, data)
            bodies, members = [giant], [giant, *merged]
        paths = [f"{data}/sparsevol/{body}" for body in bodies]
        voxels = sum(bench.volume.sizes[label] for label in members)

        def check() -> None:
            check_runs(bench.server.get(paths[0]), bench.volume.labels, members, voxels)

        bench.notes.append(f"{voxels:,} voxels in the first")
        return Reading([bench.get(path) for path in paths], check)

    return plan


def _of_each(path: str, check: Callable[[Bench, int, bytes], None]) -> Callable[[Bench], Plan]:
    """Plan to ask one thing of every body."""

    def plan(bench: Bench) -> Plan:
        data = bench.load_labels()
        bodies = [by_size(bench)[i] for i in bench.rng.permutation(len(bench.volume.sizes))]
        paths = [f"{data}/{path}/{body}" for body in bodies]
        return Reading([bench.get(path) for path in paths], lambda: check(bench, bodies[0], bench.server.get(paths[0])))

    return plan


def _check_coarse(bench: Bench, body: int, data: bytes) -> None:
    runs = np.frombuffer(data, "<i4", offset=12).reshape(-1, 4)
    blocks = {(z, y, x + i) for x, y, z, length in runs.tolist() for i in range(length)}
    right = np.unique(np.argwhere(bench.volume.labels == body) // CHUNK, axis=0)
    expect(blocks == set(map(tuple, right.tolist())), f"blocks of {body}")


def _check_voxels(bench: Bench, body: int, data: bytes) -> None:
    expect(json.loads(data)["voxels"] == bench.volume.sizes[body], f"size of {body}")


def _check_index(bench: Bench, body: int, data: bytes) -> None:
    expect(_field(data, 2) == body, f"label in the index of {body}")


def _field(message: bytes, wanted: int) -> int | None:
    """A number in a protobuf message."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        value = varint()
        if key & 7 == 2:
            at += value
        elif key >> 3 == wanted:
            return value
    return None


def _sizes(bench: Bench) -> Plan:
    data = bench.load_labels()
    order = by_size(bench)
    lists = [[order[i] for i in bench.rng.permutation(len(order))[:ASKED]] for _ in range(64)]
    requests = [bench.get(f"{data}/sizes", json.dumps(labels).encode()) for labels in lists]

    def check() -> None:
        got = json.loads(bench.server.get(f"{data}/sizes", json.dumps(lists[0]).encode()))
        expect(got == [bench.volume.sizes[label] for label in lists[0]], "sizes")

    return Reading(requests, check)


def _chunks_after_edits(bench: Bench) -> Plan:
    data = bench.load_labels()
    giant, merged = merge_into_largest(bench, data)
    cleaved = merged[: len(merged) // 5]
    shown = dict.fromkeys(merged, giant)
    for label in cleaved:
        shown[label] = json.loads(bench.server.post(f"{data}/cleave/{giant}", f"[{label}]".encode()))["CleavedLabel"]
    corners = bench.corners(CHUNK)
    suffix = "?compression=googlegzip"
    paths = [f"{data}/raw/0_1_2/64_64_64/{x}_{y}_{z}{suffix}" for x, y, z in corners]

    def check() -> None:
        got = decode.gzipped_segmentation(bench.server.get(paths[0]), CHUNK)
        before = bench.volume.label_box(*corners[0], CHUNK)
        names, places = np.unique(before, return_inverse=True)
        after = np.array([shown.get(name, name) for name in names.tolist()], np.uint64)[places.reshape(before.shape)]
        expect(np.array_equal(got, after), f"bodies in {paths[0]}")

    return Reading([bench.get(path) for path in paths], check)


# ---------------------------------------------------------------- edits


def _post(bench: Bench, path: str, labels: Sequence[int]) -> Request:
    return bench.server.target.request("POST", path, json.dumps(list(labels)).encode())


def _small_pairs(bench: Bench) -> list[tuple[int, int]]:
    """Bodies to merge in twos, none of them among the largest."""
    small = by_size(bench)[: -max(1, len(bench.volume.sizes) // 20)]
    chosen = [small[i] for i in bench.rng.permutation(len(small))]
    return list(zip(chosen[::2], chosen[1::2], strict=False))[:EDITS]


def _sizes_are(bench: Bench, data: str, right: dict[int, int]) -> None:
    got = json.loads(bench.server.get(f"{data}/sizes", json.dumps(list(right)).encode()))
    expect(got == list(right.values()), "sizes after the edits")


def _merges(clients: int) -> Callable[[Bench], Plan]:
    def plan(bench: Bench) -> Iterator[Round]:
        bench.connections, sizes = clients, bench.volume.sizes
        for _ in range(ROUNDS):
            data, pairs = bench.load_labels(), _small_pairs(bench)
            right = {a: sizes[a] + sizes[b] for a, b in pairs}
            requests = [_post(bench, f"{data}/merge", pair) for pair in pairs]
            yield Round(requests, len(requests), lambda: _sizes_are(bench, data, right), unit="requests/s")  # noqa: B023

    return plan


def _cleaves(clients: int) -> Callable[[Bench], Plan]:
    def plan(bench: Bench) -> Iterator[Round]:
        connections, sizes = bench.connections, bench.volume.sizes
        for _ in range(ROUNDS):
            data, pairs = bench.load_labels(), _small_pairs(bench)
            bench.connections = connections
            bench.load([_post(bench, f"{data}/merge", pair) for pair in pairs])
            bench.connections = clients
            right = {a: sizes[a] for a, _ in pairs}
            requests = [_post(bench, f"{data}/cleave/{a}", [b]) for a, b in pairs]
            yield Round(requests, len(requests), lambda: _sizes_are(bench, data, right), unit="requests/s")  # noqa: B023

    return plan


def _cleave_giant(bench: Bench) -> Iterator[Round]:
    bench.connections, sizes = 1, bench.volume.sizes
    for _ in range(ROUNDS):
        data = bench.load_labels()
        giant, merged = merge_into_largest(bench, data)
        cleaved, rest = merged[:EDITS], merged[EDITS:]
        right = {giant: sizes[giant] + sum(sizes[label] for label in rest)}
        requests = [_post(bench, f"{data}/cleave/{giant}", [label]) for label in cleaved]
        yield Round(requests, len(requests), lambda: _sizes_are(bench, data, right), unit="requests/s")  # noqa: B023


def _merge_giant(bench: Bench) -> Iterator[Round]:
    bench.connections, sizes = 1, bench.volume.sizes
    for _ in range(ROUNDS):
        data = bench.load_labels()
        giant, merged = merge_into_largest(bench, data)
        left = [label for label in by_size(bench) if label not in {giant, *merged}][:EDITS]
        right = {giant: sizes[giant] + sum(sizes[label] for label in [*merged, *left])}
        requests = [_post(bench, f"{data}/merge", [giant, label]) for label in left]
        yield Round(requests, len(requests), lambda: _sizes_are(bench, data, right), unit="requests/s")  # noqa: B023


def _largest(bench: Bench) -> list[int]:
    return by_size(bench)[-1:]


_ALL: list[tuple[str, Callable[[Bench], Any], float]] = [
    ("sparsevol-middling", _sparsevol(middling), 10),
    ("sparsevol-largest", _sparsevol(_largest), 5),
    ("sparsevol-merged", _sparsevol(_largest, is_merged=True), 10),
    ("sparsevol-coarse", _of_each("sparsevol-coarse", _check_coarse), 1),
    ("sparsevol-size", _of_each("sparsevol-size", _check_voxels), 1),
    ("body-size", _of_each("size", _check_voxels), 1),
    ("body-index", _of_each("index", _check_index), 1),
    ("sizes-1000", _sizes, 3),
    ("merge-small", _merges(1), 1),
    ("merge-small-8", _merges(8), 2),
    ("cleave-small", _cleaves(1), 1),
    ("cleave-small-8", _cleaves(8), 2),
    ("cleave-giant", _cleave_giant, 5),
    ("merge-giant", _merge_giant, 5),
    ("label-chunk-after-edits", _chunks_after_edits, 10),
]
WORKLOADS: dict[str, Workload] = {name: Workload(name, plan, required) for name, plan, required in _ALL}
