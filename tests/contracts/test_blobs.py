"""Blobs on every store."""

from __future__ import annotations

import pytest

from app.backends.store import Store
from app.core.errors import Absent, Invalid
from app.versioning import blobs


@pytest.mark.parametrize("data", [b"", b"some bytes", bytes(1 << 20)], ids=len)
async def test_what_is_put_can_be_read(store: Store, data: bytes) -> None:
    name = await blobs.put(store, data)
    assert len(name) == 24
    assert name.endswith("==")
    assert await blobs.put(store, data) == name
    assert await blobs.get(store, name) == data


async def test_unknown_and_bad_references(store: Store) -> None:
    with pytest.raises(Absent):
        await blobs.get(store, blobs.reference(b"never put"))
    for name in ("", "abc", "../../../etc/passwd", "äöü", "AAAA=="):
        with pytest.raises(Invalid):
            await blobs.get(store, name)
