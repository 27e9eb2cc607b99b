"""Scores of a classical baseline: its labels are counted block by block and not kept."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from his4mae_jax.clustering.fit import fit_mask
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.volumes.blocks import read_known, stored_of, value_beside, voxels
from his4mae_jax.data.volumes.contrast import estimate_contrast
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.evaluation import dice, scores
from his4mae_jax.evaluation.classical import cluster_classical
from his4mae_jax.progress import Log


class _Counts:
    """Confusion matrices by number of clusters, of blocks that come one after the other."""

    def __init__(self, kind: str, truth: VolumeLike, classes: int, sizes: Sequence[int]):
        self.confusions = {size: np.zeros((size + 1, classes), np.int64) for size in sizes}
        self._kind, self._truth, self._classes = kind, truth, classes
        self._box: Box | None = None
        self._block: np.ndarray | None = None
        self._beside = math.prod(truth.shape)

    def add(self, size: int, box: Box, labels: np.ndarray) -> None:
        """Counts one block; ground truth is read once for all sizes of a block, which come in turn."""
        if box != self._box:
            self._box, self._block = box, read_known(self._truth, box)
            self._beside -= voxels(box)
        self.confusions[size] += dice.block_confusion(
            labels, self._block, size, self._classes, self._kind, self._truth.name
        )

    def add_beside(self, labels: Mapping[int, int]) -> None:
        """Counts the voxels of no block: all have one label, by the number of clusters, and one class."""
        if self._beside:
            truth = value_beside(self._truth)
            for size, label in labels.items():
                self.confusions[size] += self._beside * dice.block_confusion(
                    np.array([label]), truth, size, self._classes, self._kind, self._truth.name
                )


def score_baseline(
    kind: str, config: ml_collections.ConfigDict, test: Target, sizes: Sequence[int], log: Log
) -> dict[str, Any]:
    """Clusters a volume by a classical baseline and scores it.

    Args:
      kind: see `classical.cluster_classical`.
      config: the configuration.
      test: the volume and its ground truth.
      sizes: numbers of clusters.
      log: prints one line.

    Returns:
      See `scores.of_method`.
    """
    contrast = estimate_contrast(
        test.image, percentiles=tuple(config.data.contrast_percentiles), invert=config.data.invert, seed=config.seed
    )
    counts = _Counts(kind, test.output_labels, len(test.class_names), sizes)
    began = time.perf_counter()
    labels_beside = cluster_classical(
        test.image, kind, sizes, counts.add, contrast=contrast, mask=fit_mask(config, test.labels), seed=config.seed,
        fraction=config.segment.fraction, block=config.segment.block, restarts=config.segment.restarts, onto=test.onto,
        compared=stored_of(test.output_labels), log=log,
    )  # fmt: skip
    counts.add_beside(labels_beside)
    seconds = {"segment": time.perf_counter() - began}
    return scores.of_method(counts.confusions, config.segment.clusters, test.class_names, seconds)
