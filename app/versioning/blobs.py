"""Content-addressed bytes without versions: one store's blobs, shared by all repos in it.

A reference is DVID's: URL-safe base64 of the 128-bit FNV-1 hash, big-endian, so that old references still resolve.
"""

from __future__ import annotations

import base64
import binascii

from app.backends.store import Store
from app.core.errors import Absent, Invalid
from app.kernels.fnv import fnv1_128

_HASH_BYTES = 16


def reference(data: bytes) -> str:
    """The reference of a blob: 24 characters ending in `==`."""
    return base64.urlsafe_b64encode(fnv1_128(data)).decode()


async def put(store: Store, data: bytes) -> str:
    """Keep a blob and return its reference. Bytes that are there already are kept once."""
    name = reference(data)
    await store.create(_path(name), data)
    return name


async def get(store: Store, name: str) -> bytes:
    """The bytes of a reference. `Invalid` if it cannot be one, `Absent` if no blob has it."""
    try:
        is_hash = len(base64.b64decode(name, altchars=b"-_", validate=True)) == _HASH_BYTES
    except (binascii.Error, ValueError):
        is_hash = False
    if not is_hash:
        raise Invalid(f"{name!r} is not the reference of a blob")
    data = await store.read(_path(name))
    if data is None:
        raise Absent(f"no blob {name} found")
    return data


def _path(name: str) -> str:
    return f"blobs/{name[:2]}/{name}"
