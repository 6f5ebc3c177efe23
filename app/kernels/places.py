"""How are block coordinates put in order and grouped? Places are int64 (n, 3) of z, y, x."""

import numpy as np

from app.kernels.arrays import I64

_LARGEST = 1 << 62
_FEW = 2000
"""Up to so many places are ordered as they are; making a number of each would cost more."""


def order(places: I64) -> I64:
    """Return the stable order of places by z, y, x."""
    keys = _keys(places) if len(places) > _FEW else None
    if keys is None:
        return np.lexsort((places[:, 2], places[:, 1], places[:, 0]))
    return np.argsort(keys, kind="stable")


def grouped(places: I64) -> tuple[I64, I64, I64]:
    """Return (the distinct places by z, y, x, the stable order of all, where each of them begins in it and the end)."""
    by = order(places)
    ordered = places[by]
    is_first = np.ones(len(by), bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    starts = np.flatnonzero(is_first)
    return ordered[starts], by, np.append(starts, len(by))


def unique(places: I64) -> I64:
    """Return the distinct places, sorted by z, y, x; the same array if it is so already."""
    keys = _keys(places)
    if keys is None:
        found: I64 = np.unique(places, axis=0)
        return found
    steps = np.diff(keys)
    if (steps > 0).all():
        return places
    if (steps < 0).any():
        by = np.argsort(keys, kind="stable")
        keys, places = keys[by], places[by]
        steps = np.diff(keys)
    distinct: I64 = places[np.concatenate([[True], steps != 0])]
    return distinct


def _keys(places: I64) -> I64 | None:
    """Return one number for each place, in the same order; None where the places spread too far for 64 bits."""
    if not len(places):
        return np.empty(0, np.int64)
    low = places.min(axis=0)
    sides = [int(side) for side in places.max(axis=0) - low + 1]
    if sides[0] * sides[1] * sides[2] >= _LARGEST:
        return None
    z, y, x = (places - low).T
    keys: I64 = (z * sides[1] + y) * sides[2] + x
    return keys
