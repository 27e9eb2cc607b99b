"""The synthetic beta cell: exact, repeatable, with every class, and not separable by intensity."""

import time

import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from his4mae_jax.data.phantom.cell import CLASSES, make_phantom
from his4mae_jax.data.volumes.labels import IGNORE


@pytest.fixture(scope="module")
def phantom():
    return make_phantom((96, 96, 96), seed=0)


def class_fractions(labels_ZxYxX):
    counts = np.bincount(labels_ZxYxX.ravel(), minlength=IGNORE + 1)[: len(CLASSES)]
    return counts / counts.sum()


def mean_dsc(cluster_N, label_N):
    """Mean Dice over the classes under the best one-to-one match of clusters to classes."""
    a_CxN = cluster_N == np.arange(4)[:, None]
    b_CxN = label_N == np.arange(4)[:, None]
    overlap_CxC = a_CxN.astype(float) @ b_CxN.T
    dice_CxC = 2 * overlap_CxC / (a_CxN.sum(1)[:, None] + b_CxN.sum(1))
    return dice_CxC[linear_sum_assignment(dice_CxC, maximize=True)].mean()


def test_types_and_labels(phantom):
    assert phantom.image_ZxYxX.dtype == phantom.labels_ZxYxX.dtype == np.uint8
    assert phantom.image_ZxYxX.shape == phantom.labels_ZxYxX.shape == (96, 96, 96)
    assert phantom.voxel_size_nm == 16.0
    assert CLASSES == ("unrecognized", "nucleus", "mitochondria", "granules")
    assert set(np.unique(phantom.labels_ZxYxX)) == {0, 1, 2, 3, IGNORE}


def test_same_seed_same_volume_whatever_the_global_state(phantom):
    state = np.random.get_state()
    try:
        np.random.seed(123)
        before = np.random.get_state()[1].copy()
        again = make_phantom((96, 96, 96), seed=0)
        np.testing.assert_array_equal(before, np.random.get_state()[1])
    finally:
        np.random.set_state(state)
    np.testing.assert_array_equal(again.image_ZxYxX, phantom.image_ZxYxX)
    np.testing.assert_array_equal(again.labels_ZxYxX, phantom.labels_ZxYxX)


def test_other_seed_other_cell(phantom):
    other = make_phantom((96, 96, 96), seed=1)
    assert np.mean(other.labels_ZxYxX != phantom.labels_ZxYxX) > 0.05
    assert np.mean(other.image_ZxYxX != phantom.image_ZxYxX) > 0.5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(64, 64, 64), (64, 96, 80), (96, 64, 64)])
def test_every_class_at_small_and_uneven_shapes(shape, seed):
    labels_ZxYxX = make_phantom(shape, seed).labels_ZxYxX
    assert labels_ZxYxX.shape == shape
    assert set(np.unique(labels_ZxYxX)) == {0, 1, 2, 3, IGNORE}
    assert (class_fractions(labels_ZxYxX) > 0.002).all()


@pytest.mark.parametrize("seed", range(3))
def test_class_fractions(seed):
    labels_ZxYxX = make_phantom((96, 96, 96), seed).labels_ZxYxX
    unrecognized, nucleus, mitochondria, granules = class_fractions(labels_ZxYxX)
    assert 0.4 < unrecognized < 0.8
    assert 0.08 < nucleus < 0.35
    assert 0.05 < mitochondria < 0.25
    assert 0.02 < granules < 0.25
    outside = labels_ZxYxX == IGNORE
    assert 0.1 < outside.mean() < 0.7
    corners = outside[::95, ::95, ::95]
    assert corners.any() and not corners.all()


def test_granules_are_many_apart_and_of_real_size():
    counts = {}
    for side in (64, 96, 128):
        labels_ZxYxX = make_phantom((side, side, side), seed=0).labels_ZxYxX
        parts_ZxYxX, counts[side] = ndimage.label(labels_ZxYxX == 3, np.ones((3, 3, 3)))
        boxes = ndimage.find_objects(parts_ZxYxX)
        extents_nm = [16 * (s.stop - s.start) for box in boxes for s in box]
        assert max(extents_nm) <= 400
    # 250-500 at 256 voxels a side is the same density as 31-62 at 128.
    assert counts[64] < counts[96] < counts[128]
    assert 20 <= counts[128] <= 80


def test_mitochondria_are_elongated(phantom):
    parts_ZxYxX, n_parts = ndimage.label(phantom.labels_ZxYxX == 2)
    longest = 0.0
    for part in range(1, n_parts + 1):
        spread = np.cov(np.argwhere(parts_ZxYxX == part).T)
        axes = np.sqrt(np.linalg.eigvalsh(spread))
        longest = max(longest, axes[-1] / axes[0])
    assert longest > 1.8


def test_organelles_keep_apart(phantom):
    # Grown by one voxel, no organelle meets one of another class.
    grown = [ndimage.binary_dilation(phantom.labels_ZxYxX == k) for k in (1, 2, 3)]
    assert np.max(np.sum(grown, axis=0)) == 1


def test_grey_values_overlap(phantom):
    inside = phantom.labels_ZxYxX != IGNORE
    image, label = phantom.image_ZxYxX.astype(np.float32), phantom.labels_ZxYxX[inside][::40]
    means = [image[phantom.labels_ZxYxX == k].mean() for k in range(4)]
    spreads = [image[phantom.labels_ZxYxX == k].std() for k in range(4)]
    assert np.ptp([means[k] for k in (0, 1, 3)]) < min(spreads)
    assert means[2] < min(means[0], means[1], means[3])  # mitochondria are darker, and yet overlap
    shares = [np.histogram(image[phantom.labels_ZxYxX == k], 64, (0, 256))[0] for k in range(4)]
    shares = [share / share.sum() for share in shares]
    assert all(np.minimum(shares[2], shares[k]).sum() > 0.3 for k in (0, 1, 3))
    for grey_ZxYxX in (image, ndimage.gaussian_filter(image, 1)):
        grey_Nx1 = grey_ZxYxX[inside][::40, None]
        cluster = KMeans(4, n_init=10, random_state=0).fit_predict(grey_Nx1)
        assert mean_dsc(cluster, label) < 0.6


def test_the_four_classes_have_their_structure(phantom):
    """Dense cores inside bright halos; mitochondria (cristae) busier than the nucleus."""
    image = ndimage.gaussian_filter(phantom.image_ZxYxX.astype(np.float32), 0.7)
    granule = phantom.labels_ZxYxX == 3
    depth = ndimage.distance_transform_edt(granule)
    assert image[depth > 6].mean() + 25 < image[(depth > 2) & (depth < 4)].mean()
    fine = np.abs(image - ndimage.gaussian_filter(image, 2.5))
    nucleus, mitochondria = (
        fine[ndimage.binary_erosion(phantom.labels_ZxYxX == k, iterations=6)].mean() for k in (1, 2)
    )
    assert nucleus < mitochondria


def test_curtains_and_drift(phantom):
    image = phantom.image_ZxYxX.astype(float)
    # Drift: the slice means wander far more than the noise of a mean of 9216 pixels allows.
    slice_means = image.mean(axis=(1, 2))
    assert slice_means.std() > 1.0
    # Curtains: columns along Y differ from their neighbours more than rows along X do.
    high = image - ndimage.gaussian_filter(image, (0, 3, 3))
    assert high.mean(axis=1).std() > 1.2 * high.mean(axis=2).std()


def test_a_finer_voxel_size_shows_the_same_organelles_larger():
    fine = make_phantom((128, 128, 128), seed=0, voxel_size_nm=8.0)
    assert fine.voxel_size_nm == 8.0
    assert set(np.unique(fine.labels_ZxYxX)) == {0, 1, 2, 3, IGNORE}
    depth = ndimage.distance_transform_edt(fine.labels_ZxYxX == 3)
    assert 14 < depth.max() < 26


def test_fast_enough():
    # 256 cubed must stay under 20 s; this is an eighth of it, in processor time.
    start = time.process_time()
    make_phantom((128, 128, 128), seed=3)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("shape", [(63, 96, 96), (96, 96), (96, 96, 32), (0, 96, 96), (96, 96, 96, 3)])
def test_bad_shape(shape):
    with pytest.raises(ValueError, match="shape"):
        make_phantom(shape)


@pytest.mark.parametrize("voxel_size_nm", [0.0, -16.0, 4.0, float("nan")])
def test_bad_voxel_size(voxel_size_nm):
    with pytest.raises(ValueError, match="nm"):
        make_phantom((96, 96, 96), voxel_size_nm=voxel_size_nm)
