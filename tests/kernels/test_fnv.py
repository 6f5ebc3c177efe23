"""FNV-1, 128 bits: published values, and the plain definition over Python's integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.kernels.fnv import fnv1_128


def plain(data: bytes) -> int:
    value = 0x6C62272E07BB014262B821756295C58D
    for byte in data:
        value = value * 0x0000000001000000000000000000013B % (1 << 128) ^ byte
    return value


def test_the_empty_hash_is_the_offset() -> None:
    assert fnv1_128(b"").hex() == "6c62272e07bb014262b821756295c58d"


def test_a_published_value() -> None:
    assert fnv1_128(b"a").hex() == "d228cb69101a8caf78912b704e4a141e"


@given(st.binary(max_size=300))
def test_it_is_the_definition(data: bytes) -> None:
    assert int.from_bytes(fnv1_128(data), "big") == plain(data)
