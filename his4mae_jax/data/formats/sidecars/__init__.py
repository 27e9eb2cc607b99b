"""Files beside a volume that say what its axes or its voxel size are; see `lookup`."""
