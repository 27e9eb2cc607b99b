"""What the readers of all formats share: where arrays lie, arrays read on demand, levels, voxel sizes and units."""
