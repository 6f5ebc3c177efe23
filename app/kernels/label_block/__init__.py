"""What is in a DVID compressed label block, and how is one made?

The layout is that of DVID's ``labels.Block`` (Janelia's DVID), as this project's description of DVID's wire
formats gives it. All words are little-endian:

* uint32 gx, gy, gz: the sides in sub-blocks of 8 voxels; uint32 N; N uint64 labels (the *header list*);
* N = 0: a block of zeros, N = 1: a solid block; in both cases nothing follows. Otherwise
* gx·gy·gz uint16: the number n of labels of each sub-block (z outermost, x fastest), 0 for one of zeros;
* for every sub-block its n uint32 indices into the header list;
* for every sub-block with n > 1, 512 values below n of ceil(log2 n) bits, most significant bit first.

Volumes are C order (z, y, x). Everything but :func:`check`, :func:`shape`, :func:`encode` and :func:`solid`
expects a block that :func:`check` has accepted: the compiled code does not look at its sizes again.
"""

from app.kernels.label_block.checking import check
from app.kernels.label_block.counting import counts
from app.kernels.label_block.decoding import decode, decode_box
from app.kernels.label_block.encoding import encode
from app.kernels.label_block.header import labels, relabel, shape, solid
from app.kernels.label_block.points import label_at, labels_at, labels_of_blocks

__all__ = [
    "check",
    "counts",
    "decode",
    "decode_box",
    "encode",
    "label_at",
    "labels",
    "labels_at",
    "labels_of_blocks",
    "relabel",
    "shape",
    "solid",
]
