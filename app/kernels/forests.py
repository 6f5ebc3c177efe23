"""Which body does a supervoxel belong to, when supervoxels are members of groups and groups of other groups?

A forest is a sorted table of supervoxels with the slot of each one's group, and for each slot its parent's slot (its
own: a body) and its body. Small tables of late changes, also sorted, take precedence: an edit copies no large ones.
"""

import numpy as np
from numba import njit

from app.kernels.arrays import I64, U64, frozen_c, place_in

#: In `late_slots_of`: the supervoxel is in no group any more.
NOWHERE = -1
#: In `late_parents`: the slot is a body.
TOP = -1


def bodies(
    labels: U64,
    supervoxels: U64,
    slots_of: I64,
    late_supervoxels: U64,
    late_slots_of: I64,
    parents: I64,
    tops: U64,
    late_slots: I64,
    late_parents: I64,
    late_tops: U64,
) -> tuple[U64, bool]:
    """Return the bodies of ``labels`` (uint64, 1-D) and whether any differs from its label.

    ``supervoxels`` and ``late_supervoxels`` are sorted uint64, ``slots_of`` and ``late_slots_of`` their slots, int64.
    ``parents`` (int64) and ``tops`` (uint64) have one entry a slot; ``late_slots`` (sorted int64) names those that
    ``late_parents`` and ``late_tops`` replace, or slots beyond the large table.
    """
    labels = frozen_c(labels, np.uint64, 1, "labels")
    found: tuple[U64, bool] = _bodies(
        labels,
        supervoxels,
        slots_of,
        late_supervoxels,
        late_slots_of,
        parents,
        tops,
        late_slots,
        late_parents,
        late_tops,
    )
    return found


@njit(nogil=True, cache=True)
def _bodies(
    labels: U64,
    supervoxels: U64,
    slots_of: I64,
    late_supervoxels: U64,
    late_slots_of: I64,
    parents: I64,
    tops: U64,
    late_slots: I64,
    late_parents: I64,
    late_tops: U64,
) -> tuple[U64, bool]:
    out = np.empty(len(labels), np.uint64)
    differs = False
    for at in range(len(labels)):
        label = labels[at]
        place = place_in(late_supervoxels, label)
        if place >= 0:
            slot = late_slots_of[place]
        else:
            place = place_in(supervoxels, label)
            slot = slots_of[place] if place >= 0 else np.int64(NOWHERE)
        body = label
        while slot >= 0:
            late = place_in(late_slots, slot)
            if late >= 0:
                if late_parents[late] == TOP:
                    body = late_tops[late]
                    break
                slot = late_parents[late]
            elif parents[slot] == slot:
                body = tops[slot]
                break
            else:
                slot = parents[slot]
        out[at] = body
        differs |= body != label
    return out, differs
