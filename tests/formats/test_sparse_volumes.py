import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import Invalid
from app.formats import sparse_volumes

SPAN = st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 3, st.integers(1, 2**31 - 1)).filter(
    lambda span: span[0] + span[3] <= 2**31
)


@settings(deadline=None)
@given(st.lists(SPAN, min_size=1, max_size=20))
def test_runs_come_back(rows: list[tuple[int, int, int, int]]) -> None:
    runs = np.array(rows, np.int32)
    body = sparse_volumes.encode_runs(runs)
    assert body[:12] == struct.pack("<4B2I", 0, 3, 0, 0, 0, len(rows))
    np.testing.assert_array_equal(sparse_volumes.decode_runs(body), runs)
    counted = body[:4] + struct.pack("<I", 12345) + body[8:]  # DVID does not look at the count of voxels
    np.testing.assert_array_equal(sparse_volumes.decode_runs(memoryview(counted)), runs)


def packed(head: tuple[int, ...] = (0, 3, 0, 0), spans: tuple[tuple[int, ...], ...] = ((1, 2, 3, 4),)) -> bytes:
    return struct.pack("<4B2I", *head, 0, len(spans)) + b"".join(struct.pack("<4i", *span) for span in spans)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        packed()[:11],
        packed((1, 3, 0, 0)),
        packed((0, 2, 0, 0)),
        packed((0, 3, 1, 0)),
        packed()[:-1],
        packed() + b"\0",
        packed()[:8] + struct.pack("<I", 2) + packed()[12:],
        packed(spans=()),
        packed(spans=((1, 2, 3, 4), (0, 0, 0, 0))),
        packed(spans=((1, 2, 3, -4),)),
        packed(spans=((2**31 - 3, 0, 0, 4),)),
    ],
)
def test_bad_sparse_volumes_are_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        sparse_volumes.decode_runs(body)
