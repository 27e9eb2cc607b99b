"""Ground truth is compared with its image and its class names, in bounded memory."""

import numpy as np
import pytest
import tifffile

from his4mae_jax.data import label_check
from his4mae_jax.data.label_check import check_labels, check_names, check_run_labels
from his4mae_jax.data.volumes.labels import IGNORE, Foreground
from his4mae_jax.errors import UserError

NAMES = ("background", "mitochondria", "nucleus")


@pytest.fixture
def image(in_memory):
    return in_memory(np.random.default_rng(0).integers(0, 200, (20, 30, 34)).astype(np.uint8), name="image.tif")


@pytest.fixture
def ids():
    return np.random.default_rng(1).choice([0, 1, 2, IGNORE], (20, 30, 34), p=[0.5, 0.3, 0.1, 0.1]).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_rows_are_those_of_the_whole_volume(image, ids, in_memory, monkeypatch, dtype):
    monkeypatch.setattr(label_check, "BLOCK", (8, 16, 16))
    report = check_labels(image, in_memory(ids.astype(dtype)), NAMES)
    assert [row.id for row in report.rows] == [0, 1, 2, IGNORE]
    assert [row.name for row in report.rows] == [*NAMES, "not scored"]
    grey = image.read(...)
    for row in report.rows:
        assert row.voxels == (ids == row.id).sum()
        assert row.fraction == pytest.approx((ids == row.id).mean())
        assert row.mean_grey == pytest.approx(grey[ids == row.id].mean())
    assert report.read_fraction == 1 and not report.problems
    assert "1 mitochondria 30 % (mean grey " in report.summary()


def test_ids_without_a_name_are_errors(image, ids, in_memory):
    (error,) = check_labels(image, in_memory(ids, name="truth.tif"), NAMES[:1]).errors
    assert "truth.tif: holds label ids 1, 2 without a name" in error and "data.binary_labels" in error
    signed = ids.astype(np.int16)
    signed[0, 0, 0] = -3
    report = check_labels(image, in_memory(signed), NAMES)
    assert "label id -3 without" in report.errors[0]
    assert [row.id for row in report.rows if row.name is None] == [-3]


def test_millions_of_instance_ids_are_not_listed(image, in_memory):
    ids = np.arange(20 * 30 * 34, dtype=np.int32).reshape(20, 30, 34)
    report = check_labels(image, in_memory(ids), NAMES)
    assert len(report.errors) == 1 and ", …" in report.errors[0] and len(report.errors[0]) < 500
    assert len(report.rows) < 20 * 30 * 34


def test_names_without_a_voxel_are_warnings(image, ids, in_memory):
    report = check_labels(image, in_memory(ids, name="truth.tif"), (*NAMES, "golgi"))
    assert report.missing == ("golgi",) and not report.errors
    assert "warning: truth.tif: no voxel is labelled 3 (golgi)" in report.warnings[0]
    assert report.rows[3].voxels == 0 and report.rows[3].mean_grey is None
    nothing = check_labels(image, in_memory(np.full(ids.shape, IGNORE, np.uint8)), NAMES)
    assert "no voxel is annotated" in nothing.warnings[0]


def test_a_mask_of_0_and_255_is_an_error(image, ids, in_memory):
    """255 is not scored: such a mask would be scored by its background alone."""
    mask = in_memory(np.where(ids == 1, 255, 0).astype(np.uint8), name="mask.tif")
    report = check_labels(image, mask, ("background", "mitochondria"))
    (error,) = report.errors
    assert "mask.tif: holds the ids 0 and 255 alone" in error and "mitochondria" in error
    assert "data.binary_labels=True" in error and report.missing == ("mitochondria",)
    assert not check_labels(image, Foreground(mask), ("background", "mitochondria")).problems
    empty = check_labels(image, in_memory(np.zeros(ids.shape, np.uint8)), ("background", "mitochondria"))
    assert not empty.errors and "no voxel is labelled 1 (mitochondria)" in empty.warnings[0]
    several = check_labels(image, mask, NAMES)  # a crop of a cell, inside which there may be nothing
    assert not several.errors and "1 (mitochondria), 2 (nucleus)" in several.warnings[0]


def test_another_shape_is_an_error(image, in_memory):
    report = check_labels(image, in_memory(np.zeros((20, 30, 33), np.uint8), name="truth.tif"), NAMES)
    assert "truth.tif" in report.errors[0] and "(20, 30, 33)" in report.errors[0] and "(20, 30, 34)" in report.errors[0]


def test_of_a_large_volume_a_sample_is_read_and_says_so(image, ids, in_memory, monkeypatch):
    monkeypatch.setattr(label_check, "BLOCK", (4, 6, 6))
    monkeypatch.setattr(label_check, "SAMPLE_VOXELS", ids.size // 5)
    boxes = []
    labels = in_memory(ids)
    read = labels.read
    labels.read = lambda box: (boxes.append(box), read(box))[1]
    labels.chunks = (2, 3, 3)
    report = check_labels(image, labels, (*NAMES, "golgi"))
    assert 0.15 < report.read_fraction < 0.25
    assert len(boxes) == len({str(box) for box in boxes})
    assert all(abs(row.fraction - (ids == row.id).mean()) < 0.05 for row in report.rows)
    assert "of the volume that were read" in report.warnings[0] and "in a sample of" in report.summary()
    assert max(box[0].start for box in boxes) >= 16  # spread over the whole volume


def test_names_must_differ():
    check_names(NAMES)
    for names in (("a", "a"), ("a", "mean")):
        with pytest.raises(UserError, match="data.class_names"):
            check_names(names)


@pytest.fixture
def run(tiny, tmp_path, ids):
    """A config of one TIFF with ground truth."""
    tifffile.imwrite(tmp_path / "image.tif", np.random.default_rng(0).integers(1, 200, ids.shape, np.uint8))
    tifffile.imwrite(tmp_path / "truth.tif", ids)
    tiny.data.train, tiny.data.test = (str(tmp_path / "image.tif"),), str(tmp_path / "image.tif")
    tiny.data.test_labels, tiny.data.file_voxel_size_nm = str(tmp_path / "truth.tif"), (8.0, 8.0, 8.0)
    tiny.data.class_names = NAMES
    return tiny


def test_problems_are_reported_before_the_training(run):
    lines = []
    check_run_labels(run, None, lines.append)
    (line,) = lines
    assert "truth.tif: 0 background 50 %" in line and "255 not scored" in line
    run.data.class_names = NAMES[:2]
    with pytest.raises(UserError, match=r"truth.tif: holds label id 2 without.*2 classes.*data.test_labels"):
        check_run_labels(run, None, print)
    run.data.class_names = (*NAMES, "golgi")
    check_run_labels(run, None, lines.append)
    assert lines[-1].startswith("warning: ") and "3 (golgi)" in lines[-1]
    run.data.class_names = ("a", "b", "a")
    with pytest.raises(UserError, match="names must differ"):
        check_run_labels(run, None, print)


def test_training_labels_are_checked_where_they_are_used(run):
    run.data.train_labels, run.data.test_labels, run.data.class_names = (run.data.test_labels,), "", NAMES[:2]
    check_run_labels(run, None, print)  # not used by this method
    run.method = "vit"
    with pytest.raises(UserError, match="config key data.train_labels"):
        check_run_labels(run, None, print)


def test_training_goes_without_the_test_volume(run, tmp_path):
    (tmp_path / "truth.tif").unlink()
    lines = []
    check_run_labels(run, None, lines.append)
    assert not lines
