"""Whitening by noise: what becomes white, what bounds one direction, directions that never vary."""

import numpy as np

from his4mae_jax.clustering import whitening


def test_noise_whitening_weighs_noise_and_the_features_themselves():
    """(mean noise + FEATURE_WEIGHT features) becomes white, each scaled to trace 1; clearest first."""
    rng = np.random.default_rng(0)
    scaled = lambda x: np.cov(x.T, bias=True) / np.trace(np.cov(x.T, bias=True))  # noqa: E731
    features, *noises = (np.float32(rng.normal(size=(5000, 4)) @ rng.normal(size=(4, 4))) for _ in range(3))
    noises = [n - n.mean(axis=0) for n in noises]
    white = whitening.noise_whitening(features + 7, *noises)
    mixed = np.mean([scaled(n) for n in noises], axis=0) + whitening.FEATURE_WEIGHT * scaled(features)
    np.testing.assert_allclose(white.T @ mixed @ white, np.eye(4), atol=1e-3)
    clarity = white.T @ scaled(features) @ white
    np.testing.assert_allclose(clarity, np.diag(np.diag(clarity)), atol=1e-3)
    assert (np.diff(np.diag(clarity)) < 0).all()  # the first columns are the clearest directions
    for_each_scale = whitening.noise_whitening(features, noises[0], 50 * noises[1])
    np.testing.assert_allclose(np.abs(for_each_scale), np.abs(white), rtol=1e-3, atol=1e-4)


def test_no_direction_counts_for_more_than_feature_weight_allows(monkeypatch):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 3)).astype(np.float32) * (3, 1, 1)
    noise = rng.normal(size=(4000, 3)).astype(np.float32) * (0.05, 1, 1)  # the first is nearly free of it

    def clearest():
        z = features @ whitening.noise_whitening(features, noise)
        return np.var(z[:, 0]) / np.trace(np.cov(features.T))

    assert 3.5 < clearest() < 1 / whitening.FEATURE_WEIGHT
    monkeypatch.setattr(whitening, "FEATURE_WEIGHT", 0.0)
    assert clearest() > 100


def test_directions_that_never_vary_stay_finite():
    x = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32) * (1, 1, 1, 0)
    assert np.isfinite(whitening.noise_whitening(x, x)).all()
