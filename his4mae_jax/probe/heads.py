"""Classifiers of features: class logits that are linear in the features, or in one hidden layer of them."""

import dataclasses
import functools
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

STRENGTHS = tuple(10.0**power for power in range(-4, 2))  # of LogisticRegression's C
DECAYS = (1.0, 3.0, 10.0)  # weight decay of the hidden layer
STEPS, BATCH, RATE = 500, 512, 3e-3


@dataclasses.dataclass(frozen=True)
class Head:
    """Logits `offset + W h(z)` of K classes.

    Attributes:
      weights_KxH: H is D without a hidden layer.
      offset_K: float32.
      hidden: (weights `(D, H)`, bias `(H,)`) of h(z) = gelu(z weights + bias); None: h(z) = z.
    """

    weights_KxH: np.ndarray
    offset_K: np.ndarray
    hidden: tuple[np.ndarray, np.ndarray] | None = None

    def logits(self, features_MxD: np.ndarray) -> np.ndarray:
        """`(M, K)`."""
        z = features_MxD
        if self.hidden is not None:
            z = np.asarray(jax.nn.gelu(z @ self.hidden[0] + self.hidden[1]))
        return z @ self.weights_KxH.T + self.offset_K


Fit = Callable[[np.ndarray, np.ndarray, float], Head]  # (features, classes, strength) to a head


def sample_weights(class_M: np.ndarray) -> np.ndarray:
    """Weight of each labelled voxel in the fit, of mean 1: a class counts by the root of its number of labels.

    Halfway between each label counting the same, where small organelles drown, and each class counting the same, where
    a few labels of one class move the border as much as hundreds of another. Of the three it loses least whether labels
    are placed at random or at the borders of organelles (docs/probe.md).
    """
    weight_M = np.bincount(class_M)[class_M] ** -0.5
    return weight_M / weight_M.mean()


def fit_linear(features_MxD: np.ndarray, class_M: np.ndarray, strength: float) -> Head:
    """Logistic regression on standardised features; the standardisation is folded into weights and offsets.

    Args:
      features_MxD: of labelled voxels.
      class_M: 0 to K - 1, all of which occur.
      strength: scikit-learn's C, the inverse of the regularisation.
    """
    mean, scale = _standard(features_MxD)
    model = LogisticRegression(C=strength, max_iter=1000)
    # Products are small: threads of BLAS that wait for each other made a fit a hundred times slower on a busy machine.
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        # Weakly regularised and separable: near the end is as good.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((features_MxD - mean) / scale, class_M, sample_weight=sample_weights(class_M))
    weights, offset = model.coef_, model.intercept_
    if len(weights) == 1:  # two classes: one logit, the difference of theirs
        weights, offset = np.concatenate([-weights, weights]) / 2, np.concatenate([-offset, offset]) / 2
    weights = weights / scale
    return Head(weights.astype(np.float32), (offset - weights @ mean).astype(np.float32))


def _standard(features_MxD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation; directions that hardly vary (LayerNorm removes one) are not blown up."""
    mean, scale = features_MxD.mean(axis=0, dtype=np.float64), features_MxD.std(axis=0, dtype=np.float64)
    return mean, np.maximum(scale, max(1e-3 * scale.max(), 1e-12))


def fit_hidden(features_MxD: np.ndarray, class_M: np.ndarray, strength: float, *, width: int, seed: int = 0) -> Head:
    """One hidden layer of GELU units on standardised features, by AdamW on cross-entropy.

    Args:
      features_MxD: of labelled voxels.
      class_M: 0 to K - 1, all of which occur.
      strength: weight decay.
      width: units of the hidden layer, H.
      seed: of the initial weights and of the batches.
    """
    mean, scale = _standard(features_MxD)
    z = ((features_MxD - mean) / scale).astype(np.float32)
    rng, weight_M = np.random.default_rng(seed), sample_weights(class_M)
    draws = rng.choice(len(z), (STEPS, BATCH), p=weight_M / weight_M.sum())
    classes, dim = int(class_M.max()) + 1, z.shape[1]
    start = (
        rng.normal(0, dim**-0.5, (dim, width)), np.zeros(width),
        rng.normal(0, width**-0.5, (width, classes)), np.zeros(classes),
    )  # fmt: skip
    # Gathered here: shapes, and so what is compiled, do not depend on the number of labels.
    a, b, w, c = _train([np.float32(x) for x in start], z[draws], class_M[draws], np.float32(strength))
    first = np.asarray(a, np.float64) / scale[:, None]
    hidden = first.astype(np.float32), (np.asarray(b) - mean @ first).astype(np.float32)
    return Head(np.asarray(w).T, np.asarray(c), hidden)


@jax.jit
def _train(start, z_SxBxD, class_SxB, decay):
    schedule = optax.cosine_decay_schedule(RATE, STEPS)
    # The decay is a traced value: one compilation for all strengths.
    optimizer = optax.chain(
        optax.scale_by_adam(), optax.add_decayed_weights(decay), optax.scale_by_learning_rate(schedule)
    )

    def loss(params, z, classes):
        a, b, w, c = params
        logits = jax.nn.gelu(z @ a + b) @ w + c
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean()

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), (z_SxBxD, jnp.asarray(class_SxB)))
    return params


def fitting(hidden: int, seed: int) -> tuple[Fit, tuple[float, ...]]:
    """The fit for `probe.hidden`, and the strengths that cross-validation chooses from."""
    return (functools.partial(fit_hidden, width=hidden, seed=seed), DECAYS) if hidden else (fit_linear, STRENGTHS)
