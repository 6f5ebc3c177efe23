"""What is timed: every workload makes its own repo, loads it, and says which requests to send and what is right."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks import decode, encode
from benchmarks.client import Request, Server, Unanswered, drive
from benchmarks.volumes import SLAB, Volume, flat

CHUNK = 64
POINTS = 1000
ELEMENTS = 1000
VALUE = 1024
DEPTH = 30
NEURONS = 2000
MANY_NEURONS = 200_000
#: Rounds in which so many annotations are new, at most.
NEW_ROUNDS = 10
CLASSES = ("visual", "ascending", "descending", "intrinsic", "motor", "sensory")
SETTLE_SECONDS = 180.0
LABELMAP = {"typename": "labelmap", "BlockSize": "64,64,64", "IndexedLabels": "true", "MaxDownresLevel": "3"}
GREY = {"typename": "uint8blk", "BlockSize": "64,64,64"}

Corner = tuple[int, int, int]
Check = Callable[[], None]


class Wrong(Exception):
    """An answer with status 200 that does not hold what was stored."""


@dataclass(frozen=True)
class Reading:
    """The same requests round and round for the time given."""

    requests: Sequence[Request]
    check: Check


@dataclass(frozen=True)
class Round:
    """A set of requests to send once, and what the server may do after answering them."""

    requests: Sequence[Request]
    amount: int  # of what the rate counts
    check: Check
    settle: Callable[[], bool] | None = None  # waits for work done on the side; says whether it was completed
    unit: str = "voxels/s"


Plan = Reading | Iterator[Round]


@dataclass
class Bench:
    """What a workload works with: the server, the voxels, its own random numbers, its own repo."""

    server: Server
    volume: Volume
    connections: int
    name: str
    notes: list[str] = field(default_factory=list)
    _made: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        body = json.dumps({"alias": f"benchmark {self.name}"}).encode()
        self.root: str = json.loads(self.server.post(self.server.create_repos_path(), body))["root"]

    def instance(self, settings: dict[str, str]) -> str:
        """Create a data instance and return the path below which it answers."""
        self._made += 1
        name = f"{settings['typename']}{self._made}"
        body = json.dumps({**settings, "dataname": name}).encode()
        self.server.post(f"/api/repo/{self.root}/instance", body)
        return f"/api/node/{self.root}/{name}"

    def get(self, path: str, body: bytes | None = None) -> Request:
        return self.server.target.request("GET", path, body)

    def corners(self, size: int, step: int = CHUNK) -> list[Corner]:
        """Return every corner of a box at multiples of `step` within the volume, shuffled."""
        ends = range(0, self.volume.edge - size + 1, step)
        found = [(x, y, z) for z in ends for y in ends for x in ends]
        return [found[i] for i in self.rng.permutation(len(found))]

    def points(self, number: int) -> list[list[int]]:
        drawn: list[list[int]] = self.rng.integers(0, self.volume.edge, (number, 3)).tolist()
        return drawn

    # ------------------------------------------------------------ loading

    def label_slabs(self, data: str) -> list[Request]:
        bodies = enumerate(self.volume.label_slabs)
        return [self._slab(f"{data}/raw/0_1_2/{{}}?compression=lz4", i, body) for i, body in bodies]

    def grey_slabs(self, data: str) -> list[Request]:
        grey = self.volume.grey
        starts = range(0, self.volume.edge, SLAB)
        bodies = (flat(grey[z : z + SLAB]) for z in starts)
        return [self._slab(f"{data}/raw/0_1_2/{{}}", i, body) for i, body in enumerate(bodies)]

    def _slab(self, path: str, number: int, body: bytes | memoryview) -> Request:
        edge = self.volume.edge
        return self.server.target.request("POST", path.format(f"{edge}_{edge}_{SLAB}/0_0_{number * SLAB}"), body)

    def load_labels(self) -> str:
        data = self.instance(LABELMAP)
        self.load(self.label_slabs(data))
        if not self.settled(data):
            self.notes.append("label index not complete after loading")
        return data

    def load_grey(self) -> str:
        data = self.instance(GREY)
        self.load(self.grey_slabs(data))
        return data

    def load(self, requests: Sequence[Request], settle: float = 0.5) -> None:
        outcome = drive(self.server.target, requests, self.connections)
        if outcome.failed:
            raise Unanswered(f"loading failed: {outcome.errors.most_common(1)[0][0]}")
        time.sleep(settle)  # let the server finish what it does on the side

    def settled(self, data: str) -> bool:
        """Wait until the label index counts every voxel; DVID answers a POST before it does."""
        labels = list(self.volume.sizes)
        body, want = json.dumps(labels).encode(), list(self.volume.sizes.values())
        deadline = time.monotonic() + SETTLE_SECONDS
        while json.loads(self.server.get(f"{data}/sizes", body)) != want:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def expect(right: bool, what: str) -> None:
    if not right:
        raise Wrong(what)


# ---------------------------------------------------------------- labels


def _chunks(suffix: str, decoder: Callable[[bytes, int], decode.Labels], largest: int) -> Callable[[Bench], Plan]:
    """Plan to read boxes of raw labels at multiples of 64."""

    def plan(bench: Bench) -> Plan:
        data = bench.load_labels()
        size = min(largest, bench.volume.edge)
        corners = bench.corners(size)
        paths = [f"{data}/raw/0_1_2/{size}_{size}_{size}/{x}_{y}_{z}{suffix}" for x, y, z in corners]

        def check() -> None:
            got = decoder(bench.server.get(paths[0]), size)
            expect(np.array_equal(got, bench.volume.label_box(*corners[0], size)), f"voxels of {paths[0]}")

        return Reading([bench.get(path) for path in paths], check)

    return plan


def _native_blocks(bench: Bench) -> Plan:
    data = bench.load_labels()
    corners = bench.corners(CHUNK)
    paths = [f"{data}/blocks/64_64_64/{x}_{y}_{z}?compression=blocks" for x, y, z in corners]

    def check() -> None:
        place, got = decode.only_block(bench.server.get(paths[0]))
        expect(place == tuple(side // CHUNK for side in corners[0]), f"block coordinates of {paths[0]}")
        expect(np.array_equal(got, bench.volume.label_box(*corners[0], CHUNK)), f"voxels of {paths[0]}")

    return Reading([bench.get(path) for path in paths], check)


def _label_at_point(bench: Bench) -> Plan:
    data = bench.load_labels()
    points = bench.points(4096)
    paths = [f"{data}/label/{x}_{y}_{z}" for x, y, z in points]

    def check() -> None:
        x, y, z = points[0]
        got = json.loads(bench.server.get(paths[0]))
        expect(got == {"Label": int(bench.volume.labels[z, y, x])}, f"label of {paths[0]}: {got}")

    return Reading([bench.get(path) for path in paths], check)


def _labels_at_points(bench: Bench) -> Plan:
    data = bench.load_labels()
    lists = [bench.points(POINTS) for _ in range(64)]
    bodies = [json.dumps(points).encode() for points in lists]

    def check() -> None:
        x, y, z = np.transpose(lists[0])
        got = json.loads(bench.server.get(f"{data}/labels", bodies[0]))
        expect(got == bench.volume.labels[z, y, x].tolist(), "labels of 1000 points")

    return Reading([bench.get(f"{data}/labels", body) for body in bodies], check)


def _label_ingest(bench: Bench) -> Iterator[Round]:
    bench.volume.sizes  # noqa: B018  # counted before anything is timed
    while True:
        data = bench.instance(LABELMAP)

        def settle(data: str = data) -> bool:
            return bench.settled(data)

        def check(data: str = data) -> None:
            """Compare one block, and one of the next scale that two slabs share."""
            x, y, z = bench.corners(CHUNK)[0]
            path = f"{data}/raw/0_1_2/64_64_64"
            got = decode.lz4_labels(bench.server.get(f"{path}/{x}_{y}_{z}?compression=lz4"), CHUNK)
            expect(np.array_equal(got, bench.volume.label_box(x, y, z, CHUNK)), "voxels of scale 0")
            x, y, z = bench.corners(2 * CHUNK, 2 * CHUNK)[0]
            scaled = f"{path}/{x // 2}_{y // 2}_{z // 2}?compression=lz4&scale=1"
            got = decode.lz4_labels(bench.server.get(scaled), CHUNK)
            right = decode.half(bench.volume.label_box(x, y, z, 2 * CHUNK))
            expect(np.array_equal(got, right), "voxels of scale 1")

        yield Round(bench.label_slabs(data), bench.volume.labels.size, check, settle)


# ---------------------------------------------------------------- grey


def _grey_chunks(suffix: str, decoder: Callable[[bytes], decode.Grey], tolerance: float) -> Callable[[Bench], Plan]:
    def plan(bench: Bench) -> Plan:
        data = bench.load_grey()
        corners = bench.corners(CHUNK)
        paths = [f"{data}/raw/0_1_2/64_64_64/{x}_{y}_{z}{suffix}" for x, y, z in corners]

        def check() -> None:
            got = decoder(bench.server.get(paths[0])).reshape(CHUNK, CHUNK, CHUNK)
            off = np.abs(got.astype(int) - bench.volume.grey_box(*corners[0], CHUNK)).mean()
            expect(off <= tolerance, f"voxels of {paths[0]}: off by {off:.2f} on average")

        return Reading([bench.get(path) for path in paths], check)

    return plan


def _grey_slices(bench: Bench) -> Plan:
    data = bench.load_grey()
    edge = bench.volume.edge
    order = bench.rng.permutation(edge).tolist()
    paths = [f"{data}/raw/0_1/{edge}_{edge}/0_0_{z}" for z in order]

    def check() -> None:
        got = decode.image(bench.server.get(paths[0]))
        expect(np.array_equal(got, bench.volume.grey[order[0]]), f"pixels of {paths[0]}")

    return Reading([bench.get(path) for path in paths], check)


def _grey_ingest(bench: Bench) -> Iterator[Round]:
    while True:
        data = bench.instance(GREY)

        def check(data: str = data) -> None:
            x, y, z = bench.corners(CHUNK)[0]
            path = f"{data}/raw/0_1_2/64_64_64/{x}_{y}_{z}"
            got = decode.raw_grey(bench.server.get(path), CHUNK)
            expect(np.array_equal(got, bench.volume.grey_box(x, y, z, CHUNK)), f"voxels of {path}")

        yield Round(bench.grey_slabs(data), bench.volume.grey.size, check)


# ---------------------------------------------------------------- small things


def _keyvalue(bench: Bench, number: int) -> tuple[str, list[str], list[bytes], list[Request]]:
    data = bench.instance({"typename": "keyvalue"})
    keys = [f"key-{number:06d}" for number in bench.rng.permutation(number).tolist()]
    values = [bench.rng.bytes(VALUE) for _ in keys]
    pairs = zip(keys, values, strict=True)
    posts = [bench.server.target.request("POST", f"{data}/key/{key}", value) for key, value in pairs]
    return data, keys, values, posts


def _keyvalue_get(bench: Bench) -> Plan:
    data, keys, values, posts = _keyvalue(bench, 4096)
    bench.load(posts)

    def check() -> None:
        expect(bench.server.get(f"{data}/key/{keys[0]}") == values[0], f"value of {keys[0]}")

    return Reading([bench.get(f"{data}/key/{key}") for key in keys], check)


def _keyvalue_post(bench: Bench) -> Plan:
    data, keys, values, posts = _keyvalue(bench, 32_768)

    def check() -> None:
        bench.server.post(f"{data}/key/{keys[0]}", values[0])
        expect(bench.server.get(f"{data}/key/{keys[0]}") == values[0], f"value of {keys[0]}")

    return Reading(posts, check)


def _deep_keyvalue(bench: Bench) -> tuple[str, dict[str, bytes]]:
    """Return the youngest of a chain of versions, each of which wrote some keys, and what it holds."""
    data = bench.instance({"typename": "keyvalue"})
    name = data.rpartition("/")[2]
    version, held = bench.root, {}
    for depth in range(DEPTH):
        if depth:
            bench.server.post(f"/api/node/{version}/commit", b"{}")
            version = json.loads(bench.server.post(f"/api/node/{version}/newversion", b"{}"))["child"]
        posts = []
        for number in bench.rng.permutation(50 * DEPTH)[:100].tolist():
            key, value = f"key-{number:06d}", bench.rng.bytes(VALUE)
            held[key] = value
            posts.append(bench.server.target.request("POST", f"/api/node/{version}/{name}/key/{key}", value))
        bench.load(posts, settle=0.0)
    return f"/api/node/{version}/{name}", held


def _deep_get(bench: Bench) -> Plan:
    data, held = _deep_keyvalue(bench)
    keys = list(held)

    def check() -> None:
        for key in keys[:5]:
            expect(bench.server.get(f"{data}/key/{key}") == held[key], f"value of {key}")

    return Reading([bench.get(f"{data}/key/{key}") for key in keys], check)


def _deep_keys(bench: Bench) -> Plan:
    data, held = _deep_keyvalue(bench)

    def check() -> None:
        expect(json.loads(bench.server.get(f"{data}/keys")) == sorted(held), "all keys")

    return Reading([bench.get(f"{data}/keys")] * bench.connections, check)


def _neuron(bench: Bench, body: int) -> dict[str, object]:
    """Return an annotation as those of a fly's brain are."""
    kind = int(bench.rng.integers(0, 5000))
    return {
        "bodyid": body,
        "type": f"T{kind}",
        "instance": f"T{kind}_{'LR'[body % 2]}",
        "class": CLASSES[kind % len(CLASSES)],
        "status": "Traced" if body % 3 else "Roughly traced",
        "hemilineage": f"{kind % 40:02d}A",
        "position": bench.rng.integers(0, 40_000, 3).tolist(),
        "pre": kind * 3,
        "description": "seen in both hemispheres, checked twice",
    }


def _neurons(bench: Bench, count: int) -> tuple[str, list[dict[str, object]]]:
    """Load annotations and return where, and what they are, in order of their bodies."""
    data = bench.instance({"typename": "neuronjson"})
    found = [_neuron(bench, 10_000 + 7 * number) for number in range(count)]
    posts = []
    for start in range(0, count, 500):
        pairs = [(str(each["bodyid"]), json.dumps(each).encode()) for each in found[start : start + 500]]
        posts.append(bench.server.target.request("POST", f"{data}/keyvalues?u=bench", encode.key_values(pairs)))
    bench.load(posts)
    return data, found


def _neuron_post(bench: Bench) -> Plan:
    data, found = _neurons(bench, NEURONS)
    posts = []
    for each in found:
        body = json.dumps(
            {"bodyid": each["bodyid"], "status": "Anchor", "note": int(bench.rng.integers(0, 99))}
        ).encode()
        posts.append(bench.server.target.request("POST", f"{data}/key/{each['bodyid']}?u=other", body))

    def check() -> None:
        body = found[0]["bodyid"]
        bench.server.post(f"{data}/key/{body}?u=other", json.dumps({"bodyid": body, "status": "Checked"}).encode())
        got = json.loads(bench.server.get(f"{data}/key/{body}?show=user&fields=status,type"))
        right = {
            "bodyid": body,
            "status": "Checked",
            "status_user": "other",
            "type": found[0]["type"],
            "type_user": "bench",
        }
        expect(got == right, f"annotation of {body}: {got}")

    return Reading(posts, check)


def _neuron_new(bench: Bench) -> Iterator[Round]:
    """Annotations of bodies that have none, beside many that have one."""
    data, _ = _neurons(bench, MANY_NEURONS)
    first = 10_000_000
    for number in range(NEW_ROUNDS):
        made = [_neuron(bench, first + number * NEURONS + place) for place in bench.rng.permutation(NEURONS).tolist()]
        posts = [
            bench.server.target.request("POST", f"{data}/key/{each['bodyid']}?u=bench", json.dumps(each).encode())
            for each in made
        ]

        def check() -> None:
            asked = made[-1]  # noqa: B023
            expect(json.loads(bench.server.get(f"{data}/key/{asked['bodyid']}")) == asked, "a new annotation")

        yield Round(posts, len(posts), check, unit="requests/s")


def _neuron_get(bench: Bench) -> Plan:
    data, found = _neurons(bench, NEURONS)
    order = [found[place] for place in bench.rng.permutation(len(found)).tolist()]

    def check() -> None:
        expect(json.loads(bench.server.get(f"{data}/key/{order[0]['bodyid']}")) == order[0], "one annotation")

    return Reading([bench.get(f"{data}/key/{each['bodyid']}") for each in order], check)


def _neuron_query(count: int) -> Callable[[Bench], Plan]:
    """Plan to ask for types, by name and by pattern, together with another field."""

    def plan(bench: Bench) -> Plan:
        data, found = _neurons(bench, count)
        kinds = [f"T{kind}" for kind in bench.rng.integers(0, 5000, 64).tolist()]
        asked = [{"type": kind} for kind in kinds] + [
            {"instance": f"re/^{kind}_L", "status": "Traced"} for kind in kinds
        ]

        def check() -> None:
            got = json.loads(bench.server.get(f"{data}/query", json.dumps(asked[0]).encode()))
            expect(got == [each for each in found if each["type"] == kinds[0]], f"query {asked[0]}")
            got = json.loads(bench.server.get(f"{data}/query?onlyid=true", json.dumps(asked[-1]).encode()))
            right = [
                each["bodyid"]
                for each in found
                if str(each["instance"]).startswith(f"{kinds[-1]}_L") and each["status"] == "Traced"
            ]
            expect(got == right, f"query {asked[-1]}")

        return Reading([bench.get(f"{data}/query", json.dumps(query).encode()) for query in asked], check)

    return plan


def _neuron_all(count: int) -> Callable[[Bench], Plan]:
    def plan(bench: Bench) -> Plan:
        data, found = _neurons(bench, count)

        def check() -> None:
            got = sorted(json.loads(bench.server.get(f"{data}/all")), key=lambda each: int(each["bodyid"]))
            expect(got == found, "all annotations")

        return Reading([bench.get(f"{data}/all")] * bench.connections, check)

    return plan


def _repos_info(bench: Bench) -> Plan:
    for settings in (LABELMAP, GREY, {"typename": "keyvalue"}, {"typename": "roi"}):
        bench.instance(settings)
    repos = json.loads(bench.server.get("/api/repos/info"))
    bench.notes.append(f"{len(repos)} repos on the server")

    def check() -> None:
        repo = json.loads(bench.server.get("/api/repos/info"))[bench.root]
        expect(len(repo["DataInstances"]) == 4, "data instances in repos/info")

    return Reading([bench.get("/api/repos/info")] * bench.connections, check)


# ---------------------------------------------------------------- annotations


def _synapses(bench: Bench, number: int) -> tuple[str, list[list[list[int]]], list[bytes]]:
    """An annotation instance synced with loaded labels, the points of batches of synapses, and their JSON."""
    labels = bench.load_labels()
    data = bench.instance({"typename": "annotation"})
    bench.server.post(f"{data}/sync", json.dumps({"sync": labels.rpartition("/")[2]}).encode())
    batches = [bench.points(ELEMENTS) for _ in range(number)]
    posts = []
    for batch in batches:
        elements = [
            {
                "Pos": point,
                "Kind": "PostSyn" if index % 4 else "PreSyn",
                "Tags": [],
                "Prop": {"conf": f"0.{index:03d}", "user": "benchmark"},
                "Rels": [{"Rel": "PostSynTo", "To": batch[index - 1]}],
            }
            for index, point in enumerate(batch)
        ]
        posts.append(json.dumps(elements).encode())
    return data, batches, posts


def _posts(bench: Bench, data: str, bodies: Sequence[bytes]) -> list[Request]:
    return [bench.server.target.request("POST", f"{data}/elements", body) for body in bodies]


def _annotation_post(bench: Bench) -> Plan:
    data, batches, bodies = _synapses(bench, 256)

    def check() -> None:
        bench.server.post(f"{data}/elements", bodies[0])
        x, y, z = batches[0][0]
        found = json.loads(bench.server.get(f"{data}/elements/1_1_1/{x}_{y}_{z}"))
        expect([x, y, z] in [element["Pos"] for element in found], f"element at {x}_{y}_{z}")

    return Reading(_posts(bench, data, bodies), check)


def _loaded_synapses(bench: Bench) -> tuple[str, set[tuple[int, ...]]]:
    data, batches, bodies = _synapses(bench, 50)
    bench.load(_posts(bench, data, bodies))
    return data, {tuple(point) for batch in batches for point in batch}


def _annotation_box(bench: Bench) -> Plan:
    data, points = _loaded_synapses(bench)
    paths = [f"{data}/elements/128_128_128/{x}_{y}_{z}" for x, y, z in bench.corners(128)]

    def check() -> None:
        low = [int(part) for part in paths[0].rpartition("/")[2].split("_")]
        inside = {p for p in points if all(a <= b < a + 128 for a, b in zip(low, p, strict=True))}
        expect({tuple(e["Pos"]) for e in json.loads(bench.server.get(paths[0]))} == inside, f"elements of {paths[0]}")

    return Reading([bench.get(path) for path in paths], check)


def _annotation_label(bench: Bench) -> Plan:
    data, points = _loaded_synapses(bench)
    owners: dict[int, set[tuple[int, ...]]] = {}
    for x, y, z in points:
        owners.setdefault(int(bench.volume.labels[z, y, x]), set()).add((x, y, z))
    owners.pop(0, None)
    labels = [list(owners)[index] for index in bench.rng.permutation(len(owners))]

    def check() -> None:
        found = {tuple(e["Pos"]) for e in json.loads(bench.server.get(f"{data}/label/{labels[0]}"))}
        expect(found == owners[labels[0]], f"elements of label {labels[0]}")

    return Reading([bench.get(f"{data}/label/{label}") for label in labels], check)


@dataclass(frozen=True)
class Workload:
    """A name, what it measures, and how much faster than DVID it has to be."""

    name: str
    plan: Callable[[Bench], Plan]
    required: float


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("repos-info", _repos_info, 1),
        Workload("keyvalue-get", _keyvalue_get, 1),
        Workload("keyvalue-post", _keyvalue_post, 1),
        Workload("keyvalue-deep-get", _deep_get, 1),
        Workload("keyvalue-deep-keys", _deep_keys, 5),
        Workload("neuron-post", _neuron_post, 1),
        Workload("neuron-new", _neuron_new, 1),
        Workload("neuron-get", _neuron_get, 1),
        Workload("neuron-query", _neuron_query(NEURONS), 1),
        Workload("neuron-query-many", _neuron_query(MANY_NEURONS), 1),
        Workload("neuron-all", _neuron_all(NEURONS), 1),
        Workload("neuron-all-many", _neuron_all(MANY_NEURONS), 1),
        Workload("label-chunk-googlegzip", _chunks("?compression=googlegzip", decode.gzipped_segmentation, 64), 10),
        Workload("label-chunk-octets", _chunks("", decode.raw_labels, 64), 10),
        Workload("label-blocks-native", _native_blocks, 1),
        Workload("label-256-lz4", _chunks("?compression=lz4", decode.lz4_labels, 256), 10),
        Workload("label-at-point", _label_at_point, 1),
        Workload("labels-1000-points", _labels_at_points, 10),
        Workload("label-ingest", _label_ingest, 5),
        Workload("annotation-post", _annotation_post, 5),
        Workload("annotation-box", _annotation_box, 1),
        Workload("annotation-label", _annotation_label, 1),
        Workload("grey-64-octets", _grey_chunks("", lambda data: decode.raw_grey(data, CHUNK), 0), 1),
        Workload("grey-64-jpeg", _grey_chunks("/jpeg", decode.image, 4), 1.5),
        Workload("grey-slice-png", _grey_slices, 3),
        Workload("grey-ingest", _grey_ingest, 1),
    )
}
