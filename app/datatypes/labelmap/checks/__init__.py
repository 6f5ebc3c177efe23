"""Is a labelmap what its voxels say? Index, groups and coarser scales, recomputed, compared and repaired."""
