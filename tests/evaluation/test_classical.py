"""The classical baselines: the right features, no seams, the same labels for the same seed."""

import numpy as np
import pytest
from scipy import ndimage

from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.grid import Line, VoxelMap
from his4mae_jax.data.volumes.in_memory import from_array
from his4mae_jax.data.volumes.labels import IGNORE, UNLABELLED
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation import classical, filters


class ArrayVolume:
    def __init__(self, array, name="cell.tif"):
        self.array, self.name = np.asarray(array), name
        self.shape, self.dtype = self.array.shape, self.array.dtype
        self.voxel_size_nm = (8.0, 8.0, 8.0)

    def read(self, where):
        for part, size in zip(where, self.shape, strict=True):
            assert 0 <= part.start < part.stop <= size, "only boxes inside the volume may be read"
        return self.array[where]


class Grey:
    @staticmethod
    def apply(array):
        return np.asarray(array, np.float32) / np.float32(255)


def noise(shape, seed=0):
    return ArrayVolume(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8))


def textured(shape=(20, 48, 64)):
    """Left half smooth and darker, right half so rough that single grey values overlap."""
    rng = np.random.default_rng(1)
    right = np.zeros(shape, bool)
    right[:, :, shape[2] // 2 :] = True
    array = np.where(right, rng.normal(140, 50, shape), rng.normal(115, 5, shape))
    return ArrayVolume(np.clip(array, 0, 255).astype(np.uint8)), right


def run(volume, kind, counts, **options):
    results = {}

    def out(count, where, labels):
        assert labels.dtype == np.uint8
        if count not in results:
            results[count] = np.full(volume.shape, UNLABELLED, np.uint8)
        target = results[count][where]
        assert (target == UNLABELLED).all() and target.shape == labels.shape
        results[count][where] = labels

    options = {"contrast": Grey, "restarts": 3} | options
    classical.cluster_classical(volume, kind, counts, out, **options)
    return results


@pytest.mark.parametrize("where", [np.s_[0:20, 0:16, 8:40], np.s_[9:21, 20:40, 70:90]])
def test_features_of_a_box_are_those_of_the_whole_volume(where):
    volume = noise((21, 40, 90))  # thinner than the widest filter: reflected more than once
    whole = Grey.apply(volume.array)
    found = filters.features(volume, where, "filters", Grey)
    options = {"mode": "reflect", "truncate": 3.0}
    expected = []
    for name in ("gaussian_filter", "gaussian_gradient_magnitude", "gaussian_laplace"):
        for sigma in (1, 1.6, 3.5, 5, 10):
            expected.append(getattr(ndimage, name)(whole, sigma, **options)[where])
    assert found.shape == (15, *expected[0].shape) and found.dtype == np.float32
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    smooth = filters.features(volume, where, "intensity", Grey)
    np.testing.assert_allclose(smooth[0], expected[0], atol=2e-6)


@pytest.mark.parametrize("kind", ["intensity", "filters"])
def test_blocks_leave_no_seams(kind, monkeypatch):
    volume, _ = textured((24, 60, 70))
    whole = run(volume, kind, [3], block=volume.shape)[3]
    sample = classical._sample(volume, kind, volume.shape, Grey, None, 0, 1e-3)
    # The sample depends on the blocks by design; the same sample must give the same labels.
    monkeypatch.setattr(classical, "_sample", lambda *args: sample)
    tiled = run(volume, kind, [3], block=(10, 32, 20))[3]
    assert np.mean(tiled != whole) < 1e-4  # float ties only


def test_labels_do_not_depend_much_on_the_sample():
    volume, _ = textured()
    whole = run(volume, "filters", [2], block=volume.shape)[2]
    tiled = run(volume, "filters", [2], block=(16, 20, 24))[2]
    assert np.mean(tiled != whole) < 0.02


def test_same_seed_same_labels():
    volume, _ = textured()
    first = run(volume, "filters", [2, 4], seed=5, block=(16, 32, 32))
    second = run(volume, "filters", [4, 2], seed=5, block=(16, 32, 32))
    for count in (2, 4):
        np.testing.assert_array_equal(first[count], second[count])


def test_filters_tell_textures_apart_and_intensity_grey_values():
    volume, right = textured()
    labels = run(volume, "filters", [2])[2] == 2
    assert np.mean(labels == right) > 0.95  # ids run from dark to bright
    assert np.mean((volume.array > 128) == right) < 0.85  # which a threshold cannot do

    bright = ArrayVolume(np.where(right, 180, 60).astype(np.uint8))
    labels = run(bright, "intensity", [2], block=(16, 32, 32))[2]
    np.testing.assert_array_equal(labels, 1 + right)


def test_every_voxel_is_labelled_for_every_number_of_clusters():
    results = run(noise((9, 20, 31)), "intensity", (2, 5), block=(4, 16, 16))
    assert sorted(results) == [2, 5]
    for count, labels in results.items():
        assert set(np.unique(labels)) == set(range(1, count + 1))
    assert list(run(noise((9, 20, 31)), "intensity", 3)) == [3]


def test_masked_voxels_are_not_sampled_but_are_labelled():
    volume, right = textured()
    grey = np.where(right, 200, np.where(np.indices(right.shape)[1] < 24, 50, 80))
    volume = ArrayVolume(grey.astype(np.uint8))
    mask = ArrayVolume(np.where(right, IGNORE, 0).astype(np.uint8), "mask.tif")
    # The bright half is masked out, so the two clusters are the two darks, and it joins one.
    labels = run(volume, "intensity", [2], mask=mask, block=(16, 32, 32))[2]
    assert set(np.unique(labels[:, :20, :28])) == {1}
    assert set(np.unique(labels[:, 28:, :28])) == {2}
    assert (labels[:, :, 36:] == 2).all()


def test_sample_is_spread_in_proportion():
    volume = noise((16, 40, 40))
    block = (16, 40, 30)
    sample = classical._sample(volume, "intensity", block, Grey, None, 0, 0.5)
    assert sample.shape == (12_800, 1) and sample.dtype == np.float32
    assert len(classical._sample(volume, "intensity", block, Grey, None, 0, 1e-3)) == 2_000


def test_what_cannot_be_clustered_is_refused():
    volume = noise((4, 8, 8))
    cases = [
        (dict(kind="edges"), "edges"),
        (dict(counts=[300]), "between 1 and 255"),
        (dict(mask=ArrayVolume(np.zeros((4, 8, 9), np.uint8), "mask.tif")), "mask.tif"),
        (dict(mask=ArrayVolume(np.full((4, 8, 8), IGNORE, np.uint8), "mask.tif")), "mask.tif"),
        (dict(volume=ArrayVolume(np.full((4, 8, 8), 9, np.uint8), "flat.tif")), "flat.tif"),
    ]
    for changes, part in cases:
        arguments = {"volume": volume, "kind": "intensity", "counts": [2]} | changes
        with pytest.raises(UserError, match=part):
            run(**arguments)


def test_on_a_finer_grid_scores_are_interpolated():
    volume = from_array(np.random.default_rng(0).integers(0, 255, (8, 9, 10), np.uint8), 10.0, "noise")
    onto = VoxelMap((16, 18, 20), (Line(-0.25, 0.5),) * 3)
    found = {}
    for grid, shape in ((None, (8, 9, 10)), (onto, onto.shape)):
        labels = np.zeros(shape, np.uint8)

        def out(count, where, block, labels=labels):
            labels[where] = block

        classical.cluster_classical(
            volume, "intensity", 2, out, contrast=Contrast(0, 255), block=(4, 7, 8), onto=grid, log=lambda line: None
        )
        found[grid] = labels
    # Of two clusters the score maps differ by one linear map: it changes its sign where the labels change.
    grey = filters.features(volume, (slice(0, 8), slice(0, 9), slice(0, 10)), "intensity", Contrast(0, 255))[0]
    threshold = (grey[found[None] == 1].max() + grey[found[None] == 2].min()) / 2
    at = np.stack(np.meshgrid(*[np.clip(Line(-0.25, 0.5).at(0, n), 0, n / 2 - 1) for n in onto.shape], indexing="ij"))
    finer = ndimage.map_coordinates(grey, at, order=1)
    clear = np.abs(finer - threshold) > 0.01
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(found[onto][clear], 1 + (finer > threshold)[clear])
