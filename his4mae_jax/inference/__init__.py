"""The encoder over a whole volume: token features, score maps and labels, tile by tile (paper section 3.3).

Terms of this package, with shapes in voxels (z, y, x):

- **Token lattice**: the grid of all tokens of a volume, `(z, y, x, D)`. Along an axis within slices its points lie one
  patch apart, at the middles of patches. Along the axis across which slices are taken its points are the slices:
  every voxel where slices are taken across that axis alone, one a patch where several axes are used. With cover-stride
  every voxel is a lattice point.
- **Coverage**: where fields of view are placed (`coverage.Coverage`): at a stride, with overlaps averaged on the
  lattice (expand-stride, `expand_stride`), or one token for each voxel (cover-stride, `cover_stride`).
- **Tile**: a box of the volume that is labelled at once. It reads a larger box, its halo included. All tiles of a
  volume share one set of array shapes, so that XLA compiles once (`tiling`).
- **Score map**: for one cluster centre, a number at each lattice point, linear in the token's features; the smallest
  of C score maps is the nearest centre (`score_maps`).
- **Round**: the slices that one device encodes at once; a **dispatch** is some rounds on every device
  (`tile_computation`).
"""
