"""Scores of volumes of which parts are not stored: those of reading all, without reading what is not stored."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from his4mae_jax.config import get_default
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.volumes.label_grid import resample_labels
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.evaluation import dice
from his4mae_jax.evaluation.baseline import score_baseline

SHAPE, CHUNK = (24, 64, 320), 8


class Known:
    """A volume in memory that knows which of its chunks are stored, or does not, and counts the voxels read."""

    def __init__(self, array, fill, known):
        self.array, self.voxels = array, 0
        self.shape, self.dtype, self.name, self.voxel_size_nm = array.shape, array.dtype, "known", (10.0,) * 3
        parts = (array != fill).reshape([m for n in array.shape for m in (n // CHUNK, CHUNK)]).any(axis=(1, 3, 5))
        self.stored = Stored(tuple(np.arange(n + 1) * CHUNK for n in parts.shape), parts, fill) if known else None

    def read(self, slices):
        box = self.array[slices]
        self.voxels += box.size
        return box


def volumes(fill, known):
    """An image that is stored at two places, and ground truth: at one of them of the image, and at one of its own."""
    rng = np.random.default_rng(0)
    grey, truth = np.zeros(SHAPE, np.uint8), np.full(SHAPE, fill, np.uint8)
    for box in (np.s_[:16, 8:40, 8:40], np.s_[8:, 40:, 40:56]):
        grey[box] = rng.integers(60, 250, grey[box].shape)
    truth[:16, 8:40, 8:40] = 1 + (grey[:16, 8:40, 8:40] > 150)
    truth[:16, 8:40, 200:216] = 1
    return Known(grey, 0, known), Known(truth, fill, known)


@pytest.mark.parametrize("kind", ["intensity", "filters"])
@pytest.mark.parametrize("fill", [0, IGNORE])
@pytest.mark.parametrize("coarser", [False, True])
def test_a_baseline_scores_as_if_all_were_stored(kind, fill, coarser):
    config = get_default()
    config.segment.block, config.segment.restarts, config.segment.clusters = (12, 32, 32), 2, 3
    config.segment.mask_margin = 1
    found, read = [], []
    for known in (True, False):
        image, truth = stored = volumes(fill, known)
        target = Target(image, truth, ("nothing", "dark", "bright"))
        if coarser:
            image = resample(image, 20.0)
            target = Target(image, resample_labels(truth, image), target.class_names, stored)
        with threadpool_limits(1, user_api="blas"):
            scores = score_baseline(kind, config, target, (2, 3), lambda line: None)
        found.append((scores["dsc"], scores["by_clusters"]))
        read.append(np.array([volume.voxels for volume in stored]))
    np.testing.assert_equal(*found)  # NaN of a class that is not there
    assert (read[0] < 0.7 * read[1]).all()


@pytest.mark.parametrize("fill", [0, IGNORE])
def test_what_is_not_stored_counts_without_being_read(fill, monkeypatch):
    monkeypatch.setattr(dice, "BLOCK", (8, 16, 16))
    counts, read = [], []
    for known in (True, False):
        image, truth = volumes(fill, known)
        labels = Known(np.uint8((image.array > 0) + (image.array > 100)), 0, known)
        counts.append(dice.confusion(labels, truth, 2, 3))
        read.append(np.array([labels.voxels, truth.voxels]))
    np.testing.assert_array_equal(*counts)
    assert (counts[0][2, 0] > 0) == (fill == 0)  # class 0 without a prediction
    assert (read[0] < 0.2 * read[1]).all()
