"""How do we compute on voxels? Arrays in, arrays out; compiled by numba without the GIL; no input or output.

A kernel that calls one of another module keeps its own compiled copy of it, which numba renews only when the *calling*
file changes: after editing what others call, remove ``__pycache__/*.nb?``.
"""
