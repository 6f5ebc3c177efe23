"""How is every kernel compiled before the first request needs it?

``python -m app.kernels.warm`` fills the cache of numba (next to the modules, or in ``NUMBA_CACHE_DIR``).
"""

import numpy as np

from app.kernels import (
    closest,
    contacts,
    downres,
    entries,
    fnv,
    forests,
    index_messages,
    label_block,
    leaves,
    lz4_labels,
    masks,
    runs,
    segmentation,
    splits,
)


def compile_all() -> None:
    """Call every kernel on tiny inputs, once per variant (contiguous and strided) that callers can reach."""
    volume = np.arange(16 * 16 * 16, dtype=np.uint64).reshape(16, 16, 16) // 700
    strided = np.zeros((16, 16, 32), np.uint64)[:, :, ::2]
    strided[:] = volume
    block = label_block.encode(volume)
    label_block.check(block, (16, 16, 16))
    label_block.decode(block, volume)
    label_block.decode(block, strided)
    label_block.label_at(block, 1, 2, 3)
    label_block.labels_at(block, np.zeros((1, 3), np.int32))
    label_block.counts(block)
    encoded = segmentation.from_block(block)
    segmentation.decode(encoded, (16, 16, 16))
    downres.halve(volume)
    row = np.ones(1, np.uint64), np.ones((1, 3), np.int64), np.ones(1, np.uint32)
    entries.merged(row, row)
    entries.are_ordered(row[0], row[1])
    downres.halve(strided)
    wanted = np.array([1, 2], np.uint64)
    places = np.zeros((1, 3), np.int64)
    found = runs.runs_of_blocks([block], places, (16, 16, 16), wanted)
    runs.paint_runs(found, (0, 0, 0), (16, 16, 16))
    masks.binary_blocks([block], places, (16, 16, 16), wanted)
    corners, bits = leaves.leaves_of_blocks([block], places, (16, 16, 16), wanted)
    cubes = corners, bits, np.array([0, len(corners)])
    closest.closest(cubes, cubes, places[:, :2], (1.0, 1.0, 1.0), 9.0)
    contacts.contacts([block], places, np.ones(1, bool), (16, 16, 16), wanted[:1], wanted[1:])
    index_messages.blocks_message(index_messages.block_numbers(places), wanted[:1], np.ones(1, np.uint32))
    splits.cut(found, (16, 16, 16))
    splits.touched(block, found)
    splits.apply(block, found, wanted, wanted + np.uint64(10), wanted + np.uint64(20))
    fnv.fnv1_128(b"a")
    numbers, slots = np.array([1, 2], np.uint64), np.array([0, 1], np.int64)
    forests.bodies(numbers, numbers, slots, numbers, slots, slots, numbers, slots, slots - 2, numbers)
    lz4_labels.compress(volume)
    lz4_labels.compress_blocks([block] + [None] * 8, (1, 1, 9), (16, 16, 16), (0, 0, 0), (16, 16, 144))


if __name__ == "__main__":
    compile_all()
