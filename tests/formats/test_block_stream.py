import struct

import pytest

from app.core.errors import Invalid, TooLarge
from app.formats import block_stream

BLOCKS = [((3, 2, -1), b"abc"), ((0, 0, 0), b""), ((-5, 6, 7), bytes(range(100)))]


def test_order_of_header():
    assert block_stream.frame((3, 2, 1), 9) == struct.pack("<4i", 1, 2, 3, 9)


def test_split_undoes_join():
    assert block_stream.split(block_stream.join(BLOCKS), 100) == BLOCKS


@pytest.mark.parametrize("size", [1, 2, 7, 15, 16, 17, 40, 1000])
def test_pieces_of_any_size(size):
    stream, splitter, found = block_stream.join(BLOCKS), block_stream.Splitter(100), []
    for at in range(0, len(stream), size):
        found += [(block, bytes(payload)) for block, payload in splitter.feed(stream[at : at + size])]
    splitter.close()
    assert found == BLOCKS


@pytest.mark.parametrize("cut", [1, 15, 16, 18])
def test_cut_stream_is_refused(cut):
    with pytest.raises(Invalid):
        block_stream.split(block_stream.join(BLOCKS)[:cut], 100)


def test_impossible_sizes_are_refused():
    with pytest.raises(Invalid):
        block_stream.split(struct.pack("<4i", 0, 0, 0, -1), 100)
    with pytest.raises(TooLarge):
        block_stream.split(struct.pack("<4i", 0, 0, 0, 101), 100)
