"""imageblk: image voxels in blocks, for each version, or read from a published volume.

*Working* images are written by clients: `block/{z}{y}{x}` of the instance's tree holds a block as the block streams
give it away, so these need no decoding. *Published* ones have a `Source`, the URL of an immutable volume in another
format, from which everything is read.
"""

from __future__ import annotations

from app.datatypes.imageblk import kinds
from app.datatypes.imageblk.settings import datatype

DATATYPES = [datatype(kind) for kind in kinds.KINDS]
