"""Clusters of features and of codes: scikit-learn's own k-means, mixtures, the order of clusters."""

import numpy as np
import pytest
import sklearn.cluster

from his4mae_jax.clustering import clusters as fits
from his4mae_jax.clustering.kmeans import kmeans, mixture
from his4mae_jax.errors import UserError


@pytest.mark.parametrize("clusters", [2, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_restarts_one_by_one_are_those_of_scikit_learn(clusters, weighted):
    """To the last bit, also where many restarts end in the same clusters in another order."""
    rng = np.random.default_rng(clusters)
    for seed in range(5):
        points = rng.normal(size=(400, 5)).astype(np.float32) + 4 * rng.integers(0, 2, (400, 1))
        weights = rng.uniform(0.1, 3, 400) if weighted else None
        want = sklearn.cluster.KMeans(clusters, init="k-means++", n_init=8, random_state=seed)
        want.fit(points, sample_weight=weights)
        found = kmeans(points, clusters, 8, seed, weights_M=weights)
        np.testing.assert_array_equal(found.centres_CxF, want.cluster_centers_)
        np.testing.assert_array_equal(found.labels_M, want.labels_)
        assert found.inertia == want.inertia_


def test_too_few_samples_are_refused():
    with pytest.raises(UserError, match="segment.fraction"):
        fits.from_features(np.zeros((3, 2)), 4, 1, 0)


def unequal_spheres():
    """3000 and 60 points around (0, 0) and (4, 0), with their labels."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], (3000, 60))
    return (rng.normal(size=(3060, 2)) + label[:, None] * (4.5, 0)).astype(np.float32), label


def test_mixture_centres_stay_with_a_small_cluster():
    z, label = unequal_spheres()
    plain, equal = fits.from_features(z, 2, 5, 0), fits.from_features(z, 2, 5, 0, mixture=True)
    error = [np.abs(c.centres_CxM - [(0, 0), (4.5, 0)]).max() for c in (plain, equal)]
    assert error[1] < 0.4 < 1 < error[0]
    found = np.argmin(((z[:, None] - equal.centres_CxM) ** 2).sum(-1), axis=1)
    assert (found == label).mean() > 0.97


def test_mixture_is_a_fixed_point_of_em_with_free_proportions():
    z, _ = unequal_spheres()
    centres, share, variance = mixture(z, np.array([(-1.0, 0), (3, 0)]), iterations=200)
    np.testing.assert_allclose(share.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(share[1], 60 / 3060, atol=0.01)
    np.testing.assert_allclose(variance, 1, atol=0.05)
    np.testing.assert_allclose(share @ centres, z.mean(axis=0), atol=1e-4)  # nothing is lost
    density = [s * np.exp(-((z - c) ** 2).sum(1) / (2 * variance)) for c, s in zip(centres, share, strict=True)]
    belongs = np.array(density) / np.sum(density, axis=0)
    np.testing.assert_allclose(belongs @ z / belongs.sum(1, keepdims=True), centres, atol=1e-3)


def test_codes_are_grouped_by_weighted_kmeans_largest_first():
    rng = np.random.default_rng(0)
    middles, usage_of = np.array([(0, 9), (9, 0), (-9, -9)]), np.array([2, 30, 7])
    true = rng.integers(0, 3, 300)
    codes = (middles[true] + rng.normal(size=(300, 2))).astype(np.float32)
    usage = usage_of[true] * (rng.uniform(size=300) < 0.8)
    assert (usage == 0).any()  # codes that were never used belong to the nearest group, too
    centres = fits.from_codes(codes, usage, 3, 5, 0)
    np.testing.assert_array_equal(centres.group_C, np.array([2, 0, 1])[true])
    np.testing.assert_array_equal(centres.centres_CxM, codes)
    np.testing.assert_array_equal(centres.projection_DxM, np.eye(2))


def test_heavily_used_codes_pull_the_groups():
    """Five codes on a line: where they are cut in two depends on which are used."""
    codes, cuts = np.arange(5, dtype=np.float32)[:, None] ** 1.2, []
    for usage in ((1000, 1000, 1, 1, 1), (1, 1, 1, 1000, 1000)):
        group = fits.from_codes(codes, usage, 2, 5, 0).group_C
        cuts.append(int(np.flatnonzero(np.diff(group))[0]))
        assert group[np.argmax(usage)] in (0, 1) and np.bincount(group, weights=usage).argmax() == 0
    assert cuts[0] < cuts[1]


def test_with_clusters_enough_each_used_code_is_its_own_label():
    codes = np.array([(0, 0), (5, 0), (5.2, 0), (0, 5)], np.float32)
    for clusters in (3, 4, 254):
        group = fits.from_codes(codes, (10, 0, 40, 20), clusters, 2, 0).group_C
        np.testing.assert_array_equal(group, [2, 0, 0, 1])  # by usage; the second joins the third
    with pytest.raises(UserError, match="segment.clusters is 255"):
        fits.from_codes(codes, (1, 1, 1, 1), 255, 2, 0)
    with pytest.raises(UserError, match="codebook"):
        fits.from_codes(codes, (0, 0, 0, 0), 2, 2, 0)
