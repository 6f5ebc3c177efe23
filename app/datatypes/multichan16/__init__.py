"""multichan16: a volume of several channels of 8 or 16 bits, such as fluorescence, loaded as a whole.

    c/{channel}{z}{y}{x}    a block of a channel (a byte, from 1), as an image's; none where all voxels are 0
    state/channels          which channels there are: their type, the least and the greatest value of each

The composite, a picture in the colours of the first three channels, is made when it is asked for.
"""

from __future__ import annotations

from app.datatypes.datatype import Datatype
from app.datatypes.multichan16.kept import extended, initial, merge

DATATYPE = Datatype("multichan16", settings=initial, extended=extended, merge=merge)
