"""Scores of a segmentation against ground truth."""

import os
from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.volumes.blocks import boxes
from his4mae_jax.data.volumes.labels import IGNORE, UNLABELLED
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation.dice import BLOCK, Scores, confusion, one_to_one
from his4mae_jax.library.failures import one_family
from his4mae_jax.library.volumes import to_volume

Labels = str | os.PathLike | VolumeLike | np.ndarray


@one_family
def dice(labels: Labels, truth: Labels, class_names: Sequence[str] | None = None) -> Scores:
    """The Dice similarity coefficient of each class, 2 |A ∩ B| / (|A| + |B|), after matching clusters to classes.

    The matching is one to one (Hungarian), with the largest sum of coefficients, as in the paper's Table 3.

    Args:
      labels: cluster ids 1 to 254 (z, y, x), 0 without a prediction: a path, a volume or an array, as
        `Encoder.segment` returns them.
      truth: class ids 0 to 254, on the grid of `labels`; voxels of 255 are not scored.
      class_names: of the class ids 0, 1, ...; None: "0", "1", ...

    Returns:
      `dsc`, `{class name: coefficient from 0 to 1}` with the "mean" of all classes, and `assignment`, the class id of
      each cluster or None. A class without a voxel in `truth` has NaN and is left out of the mean.

    Raises:
      his4mae_jax.Error: the shapes differ, values are no ids, or an id has no name.
    """
    # Voxel sizes do not matter: 1 nm stands for that of arrays and of files without one.
    labels = to_volume(labels, None if hasattr(labels, "read") else 1.0, "labels", image=False)
    truth = to_volume(truth, None if hasattr(truth, "read") else 1.0, "truth", image=False)
    classes = _largest(truth, IGNORE) + 1
    if class_names is not None and len(class_names) < classes:
        raise UserError(f"{truth.name}: holds label id {classes - 1}, and class_names has {len(class_names)} names")
    names = [str(i) for i in range(classes)] if class_names is None else list(class_names)
    return one_to_one(confusion(labels, truth, _largest(labels, UNLABELLED), len(names)), names)


def _largest(volume: VolumeLike, no_label: int) -> int:
    """The largest id of a label volume beside `no_label`; UserError where ids do not fit 0 to 254."""
    top = 0
    for box in boxes(volume.shape, BLOCK):
        block = volume.read(box)
        ids = block[block != no_label].astype(np.int64)
        if ids.size and (ids.min() < 0 or ids.max() >= IGNORE):
            raise UserError(
                f"{volume.name}: holds ids from {ids.min()} to {ids.max()}; class and cluster ids are 0 to 254"
            )
        top = max(top, int(ids.max()) if ids.size else 0)
    return top
