"""What kinds of data are there? No HTTP and no vendor names; one line for each kind in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.datatypes import (
    annotation,
    imageblk,
    imagetile,
    keyvalue,
    labelmap,
    labelsz,
    multichan16,
    neuronjson,
    roi,
    tarsupervoxels,
)
from app.datatypes.datatype import Datatype
from app.versioning.datastore import Data
from app.versioning.log import Record

DATATYPES: Mapping[str, Datatype] = {
    datatype.name: datatype
    for datatype in [
        keyvalue.DATATYPE,
        labelmap.DATATYPE,
        neuronjson.DATATYPE,
        roi.DATATYPE,
        annotation.DATATYPE,
        labelsz.DATATYPE,
        tarsupervoxels.DATATYPE,
        imagetile.DATATYPE,
        multichan16.DATATYPE,
        *imageblk.DATATYPES,
    ]
}


async def events(data: Data, record: Record) -> list[dict[str, Any]]:
    """What goes out about a record of an instance's log, as DVID's messages in their order."""
    return await DATATYPES[data.instance.typename].events(data, record)
