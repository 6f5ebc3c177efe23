"""Labels in bulk: blocks from many clients at once, indices and mappings of whole volumes in bounded memory."""

from __future__ import annotations

import gzip
import re
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import lz4.block
import numpy as np
import pytest

from app.formats.dvid_pb2 import LabelIndex, LabelIndices, MappingOps
from app.kernels import label_block
from tests.api.conftest import make_instance
from tests.running import ADMIN, Server, running

BLOCK = 16
#: Bits for each of z, y, x in the number of a block: a sign and a magnitude.
FIELD = 21
CLIENTS = 8


def stream(blocks: dict[tuple[int, int, int], np.ndarray[Any, np.dtype[np.uint64]]]) -> bytes:
    """Blocks (by z, y, x) as clients post them."""
    parts = []
    for (z, y, x), dense in blocks.items():
        payload = gzip.compress(label_block.encode(dense).tobytes(), 1)
        parts.append(struct.pack("<4i", x, y, z, len(payload)) + payload)
    return b"".join(parts)


def number_of(zyx: tuple[int, ...]) -> int:
    """The number of a block in `LabelIndex`."""
    number = 0
    for value in zyx:
        number = number << FIELD | abs(value) | (value < 0) << (FIELD - 1)
    return number


def at_once(work: Callable[[int], None]) -> None:
    """Run something as so many clients; the first failure is raised."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_clients_post_blocks_at_once(server: Server, client: httpx.Client, root: str) -> None:
    make_instance(client, root, "labelmap", "seg", BlockSize="16,16,16", MaxDownresLevel="1")
    side = 4

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        with httpx.Client(base_url=server.url, timeout=60) as mine:
            for turn in range(4):
                # A plane of its own at first, then places that others write too, in an order of its own.
                places = [(number % side, y, x) for y in range(side) for x in range(side)]
                if turn:
                    places = [tuple(place) for place in random.integers(0, side, (6, 3)).tolist()]
                blocks = {place: random.integers(0, 30, (BLOCK,) * 3).astype(np.uint64) for place in places}
                answer = mine.post(f"/api/node/{root}/seg/blocks?downres=true", content=stream(blocks))
                assert answer.status_code == 200, answer.text

    at_once(work)
    size = side * BLOCK
    raw = client.get(f"/api/node/{root}/seg/raw/0_1_2/{size}_{size}_{size}/0_0_0").content
    labels, numbers = np.unique(np.frombuffer(raw, "<u8"), return_counts=True)
    labels, numbers = labels[labels != 0], numbers[labels != 0]
    listed = client.get(f"/api/node/{root}/seg/listlabels?sizes=true").content
    assert np.frombuffer(listed, "<u8").reshape(-1, 2).tolist() == list(map(list, zip(labels, numbers, strict=True)))
    assert client.get(f"/api/node/{root}/seg/existing-labels").json() == labels.tolist()
    sizes = client.request("GET", f"/api/node/{root}/seg/sizes", json=labels.tolist()).json()
    assert sizes == numbers.tolist()
    assert client.get(f"/api/node/{root}/seg/maxlabel").json() == {"maxlabel": 29}


# ------------------------------------------------------------------ indices and mappings


def posted_indices(bodies: int) -> LabelIndices:
    """Bodies 10, 20, ... of three supervoxels in five blocks each."""
    random = np.random.default_rng(0)
    message = LabelIndices()
    for body in range(10, 10 * bodies + 10, 10):
        index = message.indices.add(label=body, last_mutid=body, last_mod_user="ann")
        for z, y, x in random.integers(-500, 500, (5, 3)).tolist():
            counts = index.blocks[number_of((z, y, x))].counts
            for supervoxel in (body, body + 1, body + 2):
                counts[supervoxel] = 1 + (supervoxel + x) % 1000
    return message


def summed(index: LabelIndex) -> int:
    return sum(number for block in index.blocks.values() for number in block.counts.values())


def check_indices(client: httpx.Client, path: str, message: LabelIndices) -> None:
    labels = [index.label for index in message.indices]
    answered = LabelIndices()
    answered.ParseFromString(client.request("GET", f"{path}/indices", json=[*labels, 5]).content)
    assert list(answered.indices)[:-1] == list(message.indices)
    assert answered.indices[-1] == LabelIndex(label=5)
    packed = client.request("GET", f"{path}/indices-compressed", json=[*labels[:50], 5]).content
    for expected in [*list(answered.indices)[:50], None]:
        size, label = struct.unpack_from("<QQ", packed)
        assert (size == 0, label) == ((True, 5) if expected is None else (False, expected.label))
        if expected is not None:
            found = LabelIndex()
            found.ParseFromString(lz4.block.decompress(packed[17 : 16 + size]))
            assert found == expected
        packed = packed[16 + size :]
    assert not packed
    sizes = client.request("GET", f"{path}/sizes", json=labels).json()
    assert sizes == [summed(index) for index in message.indices]
    assert client.get(f"{path}/existing-labels").json() == labels


def post(client: httpx.Client, path: str, message: Any) -> None:
    answer = client.post(path, content=message.SerializeToString(), timeout=300)
    assert answer.status_code == 200, answer.text


def mappings(rows: int) -> MappingOps:
    """Supervoxels in bodies of ten, in no order."""
    message = MappingOps()
    bodies = np.random.default_rng(1).permutation(rows // 10)
    for number, body in enumerate(bodies.tolist()):
        first = 10_000_000 + 10 * body
        message.mappings.add(mutid=number, mapped=first, original=range(first, first + 10))
    return message


def check_mappings(client: httpx.Client, path: str, rows: int) -> None:
    text = client.get(f"{path}/mappings").text
    table = np.array([line.split() for line in text.splitlines()], np.uint64)
    binary = np.frombuffer(client.get(f"{path}/mappings?format=binary").content, "<u8").reshape(-1, 2)
    assert (table == binary).all()
    ours = table[table[:, 0] >= 10_000_000]
    expected = np.arange(10_000_000, 10_000_000 + rows, dtype=np.uint64)
    expected = expected[expected % 10 != 0]
    assert (ours == np.stack([expected, expected - expected % 10], axis=1)).all()


def test_indices_and_mappings_of_a_volume(server: Server, client: httpx.Client, root: str) -> None:
    make_instance(client, root, "labelmap", "seg")
    path = f"/api/node/{root}/seg"
    message = posted_indices(300)
    post(client, f"{path}/indices", message)
    check_indices(client, path, message)
    post(client, f"{path}/mappings", mappings(2000))
    check_mappings(client, path, 2000)
    assert client.get(f"{path}/mappings").headers["content-type"] == "text/plain"
    # Again, with other bodies: what was posted before is replaced, whichever way it came.
    for index in message.indices:
        index.blocks.pop(min(index.blocks))
    post(client, f"{path}/indices", message)
    check_indices(client, path, message)
    back = MappingOps()
    back.mappings.add(mapped=10_000_001, original=[10_000_001])
    back.mappings.add(mapped=77, original=[10_000_002])
    back.mappings.add(mapped=78, original=[10_000_002])
    post(client, f"{path}/mappings", back)
    found = client.request("GET", f"{path}/mapping", json=[10_000_001, 10_000_002, 10_000_003]).json()
    assert found[1:] == [78, 10_000_000]


def test_places_of_posted_blocks_may_be_negative(client: httpx.Client, root: str) -> None:
    make_instance(client, root, "labelmap", "seg")
    message = LabelIndex(label=3)
    places = [(-1, -2, -3), (0, 0, 0), ((1 << 20) - 1, 5, -(1 << 20) + 1)]
    for place in places:
        message.blocks[number_of(place)].counts[3] = 7
    post(client, f"/api/node/{root}/seg/index/3", message)
    found = LabelIndex()
    found.ParseFromString(client.get(f"/api/node/{root}/seg/index/3").content)
    assert set(found.blocks) == set(map(number_of, places))
    volume = client.get(f"/api/node/{root}/seg/sparsevol-coarse/3").content
    rows = np.frombuffer(volume, "<i4", offset=12).reshape(-1, 4)
    assert sorted((z, y, x) for x, y, z, _ in rows.tolist()) == sorted(places)


def peak(server: Server) -> float:
    """The most memory that the server's process ever had, in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found.group(1)) / 1024


def test_whole_volumes_in_bounded_memory(tmp_path: Path) -> None:
    whole_volume(tmp_path, bodies=3_000, rows=60_000, most=600)


@pytest.mark.torture
def test_large_volumes_in_bounded_memory(tmp_path: Path) -> None:
    whole_volume(tmp_path, bodies=20_000, rows=500_000, most=1000)


def whole_volume(folder: Path, *, bodies: int, rows: int, most: float) -> None:
    with running(str(folder), "--durability", "process") as server:
        with httpx.Client(base_url=server.url, timeout=300) as client:
            root = client.post("/api/repos", params={"admintoken": ADMIN}, json={"alias": "a"}).json()["root"]
            make_instance(client, root, "labelmap", "seg")
            path = f"/api/node/{root}/seg"
            message = posted_indices(bodies)
            for _ in range(2):
                post(client, f"{path}/indices", message)
            check_indices(client, path, message)
            for _ in range(2):
                post(client, f"{path}/mappings", mappings(rows))
            check_mappings(client, path, rows)
        print(f"{peak(server):.0f} MB at most")
        assert peak(server) < most
