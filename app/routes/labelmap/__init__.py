"""Endpoints of labelmap instances: voxels, bodies and bulk data."""
