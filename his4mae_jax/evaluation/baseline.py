"""Scores of a classical baseline: its labels are counted block by block and not kept."""

import time
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from his4mae_jax.clustering.fit import fit_mask
from his4mae_jax.data.datasets import Target
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

    def add(self, size: int, box: Box, labels: np.ndarray) -> None:
        """Counts one block; ground truth is read once for all sizes of a block, which come in turn."""
        if box != self._box:
            self._box, self._block = box, self._truth.read(box)
        self.confusions[size] += dice.block_confusion(
            labels, self._block, size, self._classes, self._kind, self._truth.name
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
    cluster_classical(
        test.image, kind, sizes, counts.add, contrast=contrast, mask=fit_mask(config, test.labels), seed=config.seed,
        fraction=config.segment.fraction, block=config.segment.block, restarts=config.segment.restarts, onto=test.onto,
        log=log,
    )  # fmt: skip
    seconds = {"segment": time.perf_counter() - began}
    return scores.of_method(counts.confusions, config.segment.clusters, test.class_names, seconds)
