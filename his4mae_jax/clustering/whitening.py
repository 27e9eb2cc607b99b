"""Directions of the features in which organelles differ more than single tokens do."""

import numpy as np

FEATURE_WEIGHT = 0.25  # of the features' own covariance beside that of noise (docs/results.md)


def noise_whitening(features_MxD: np.ndarray, *noises_MxD: np.ndarray) -> np.ndarray:
    """Projection to the directions in which features say more than noise, the clearest first: P, `(D, D)` float32.

    Most of a token's variance is fine structure of its own patch and of its own slice. Organelles are what neighbouring
    tokens agree on, and what slices across different axes agree on at one point: differences between either are noise.
    Dividing by its covariance weighs each direction by what it says beyond one token (the minimum noise fraction
    transform of Green et al. 1988). Some of the features' own covariance is added to the noise: it bounds how much one
    direction can count, or the strongest contrast, a nucleus against all the rest, takes several clusters before small
    organelles get one. It needs no labels and is linear: labels still come from C score maps.

    Args:
      features_MxD: of random voxels.
      noises_MxD: samples of mean 0; each sample of noise weighs the same.
    """
    covariances = [_covariance(x) for x in noises_MxD]
    total = _covariance(features_MxD - features_MxD.mean(axis=0))
    values, vectors = np.linalg.eigh(np.mean(covariances, axis=0) + FEATURE_WEIGHT * total)
    # Directions that hardly vary at all (LayerNorm removes one) must not be blown up.
    values = np.maximum(values, 1e-3 * values.mean())
    white = vectors / np.sqrt(values)
    _, rotation = np.linalg.eigh(white.T @ total @ white)
    return (white @ rotation[:, ::-1]).astype(np.float32)


def _covariance(x_MxD: np.ndarray) -> np.ndarray:
    """The covariance of samples of mean 0, scaled to trace 1."""
    covariance = x_MxD.T.astype(np.float64) @ x_MxD / max(len(x_MxD), 1)
    return covariance / max(np.trace(covariance), 1e-12)
