"""annotation: point annotations (synapses, bookmarks, notes), found by place, tag and body."""

from __future__ import annotations

from app.datatypes.annotation import events, labels, merge, reloading
from app.datatypes.datatype import Datatype

DATATYPE = Datatype(
    "annotation", has_tags=True, syncs=labels.TYPES, synced=reloading.synced, merge=merge.merge, events=events.events
)
