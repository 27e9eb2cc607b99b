"""The id that stands for no class and no cluster.

`IGNORE` is the largest uint8, so that class and cluster ids run from 0 to 254. It means

- in a label volume (ground truth): not annotated, or outside the annotated cell. Such a voxel is
  not scored, and cluster centres are fitted without it (`segment.within_mask`).
- in a cluster volume: no prediction. It counts as missed in the class the voxel belongs to.
"""

IGNORE = 255
