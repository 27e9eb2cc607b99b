"""Dice similarity coefficient (DSC) of a cluster volume against ground truth.

Clusters carry no names, so scoring first decides which cluster stands for which class:

- `one_to_one`: Hungarian matching on the Dice matrix, one cluster per class. This is the
  headline of the paper's Table 3.
- `many_to_one`: every cluster goes to the class it overlaps most. It needs the labels for more
  than the scoring, so it is reported beside the headline under its own name.

Both start from one `confusion` matrix, counted block by block: memory does not depend on the
size of the volumes.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from his4mae_jax.data.label_check import check_names
from his4mae_jax.data.volumes.blocks import boxes_beside_all, read_known, stored_of, value_beside, voxels
from his4mae_jax.data.volumes.labels import IGNORE, UNLABELLED
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError

BLOCK = (64, 256, 256)  # voxels (z, y, x) counted at once


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores by one way of matching clusters to classes.

    Attributes:
      dsc: class name -> Dice similarity coefficient in [0, 1], and "mean" over the classes.
        A class without a voxel in the ground truth has NaN and is left out of the mean.
      assignment: at position c the class id (an index into `class_names`) of label c + 1, or None.
    """

    dsc: dict[str, float]
    assignment: list[int | None]


def confusion(clusters: VolumeLike, truth: VolumeLike, num_clusters: int, num_classes: int) -> np.ndarray:
    """Counts the scored voxels of every (cluster, class) pair.

    Args:
      clusters: label volume (z, y, x) with ids 1 … num_clusters, and `UNLABELLED` (0) where
        there is no prediction.
      truth: label volume (z, y, x) with class ids 0 … num_classes − 1, and `IGNORE` where nothing
        is annotated: those voxels are not counted.

    Returns:
      int64, (num_clusters + 1, num_classes). Row c is that of label c + 1. The last row is for
      voxels without a prediction: they belong to no cluster, and still count in the size of their class.

    Raises:
      UserError: the shapes differ, or a volume holds ids outside its range.
    """
    if tuple(clusters.shape) != tuple(truth.shape):
        raise UserError(
            f"{clusters.name} has shape {tuple(clusters.shape)} and {truth.name} has shape "
            f"{tuple(truth.shape)} (z, y, x): labels and ground truth must cover the same voxels. "
            "Crop or resample the ground truth to the segmented volume."
        )
    total, beside = np.zeros((num_clusters + 1, num_classes), np.int64), math.prod(truth.shape)
    stored = [stored_of(volume) for volume in (clusters, truth)]
    for box in boxes_beside_all(truth.shape, BLOCK, stored):
        total += block_confusion(
            read_known(clusters, box), read_known(truth, box), num_clusters, num_classes, clusters.name, truth.name
        )
        beside -= voxels(box)
    if beside:  # boxes of which nothing is stored: all their voxels are one pair
        pair = value_beside(clusters), value_beside(truth)
        total += beside * block_confusion(*pair, num_clusters, num_classes, clusters.name, truth.name)
    return total


def block_confusion(
    clusters: np.ndarray,
    truth: np.ndarray,
    num_clusters: int,
    num_classes: int,
    clusters_name: str = "labels",
    truth_name: str = "ground truth",
) -> np.ndarray:
    """The `confusion` of two arrays of one shape; the names are for errors.

    Raises:
      UserError: an array holds ids outside its range.
    """
    truth_ids = np.asarray(truth)
    scored = truth_ids != IGNORE
    truth_ids = truth_ids[scored]
    _check_ids(
        truth_ids,
        num_classes,
        f"{truth_name}: ",
        f"but data.class_names names {num_classes} classes (ids 0 to {num_classes - 1}; "
        f"{IGNORE} = not scored). Give every id a name in data.class_names, or relabel the "
        f"others to {IGNORE}.",
    )
    cluster_ids = np.asarray(clusters)[scored]
    predicted = cluster_ids != UNLABELLED
    _check_ids(
        cluster_ids,
        num_clusters + 1,
        f"{clusters_name}: ",
        f"but {num_clusters} clusters are to be scored (ids 1 to {num_clusters}; "
        f"{UNLABELLED} = no prediction). Score it with the number of clusters it was made with.",
    )
    rows = np.where(predicted, cluster_ids.astype(np.intp) - 1, num_clusters)
    pairs = rows * num_classes + truth_ids.astype(np.intp)
    counts = np.bincount(pairs, minlength=(num_clusters + 1) * num_classes)
    return counts.reshape(num_clusters + 1, num_classes)


def dice_matrix(confusion: np.ndarray) -> np.ndarray:
    """Dice of every cluster with every class: 2 n_ct / (n_c + n_t).

    Args:
      confusion: (C + 1, T) counts, the last row without a prediction (see `confusion`).

    Returns:
      float64, (C, T). An empty cluster has 0 with every class that is there. A class that is
      absent from the ground truth has NaN with every cluster: no segmentation can be good or
      bad at it, and it is left out of the mean.
    """
    counts = np.asarray(confusion, np.float64)
    n_ct = counts[:-1]
    n_c = n_ct.sum(axis=1, keepdims=True)
    n_t = counts.sum(axis=0, keepdims=True)
    present = np.broadcast_to(n_t > 0, n_ct.shape)
    return np.divide(2 * n_ct, n_c + n_t, out=np.full(n_ct.shape, np.nan), where=present)


def one_to_one(confusion: np.ndarray, class_names: Sequence[str]) -> Scores:
    """Hungarian matching on the Dice matrix: one cluster to one class, the largest Dice sum.

    Clusters left over stand for no class, and so does a cluster whose match overlaps it in no
    voxel. A class that no cluster is left for scores 0.

    Args:
      confusion: (C + 1, T) counts, see `confusion`.
      class_names: T names.
    """
    confusion = _checked(confusion, class_names)
    dice = dice_matrix(confusion)
    num_clusters, num_classes = dice.shape
    present = np.flatnonzero(confusion.sum(axis=0))
    # K-means numbers its clusters arbitrarily. Sorting them by their counts makes the choice
    # between two equally good matchings, too, independent of that numbering.
    by_counts = np.lexsort(confusion[:-1].T)
    rows, columns = linear_sum_assignment(dice[by_counts][:, present], maximize=True)

    per_class = np.where(np.isin(np.arange(num_classes), present), 0.0, np.nan)
    assignment: list[int | None] = [None] * num_clusters
    for row, column in zip(rows, columns, strict=True):
        cluster, klass = int(by_counts[row]), int(present[column])
        if dice[cluster, klass] > 0:
            per_class[klass] = dice[cluster, klass]
            assignment[cluster] = klass
    return Scores(_named(per_class, class_names), assignment)


def direct(confusion: np.ndarray, class_names: Sequence[str]) -> Scores:
    """Labels that are class ids already (supervised methods): nothing is matched.

    Args:
      confusion: (T + 1, T) counts, see `confusion`.
      class_names: T names.
    """
    confusion = _checked(confusion, class_names)
    per_class = np.where(confusion.sum(axis=0) > 0, np.diagonal(dice_matrix(confusion)), np.nan)
    return Scores(_named(per_class, class_names), list(range(len(class_names))))


def many_to_one(confusion: np.ndarray, class_names: Sequence[str]) -> Scores:
    """Majority vote: each cluster stands for the class it overlaps most, then Dice per class.

    A tie goes to the lower class id. A cluster without a scored voxel stands for no class, and
    a class that wins no cluster scores 0.

    Args:
      confusion: (C + 1, T) counts, see `confusion`.
      class_names: T names.
    """
    confusion = _checked(confusion, class_names)
    assignment = [int(row.argmax()) if row.any() else None for row in confusion[:-1]]
    num_classes = confusion.shape[1]
    merged = np.zeros((num_classes + 1, num_classes), confusion.dtype)
    for row, klass in zip(confusion[:-1], assignment, strict=True):
        if klass is not None:
            merged[klass] += row
    merged[-1] = confusion[-1]
    return Scores(_named(np.diagonal(dice_matrix(merged)), class_names), assignment)


def _check_ids(ids: np.ndarray, stop: int, subject: str, rest: str) -> None:
    if ids.dtype.kind not in "biu":
        raise UserError(f"{subject}values are {ids.dtype}, but label ids are whole numbers.")
    if ids.size and (ids.min() < 0 or ids.max() >= stop):
        present = np.unique(ids)
        listed = ", ".join(str(i) for i in present[:12]) + (", …" if present.size > 12 else "")
        raise UserError(f"{subject}holds label ids {listed}, {rest}")


def _checked(confusion: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    confusion = np.asarray(confusion)
    if confusion.ndim != 2 or confusion.shape[1] != len(class_names):
        raise ValueError(f"confusion {confusion.shape} does not fit classes {list(class_names)}")
    check_names(class_names)
    return confusion


def _named(per_class: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    present = per_class[~np.isnan(per_class)]
    dsc = {name: float(value) for name, value in zip(class_names, per_class, strict=True)}
    return dsc | {"mean": float(present.mean()) if present.size else float("nan")}
