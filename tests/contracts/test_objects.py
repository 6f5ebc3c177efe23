"""Whole objects are listed and copied out of buckets by gcsfs and s3fs."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest

from app.backends import objects
from app.core.errors import Invalid
from app.ingest.sources import open_source
from tests.conftest import BUCKET


@pytest.fixture(params=["gcs", "s3"])
def bucket(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The beginning of a URL of a fresh prefix, and what ends it."""
    server = request.getfixturevalue(f"{request.param}_server")
    name = f"{BUCKET}/{uuid.uuid4().hex}"
    if request.param == "gcs":
        return f"gs://{name}", ""
    return f"s3://{name}", f"?endpoint={server}&region=us-east-1"


def put(bucket: tuple[str, str], name: str, value: bytes) -> str:
    url = f"{bucket[0]}/{name}{bucket[1]}"
    filesystem, path = objects._open(url)
    filesystem.pipe_file(path, value)
    return url


def test_an_object_is_copied(bucket: tuple[str, str], tmp_path: Path) -> None:
    value = bytes(range(256)) * 40_000
    copied = objects.copy_to(put(bucket, "some/thing.bin", value), tmp_path)
    assert copied.name == "thing.bin"
    assert copied.read_bytes() == value


def test_a_folder_is_copied(bucket: tuple[str, str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(bucket, f"stack/{name}", name.encode())
    copied = objects.copy_to(f"{bucket[0]}/stack{bucket[1]}", tmp_path)
    assert sorted(path.name for path in copied.iterdir()) == ["a", "b"]
    assert (copied / "b").read_bytes() == b"b"


def test_what_is_absent_is_said(bucket: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="does not exist"):
        objects.copy_to(f"{bucket[0]}/nothing{bucket[1]}", tmp_path)


def test_an_array_in_a_bucket_can_be_ingested(bucket: tuple[str, str], tmp_path: Path) -> None:
    volume = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    np.save(tmp_path / "volume.npy", volume)
    source = open_source(put(bucket, "volume.npy", (tmp_path / "volume.npy").read_bytes()))
    assert source.shape == (4, 5, 6)
