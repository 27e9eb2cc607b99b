"""Clusters that no label names stay clusters: they are learned beside the classes, from voxels drawn at random."""

import dataclasses

import numpy as np

from his4mae_jax.clustering.centres import Centres
from his4mae_jax.errors import UserError
from his4mae_jax.probe.labels import MOST_CLASSES, Labelled

SPARSE = 0.25  # a cluster counts as labelled from this part on of the labels that its size lets expect
FEWEST = 10  # voxels drawn for a cluster, at least, where the sample has so many


@dataclasses.dataclass(frozen=True)
class WithClusters:
    """Labelled voxels, and voxels of clusters that stay, as a classifier is fitted on them.

    Attributes:
      labelled: the classes first, in their order, then "cluster 3" and so on.
      features_MxD: of its voxels.
      kept: numbers (from 1) of the clusters that stay.
    """

    labelled: Labelled
    features_MxD: np.ndarray
    kept: tuple[int, ...]


def with_clusters(
    labelled: Labelled, features_MxD: np.ndarray, random_Ux3: np.ndarray, random_UxD: np.ndarray, centres: Centres
) -> WithClusters:
    """Adds random voxels of the clusters that have hardly any labels, each cluster as a class of its own.

    A cluster stays if its share of the labels is under a quarter (`SPARSE`) of its share of the volume: a few labels
    of an organelle's border fall into its surroundings' cluster. Of the clusters that stay as many voxels are drawn as
    the others have labels, in proportion to the volume that they take.

    Args:
      labelled: what was labelled.
      features_MxD: of those voxels.
      random_Ux3: voxels drawn at random from the volume.
      random_UxD: their features.
      centres: of the clusters.

    Raises:
      UserError: classes and clusters are fewer than two, or too many.
    """
    of_label, of_random = cluster_of(features_MxD, centres), cluster_of(random_UxD, centres)
    number = int(max(of_label.max(), of_random.max())) + 1
    labels_C, volume_C = (np.bincount(c, minlength=number) / len(c) for c in (of_label, of_random))
    stays_C = (labels_C < SPARSE * volume_C) & (volume_C > 0)
    taken = np.zeros(len(random_Ux3), bool)
    voxels = {tuple(v) for v in labelled.index_Mx3.tolist()}
    free = np.array([tuple(v) not in voxels for v in random_Ux3.tolist()])
    names, parts, classes = list(labelled.names), [np.zeros(0, int)], [labelled.class_M]
    density = len(labelled.class_M) / max(volume_C[~stays_C].sum(), 0.01)  # labels a part of the volume
    for c in np.flatnonzero(stays_C):
        rows = np.flatnonzero((of_random == c) & free & ~taken)
        _, first = np.unique(random_Ux3[rows], axis=0, return_index=True)
        rows = rows[np.sort(first)][: max(FEWEST, round(density * volume_C[c]))]
        if not len(rows):
            continue
        taken[rows] = True
        name = f"cluster {c + 1}"
        names += [] if name in names else [name]
        parts.append(rows)
        classes.append(np.full(len(rows), names.index(name)))
    if len(names) < 2:
        raise UserError(
            f"all labels are {names[0]!r}, and they lie in all clusters: label a second class, or set "
            "probe.keep_clusters to a larger number of clusters"
        )
    if len(names) > MOST_CLASSES:
        raise UserError(f"{len(names)} classes and clusters, but at most {MOST_CLASSES} fit a label volume")
    drawn = np.concatenate(parts)
    return WithClusters(
        Labelled(np.concatenate([labelled.index_Mx3, random_Ux3[drawn]]), np.concatenate(classes), tuple(names)),
        np.concatenate([features_MxD, random_UxD[drawn]]),
        tuple(int(c) + 1 for c in np.flatnonzero(stays_C)),
    )


def cluster_of(features_MxD: np.ndarray, centres: Centres) -> np.ndarray:
    """The cluster (from 0) of each voxel; texture behind its features is left out."""
    scores = centres.linear()
    nearest = (features_MxD[:, : scores.weights_CxD.shape[1]] @ scores.weights_CxD.T + scores.offset_C).argmin(axis=1)
    return nearest if scores.group_C is None else np.asarray(scores.group_C).astype(int)[nearest]
