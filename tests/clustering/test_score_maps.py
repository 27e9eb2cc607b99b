"""Score maps: distances up to what centres share; probabilities of a mixture of equal spheres."""

import numpy as np
import pytest

from his4mae_jax.clustering import clusters
from his4mae_jax.clustering.centres import Centres
from his4mae_jax.inference.score_maps import probabilities, scores


def test_scores_are_distances_up_to_what_all_centres_share():
    rng = np.random.default_rng(0)
    z, centres = (
        rng.normal(size=(50, 8)).astype(np.float32),
        Centres(*(rng.normal(size=(n, 8)).astype(np.float32) for n in (4, 8))),
    )
    linear = centres.linear()
    maps = np.asarray(scores(z, linear.weights_CxD, linear.offset_C))
    distance = (((z @ centres.projection_DxM)[:, None] - centres.centres_CxM) ** 2).sum(-1)
    shared = distance - maps
    np.testing.assert_allclose(shared, np.broadcast_to(shared[:, :1], shared.shape), atol=1e-3)


@pytest.mark.parametrize("mixture", [False, True])
def test_variance_is_that_within_clusters(mixture):
    """By which probabilities are the softmax of scores; of two far groups with a spread of 0.5."""
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=(n, 3)) * 0.5 + m for n, m in ((3000, 5.0), (1000, -5.0))]).astype(np.float32)
    centres = clusters.from_features(z, 2, 3, 0, np.eye(3, dtype=np.float32), mixture=mixture)
    np.testing.assert_allclose(centres.variance, 0.25, rtol=0.03)
    points = np.float32([[5, 5, 5], [0.02, 0.02, 0.02], [-0.1, 0.0, 0.05]])
    linear = centres.linear()
    maps = scores(points, linear.weights_CxD, linear.offset_C)
    shares = np.asarray(probabilities(maps, (2,), (None,), 0, 2, np.float32(centres.variance)))
    distance = ((points[:, None] - centres.centres_CxM) ** 2).sum(-1)
    log_odds = (distance[:, 1] - distance[:, 0]) / (2 * centres.variance)
    np.testing.assert_allclose(shares[0], 255 * (1 + np.tanh(log_odds / 2)) / 2, atol=1)
    assert shares[:, 0].tolist() == [255, 0] and 128 < shares[0, 1] < 255
