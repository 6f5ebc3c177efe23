"""How do we compute on voxels? Arrays in, arrays out; compiled by numba without the GIL; no input or output."""
