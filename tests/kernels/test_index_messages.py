import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.datatypes.labelmap.index import decode_block_indices
from app.formats.dvid_pb2 import LabelIndex
from app.kernels import index_messages

COORDINATE = st.integers(-(2**20) + 1, 2**20 - 1)
PLACE = st.tuples(COORDINATE, COORDINATE, COORDINATE)
COUNTS = st.dictionaries(st.integers(1, 2**64 - 1), st.integers(1, 2**32 - 1), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.dictionaries(PLACE, COUNTS, max_size=8))
def test_protobuf_reads_the_blocks(blocks: dict[tuple[int, int, int], dict[int, int]]) -> None:
    rows = [(*place, label, count) for place, counts in blocks.items() for label, count in counts.items()]
    places = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
    numbers = index_messages.block_numbers(places)
    order = np.argsort(numbers, kind="stable")
    supervoxels, voxels = np.array([row[3] for row in rows], np.uint64), np.array([row[4] for row in rows], np.uint32)
    message = LabelIndex.FromString(
        index_messages.blocks_message(numbers[order], supervoxels[order], voxels[order]).tobytes()
    )
    decoded = decode_block_indices(np.array(list(message.blocks), np.uint64)).tolist()
    found = {tuple(zyx): dict(block.counts) for zyx, block in zip(decoded, message.blocks.values(), strict=True)}
    assert found == blocks


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError):
        index_messages.block_numbers(np.array([[0, 0, 2**20]]))
    two, one = np.array([2, 1], np.uint64), np.array([1], np.uint32)
    with pytest.raises(ValueError):
        index_messages.blocks_message(two, two, np.array([1, 1], np.uint32))
    with pytest.raises(ValueError):
        index_messages.blocks_message(two[:1], two[:1], np.repeat(one, 2))
