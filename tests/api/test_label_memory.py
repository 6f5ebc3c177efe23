"""The memory of a server that answered every query about a real segmentation, with a body of fifteen hundred merged."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.running import Server, running

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT.parent / "shared" / "data" / "connectomics-512.npz"
SIDE, BLOCK = 512, 64
MOST_MB = 1000.0
CLIENTS = 8

Asked = tuple[str, dict[str, Any], Any]


def megabytes(server: Server, what: str) -> float:
    """`VmRSS`: the memory that the server's process has now; `VmHWM`: the most that it ever had."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) / 1024


def corners(scale: int, step: int) -> Iterator[str]:
    """Offsets x_y_z of boxes that tile the volume at a scale."""
    places = range(0, SIDE >> scale, step)
    return (f"{x}_{y}_{z}" for z, y, x in product(places, places, places))


def voxels() -> Iterator[Asked]:
    """Chunks of every scale in every encoding, larger boxes, slices, blocks, points, plain views."""
    for scale, packed, supervoxels in product(range(4), ("", "lz4", "gzip", "google", "googlegzip"), ("false", "true")):
        query = {"scale": scale, "compression": packed, "supervoxels": supervoxels}
        for corner in corners(scale, BLOCK):
            yield f"raw/0_1_2/{BLOCK}_{BLOCK}_{BLOCK}/{corner}", query, None
    for packed, corner in product(("lz4", "googlegzip"), corners(0, 256)):
        yield f"raw/0_1_2/256_256_256/{corner}", {"compression": packed}, None
    for place in range(0, SIDE, 8):
        yield f"raw/0_1/{SIDE}_{SIDE}/0_0_{place}", {}, None
        yield f"raw/0_2/{SIDE}_{SIDE}/0_{place}_0", {}, None
        yield f"isotropic/1_2/{SIDE}_{SIDE}/{place}_0_0", {}, None
        yield f"pseudocolor/0_1/{SIDE}_{SIDE}/0_0_{place}", {}, None
    for packed, corner in product(("blocks", "lz4", "gzip", "uncompressed"), corners(0, 128)):
        yield f"blocks/128_128_128/{corner}", {"compression": packed}, None
    for scale, place in product(range(4), range(8)):
        rows = [f"{x >> scale},{y >> scale},{place >> scale}" for y, x in product(range(8), range(8))]
        yield "specificblocks", {"blocks": ",".join(rows), "scale": scale}, None
    for scale, (z, y, x) in product(range(4), product(range(8), range(8), range(8))):
        box = "_".join(f"{BLOCK * a}-{BLOCK * a + BLOCK}" for a in (x, y, z))
        if max(x, y, z) < 8 >> scale:
            yield f"precomputed/s{scale}/{box}", {}, None
            yield f"zarr/s{scale}/c/{z}/{y}/{x}", {}, None
    random = np.random.default_rng(0)
    for _ in range(50):
        yield "labels", {}, random.integers(0, SIDE, (1000, 3)).tolist()


def shapes(bodies: Sequence[int]) -> Iterator[Asked]:
    """Bodies in every form, from the largest on."""
    for body, form, packed in product(bodies, ("rles", "srles", "blocks"), ("", "lz4", "gzip")):
        yield f"sparsevol/{body}", {"format": form, "compression": packed if form != "blocks" else ""}, None
    for body, scale in product(bodies, (1, 2, 3)):
        yield f"sparsevol/{body}", {"scale": scale}, None
        yield f"fvdb/{body}", {"scale": scale}, None
    for body in bodies:
        yield f"fvdb/{body}", {}, None
        for name in ("sparsevol-coarse", "sparsevol-size", "index", "supervoxels", "supervoxel-sizes", "lastmod"):
            yield f"{name}/{body}", {}, None
        yield f"sparsevol/{body}", {"minx": 100, "maxx": 300, "miny": 50, "exact": "false"}, None
    for one, other in pairwise(bodies[:20]):
        yield f"proximity/{one}/{other}", {}, None


def tables(bodies: Sequence[int]) -> Iterator[Asked]:
    """Everything that is about all bodies."""
    labels = list(bodies)
    for name in ("existing-labels", "listlabels", "mappings", "map-stats", "mutations", "index-arrow", "mapping-arrow"):
        yield name, {}, None
    yield "listlabels", {"sizes": "true"}, None
    yield f"sparsevols-coarse/{min(labels)}/{max(labels)}", {}, None
    for start in range(0, len(labels), 1000):
        for name in ("indices", "indices-compressed", "sizes", "mapping"):
            yield name, {}, labels[start : start + 1000]
    for body in labels:
        yield f"size/{body}", {}, None
        yield f"sparsevol-size/{body}", {}, None


def ask_all(url: str, asked: Sequence[Asked]) -> int:
    """Send requests as several clients; the bytes that came."""

    def lane(number: int) -> int:
        size = 0
        with httpx.Client(base_url=url, timeout=300) as client:
            for path, query, body in asked[number::CLIENTS]:
                with client.stream("GET", path, params=query, **({} if body is None else {"json": body})) as answer:
                    assert answer.status_code == 200, (answer.status_code, path, query, answer.read()[:200])
                    size += sum(map(len, answer.iter_raw()))
        return size

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(lane, range(CLIENTS)))


def by_size(client: httpx.Client, url: str) -> list[int]:
    """All bodies, the largest first."""
    listed = np.frombuffer(client.get(f"{url}listlabels?sizes=true").content, "<u8").reshape(-1, 2)
    found: list[int] = listed[np.argsort(-listed[:, 1].astype(np.int64))][:, 0].tolist()
    return found


@pytest.mark.torture
def test_a_server_stays_small(tmp_path: Path) -> None:
    if not SAMPLE.exists():
        pytest.skip(f"{SAMPLE} is not beside this checkout: memory was not measured")
    store = str(tmp_path)
    command = [sys.executable, "-c", "from app.cli import main; main()", "ingest", f"{SAMPLE}:labels"]
    subprocess.run([*command, "--to", "big/seg", "--store", store, "--durability", "process", "--quiet"], check=True)
    with running(store, "--durability", "process") as server, httpx.Client(timeout=300) as client:
        root = next(iter(client.get(f"{server.url}/api/repos/info").json()))
        url = f"{server.url}/api/node/{root}/seg/"
        bodies = by_size(client, url)
        merged = bodies[100:1600]
        for start in range(0, len(merged), 10):
            client.post(f"{url}merge", json=[bodies[0], *merged[start : start + 10]]).raise_for_status()
        told = [("merges", megabytes(server, "VmRSS"))]
        for _ in range(2):
            left = by_size(client, url)
            rounds = (("voxels", voxels()), ("shapes", shapes(left[:50])), ("tables", tables(left)))
            for name, asked in rounds:
                ask_all(url, list(asked))
                told.append((name, megabytes(server, "VmRSS")))
            for body in left[10:30]:  # what was remembered is brought forward
                client.post(f"{url}merge", json=[bodies[0], body]).raise_for_status()
        told.append(("at most", megabytes(server, "VmHWM")))
        print(", ".join(f"{name} {size:.0f} MB" for name, size in told))
        assert max(size for _, size in told) < MOST_MB, told
