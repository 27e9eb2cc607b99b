"""How large each cluster is and how grey, in one pass over the labels and the image."""

from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.volumes.blocks import boxes_beside, in_order, voxels
from his4mae_jax.data.volumes.contrast import Windowed
from his4mae_jax.data.volumes.grid import centres_nm, nearest_to, read_outer
from his4mae_jax.data.volumes.labels import UNLABELLED
from his4mae_jax.data.volumes.resample import ResampledVolume
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.progress import Log, progress

BLOCK = (64, 256, 256)  # voxels (z, y, x) read at once
WORKERS = 4


def measure(
    labels: VolumeLike, image: VolumeLike, ids: Sequence[int], log: Log
) -> dict[int, tuple[float, float | None]]:
    """Returns, for each label, its fraction of the labelled voxels and the mean grey value of the image under it.

    Memory is that of a few blocks. Where the image has another grid, its voxel next to the centre of each label counts.
    An image that is resampled as it is read counts as it is stored: that takes a third of the time, and the means over
    so many voxels are the same.

    Args:
      labels: uint8 label volume (z, y, x), `UNLABELLED` where there is no label.
      image: the volume that was segmented.
      ids: the labels.
      log: prints one line.

    Raises:
      UserError: a volume cannot be read.
    """
    while isinstance(image, Windowed | ResampledVolume):
        image = image.source
    same = tuple(labels.shape) == tuple(image.shape)
    # Voxels of the image in a block bound the memory, where they are finer than those of the labels.
    finer = [min(1.0, i / n) for i, n in zip(image.voxel_size_nm, labels.voxel_size_nm, strict=True)]
    block = [max(1, round(side * f)) for side, f in zip(BLOCK, finer, strict=True)]

    def read(box: Box) -> tuple[np.ndarray, np.ndarray, int]:
        ids_N = labels.read(box).ravel()
        grey_N = (image.read(box) if same else _nearest(labels, image, box)).ravel()
        return np.bincount(ids_N, minlength=256), np.bincount(ids_N, grey_N, minlength=256), voxels(box)

    counts, sums = np.zeros(256, np.int64), np.zeros(256)
    total = sum(map(voxels, boxes_beside(labels, block, UNLABELLED)))
    with progress("segment: grey values of clusters", total, unit="voxels", log=log) as bar:
        for count, grey, size in in_order(read, boxes_beside(labels, block, UNLABELLED), WORKERS):
            counts, sums = counts + count, sums + grey
            bar.advance(size)
    labelled = max(int(counts[list(ids)].sum()), 1)
    return {i: (counts[i] / labelled, sums[i] / counts[i] if counts[i] else None) for i in ids}


def _nearest(labels: VolumeLike, image: VolumeLike, box: Box) -> np.ndarray:
    """The image on the grid of the labels, by nearest neighbours."""
    at = [centres_nm(labels, axis, np.arange(s.start, s.stop)) for axis, s in enumerate(box)]
    return read_outer(image, [nearest_to(image, axis, position_nm) for axis, position_nm in enumerate(at)])
