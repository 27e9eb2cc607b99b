"""What `probe_labels.py` compares the probe with: scikit-learn's classifiers on the same features, fitted by hand."""

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from his4mae_jax.probe import cuts
from his4mae_jax.probe.folds import scorable_folds, spatial_folds

STRENGTHS = tuple(10.0**power for power in range(-4, 2))  # of LogisticRegression's C
BLOCK, FOLDS = 64, 5  # the defaults of `probe.block` and `probe.folds`

Predict = Callable[[np.ndarray], np.ndarray]  # features (M, D) to classes (M,)


def fit_by_hand(
    z: np.ndarray, classes: np.ndarray, index: np.ndarray, unlabelled: np.ndarray, seed: int, *, as_probe: bool
) -> Predict:
    """Logistic regression on standardised features, its C by the smallest loss of cross-validation.

    Args:
      z: features of labelled voxels `(M, D)`.
      classes: of these, 0 to K - 1.
      index: where they lie `(M, 3)`; folds are blocks of space.
      unlabelled: features of random voxels `(U, D)`.
      seed: of the folds.
      as_probe: with the probe's weights of labels and its cuts; else plain: labels count alike, and no cut is moved.
    """
    weights = np.bincount(classes)[classes] ** -0.5 if as_probe else np.ones(len(classes))
    weights = weights / weights.mean()
    folds = spatial_folds(index, classes, BLOCK, FOLDS, seed)
    tested, best = scorable_folds(folds, classes), (np.inf, 0.01, None)
    for strength in STRENGTHS if tested else ():
        held_out = np.full((len(z), classes.max() + 1), np.nan)
        for fold in tested:
            out = folds == fold
            held_out[out] = _logits(_fit(z[~out], classes[~out], weights[~out], strength), z[out])
        known = ~np.isnan(held_out[:, 0])
        p = np.exp(held_out[known] - np.logaddexp.reduce(held_out[known], axis=1, keepdims=True))
        loss = log_loss(classes[known], p, sample_weight=weights[known], labels=np.arange(p.shape[1]))
        best = min(best, (loss, strength, held_out), key=lambda entry: entry[0])
    _, strength, held_out = best
    model = _fit(z, classes, weights, strength)
    offset = cuts.cut(_logits(model, unlabelled), classes, held_out).offset_K if as_probe else 0.0
    return lambda features: (_logits(model, features) + offset).argmax(axis=1)


def fit_mlp(z: np.ndarray, classes: np.ndarray, seed: int) -> Predict:
    """scikit-learn's network of 64 hidden units with its defaults, on standardised features."""
    model = make_pipeline(StandardScaler(), MLPClassifier(64, max_iter=500, random_state=seed))
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(z, classes).predict


def _fit(z, classes, weights, strength):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(z, classes, logisticregression__sample_weight=weights)


def _logits(model, z):
    """`(M, K)`; with two classes scikit-learn gives one column, the difference."""
    scores = model.decision_function(z)
    return np.stack([-scores / 2, scores / 2], axis=1) if scores.ndim == 1 else scores
