"""Which segmentation belongs to which volume."""

import numpy as np
import pytest

from his4mae_jax.data.datasets import Target
from his4mae_jax.data.volumes.labels import Foreground
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation import dice
from his4mae_jax.evaluation.evaluate import _check_classes, same_volume


def test_relative_absolute_and_linked_names_of_one_file_are_one_volume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cell.tif").touch()
    (tmp_path / "linked").symlink_to("data")
    for name in ("data/cell.tif", "./data/cell.tif", "linked/../data/cell.tif", "linked/cell.tif"):
        assert same_volume(name, str(tmp_path / "data" / "cell.tif"))
    assert not same_volume("data/cell.tif", "data/other.tif")


def test_names_that_are_no_local_path_are_compared_as_text():
    assert same_volume("gs://bucket/cell.zarr", "gs://bucket/cell.zarr")
    assert not same_volume("gs://bucket/cell.zarr", "gs://bucket//cell.zarr")


def test_classes_without_a_voxel_are_told_when_they_are_scored(in_memory):
    """A mask of 0 and 255 is no ground truth of two classes: 255 is not scored."""
    mask = (np.random.default_rng(0).random((6, 7, 8)) < 0.3).astype(np.uint8) * 255
    labels, lines = in_memory(np.ones((6, 7, 8), np.uint8)), []

    def check(truth, names):
        target = Target(labels, truth, names)
        _check_classes(target, dice.confusion(labels, truth, 2, len(names)), lines.append)

    with pytest.raises(UserError, match="mask.tif: holds the ids 0 and 255 alone.*data.binary_labels=True"):
        check(in_memory(mask, name="mask.tif"), ("background", "mitochondria"))
    check(Foreground(in_memory(mask)), ("background", "mitochondria"))
    assert not lines
    check(Foreground(in_memory(mask, name="mask.tif")), ("background", "mitochondria", "golgi"))
    assert lines.pop().startswith("warning: mask.tif: no voxel is labelled 2 (golgi)")
