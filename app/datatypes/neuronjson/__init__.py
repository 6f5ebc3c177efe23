"""neuronjson: what is known of each body, as a JSON object with who set each field and when; versioned and queried.

Keys of the tree, numbers big-endian so that their order is numeric:

    a/{body}        the annotation of a body, in the form of `documents`
    m/{name}        json_schema, schema, schema_batch: documents about the annotations
    f/times         when fields changed last whose time stamps no annotation holds any more (JSON)
"""

from __future__ import annotations

from app.datatypes.datatype import Datatype
from app.datatypes.neuronjson import merging, writing

DATATYPE = Datatype("neuronjson", version="0.1", has_tags=True, events=writing.events, merge=merging.merge)
