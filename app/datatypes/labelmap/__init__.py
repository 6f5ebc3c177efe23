"""labelmap: versioned supervoxels in compressed blocks, an exact index of them, and a mapping to bodies."""

from __future__ import annotations

from typing import Any

from app.core.errors import Invalid
from app.datatypes import voxels
from app.datatypes.config import Config
from app.datatypes.datatype import Datatype
from app.datatypes.labelmap import counters, history, merging
from app.versioning.datastore import Data
from app.versioning.snapshot import Snapshot

#: Blocks are made of sub-blocks of 8 voxels, and DVID asks for at least two of them.
BLOCK_MULTIPLE = 16
MAX_DOWNRES_LEVEL = 255


def settings(config: Config) -> dict[str, Any]:
    """The settings of a new labelmap."""
    if config.text("GridStore"):
        raise Invalid("labels cannot be served from a GridStore; ingest them")
    return {
        **voxels.settings(config, block_size=64, multiple=BLOCK_MULTIPLE),
        "indexed": config.flag("IndexedLabels", True),
        "max_scale": config.integer("MaxDownresLevel", 0, 0, MAX_DOWNRES_LEVEL),
    }


def changed_settings(present: dict[str, Any], config: Config) -> dict[str, Any]:
    """The settings after `POST info`."""
    return {
        **voxels.changed_settings(present, config, BLOCK_MULTIPLE),
        "max_scale": config.integer("MaxDownresLevel", present["max_scale"], 0, MAX_DOWNRES_LEVEL),
    }


async def extended(data: Data, snapshot: Snapshot) -> dict[str, Any]:
    """The `Extended` part of a labelmap's JSON."""
    given = data.instance.settings
    largest = await counters.max_label(snapshot)
    repo_counters = await counters.load(data)
    return {
        **await voxels.extended(data, snapshot, "uint64", "labelmap", False),
        "MaxLabel": {} if largest is None else {str(data.home.number): largest},
        "MaxRepoLabel": repo_counters.largest,
        "NextLabel": repo_counters.last_given,
        **({"NextLabelCeiling": repo_counters.ceiling} if repo_counters.ceiling else {}),
        "IndexedLabels": given["indexed"],
        "MaxDownresLevel": given["max_scale"],
    }


DATATYPE = Datatype(
    "labelmap",
    compression="gzip",
    settings=settings,
    extended=extended,
    messages=history.messages,
    events=history.events,
    has_extents=True,
    has_tags=True,
    syncs=frozenset(),
    merge=merging.merge,
)
