"""Clusters that stay beside classes: those with hardly any labels, in proportion to the volume they take."""

import numpy as np
import pytest

from his4mae_jax.clustering.centres import Centres
from his4mae_jax.errors import UserError
from his4mae_jax.probe.labels import Labelled
from his4mae_jax.probe.rest import cluster_of, with_clusters

MIDDLES = np.float32([[0, 0], [10, 0], [0, 10]])
CENTRES = Centres(MIDDLES, np.eye(2, dtype=np.float32))


def volume(counts=(600, 300, 100), seed=0):
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(3), counts)
    return rng.integers(0, 100, (len(cluster), 3)), MIDDLES[cluster] + rng.normal(size=(len(cluster), 2)), cluster


def labels(clusters, names=("mito",)):
    of = np.repeat(np.arange(len(clusters)), clusters)
    index = np.stack([200 + np.arange(len(of))] * 3, axis=1)
    return Labelled(index, np.zeros(len(of), int), names), MIDDLES[of] + 0.1


def test_clusters_of_features():
    _, features, cluster = volume()
    np.testing.assert_array_equal(cluster_of(features, CENTRES), cluster)
    merged = Centres(MIDDLES, np.eye(2, dtype=np.float32), np.array([0, 1, 1]))
    np.testing.assert_array_equal(cluster_of(features, merged), np.minimum(cluster, 1))


def test_unlabelled_clusters_stay_as_classes():
    index, features, cluster = volume()
    labelled, own = labels((1, 0, 19))  # of cluster 3, and one at its border
    out = with_clusters(labelled, own, index, features, CENTRES)
    assert out.labelled.names == ("mito", "cluster 1", "cluster 2") and out.kept == (1, 2)
    counts = out.labelled.counts
    assert counts[0] == 20 and counts[1] == pytest.approx(120, abs=2) and counts[2] == pytest.approx(60, abs=2)
    np.testing.assert_array_equal(cluster_of(out.features_MxD[20:], CENTRES), out.labelled.class_M[20:] - 1)
    assert len(np.unique(out.labelled.index_Mx3, axis=0)) == len(out.labelled.index_Mx3)


def test_labelled_clusters_do_not_stay():
    index, features, _ = volume()
    labelled, own = labels((60, 30, 10))
    labelled = Labelled(labelled.index_Mx3, np.arange(100) % 2, ("a", "b"))
    out = with_clusters(labelled, own, index, features, CENTRES)
    assert out.kept == () and out.labelled.names == ("a", "b") and len(out.features_MxD) == 100
    with pytest.raises(UserError, match="all labels are 'mito', and they lie in all clusters"):
        with_clusters(*labels((60, 30, 10)), index, features, CENTRES)


def test_a_cluster_that_was_labelled_by_its_name_is_one_class():
    index, features, _ = volume()
    labelled, own = labels((0, 1, 19), ("cluster 2", "mito"))
    labelled = Labelled(labelled.index_Mx3, np.array([0] + [1] * 19), labelled.names)
    out = with_clusters(labelled, own, index, features, CENTRES)
    assert out.labelled.names == ("cluster 2", "mito", "cluster 1") and out.labelled.counts[0] > 1
