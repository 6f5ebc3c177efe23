"""Real and synthetic volumes, and a slow decoder of label blocks that shares nothing with the kernels."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"REAL DATA ABSENT: {name} is not in ../shared/data, this test was not run")
    return path


def fib19() -> tuple[np.ndarray, np.ndarray]:
    """(DVID's own block, its volume)."""
    block = np.frombuffer(gzip.decompress(real("fib19-64x64x64-sample1-block.dat.gz").read_bytes()), np.uint8)
    voxels = gzip.decompress(real("fib19-64x64x64-sample1.dat.gz").read_bytes())
    return block, np.frombuffer(voxels, "<u8").reshape(64, 64, 64)


def slow_decode(data: bytes) -> np.ndarray:
    """Bit by bit, straight from the description of the format."""
    gx, gy, gz, n = struct.unpack_from("<4I", data)
    out = np.zeros((gz, gy, gx, 8, 8, 8), np.uint64)
    if n == 1:
        out[:] = struct.unpack_from("<Q", data, 16)[0]
    elif n > 1:
        header = np.array(struct.unpack_from(f"<{n}Q", data, 16), np.uint64)
        at = 16 + 8 * n
        sizes = struct.unpack_from(f"<{gx * gy * gz}H", data, at)
        at += 2 * len(sizes)
        tables = []
        for size in sizes:
            tables.append(header[list(struct.unpack_from(f"<{size}I", data, at))])
            at += 4 * size
        for i, (size, table) in enumerate(zip(sizes, tables, strict=True)):
            sub = out[i // (gx * gy), i // gx % gy, i % gx]
            if size == 1:
                sub[:] = table[0]
            elif size > 1:
                width = (size - 1).bit_length()
                text = bin(int.from_bytes(b"\1" + data[at : at + 64 * width]))[3:]
                values = [int(text[k : k + width], 2) for k in range(0, 512 * width, width)]
                sub[:] = table[values].reshape(8, 8, 8)
                at += 64 * width
        assert at == len(data)
    return out.transpose(0, 3, 1, 4, 2, 5).reshape(gz * 8, gy * 8, gx * 8)


def synthetic(seed: int, shape: tuple[int, int, int] = (16, 24, 32), density: float = 0.05) -> np.ndarray:
    """A volume of runs, or of noise when ``density`` (the chance of a new label per voxel) is 1."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 2**64, max(1, int(rng.integers(1, 700))), dtype=np.uint64)
    ids[0] = 0
    n = int(np.prod(shape))
    change = np.maximum.accumulate(np.where(rng.random(n) < density, np.arange(n), 0))
    flat = ids[rng.integers(0, len(ids), n)][change]
    volume = flat.reshape(shape)
    if rng.random() < 0.5:  # also structure across rows and planes
        volume[:, 1::2] = volume[:, : shape[1] - 1 : 2]
        volume[1::2] = volume[: shape[0] - 1 : 2]
    if rng.random() < 0.3:
        volume[: shape[0] // 2] = ids[-1]
    return volume
