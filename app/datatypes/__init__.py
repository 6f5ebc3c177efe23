"""What kinds of data are there? No HTTP and no vendor names; one line for each kind in the registry."""

from __future__ import annotations

from collections.abc import Mapping

from app.datatypes import annotation, imageblk, keyvalue, labelmap, labelsz, neuronjson, roi, tarsupervoxels
from app.datatypes.datatype import Datatype

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
        *imageblk.DATATYPES,
    ]
}
