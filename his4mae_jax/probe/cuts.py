"""The cut of each class: an offset of its logit by which its Dice becomes as large as cross-validation can say.

Labels do not say how common a class is: clicks are placed where organelles are. How much a false positive costs in Dice
depends on it, though. Two estimates err on opposite sides. The fractions among the labels overrate small organelles
that were sought out; the fractions at which the classifier's posteriors of unlabelled voxels agree with themselves
(Saerens et al. 2002) underrate them, since a classifier of hard cases finds few sure ones. Their geometric mean is
used; where labels lie at random both agree.
"""

import numpy as np
from scipy.special import softmax

TEMPER = 0.3  # of the spread of logits: membership is soft, or the best cut hangs on single labels
PRIOR = 30.0  # labels of the rarest class at which the cut has gone half way from 0 to what they say
_REACH = np.linspace(-6.0, 6.0, 49)


def class_fractions(logits_UxK: np.ndarray, class_M: np.ndarray) -> np.ndarray:
    """Estimated fraction of the volume that each class takes, `(K,)`.

    Args:
      logits_UxK: of voxels drawn at random, by a head fitted with `heads.sample_weights`.
      class_M: of the labelled voxels.
    """
    labelled = np.bincount(class_M, minlength=logits_UxK.shape[1]) / len(class_M)
    weighted = labelled**0.5 / np.sum(labelled**0.5)  # the fractions that the head was fitted with
    agreeing = weighted
    for _ in range(200):
        posterior = softmax(logits_UxK + np.log(np.maximum(agreeing, 1e-12) / weighted), axis=1)
        agreeing = posterior.mean(axis=0)
    mean = np.sqrt(labelled * np.maximum(agreeing, 1e-4))
    return mean / mean.sum()


def label_weights(class_M: np.ndarray, fraction_K: np.ndarray) -> np.ndarray:
    """Weights of labelled voxels with which each class takes its fraction of the volume."""
    return (fraction_K / np.maximum(np.bincount(class_M, minlength=len(fraction_K)), 1))[class_M]


def dice(chosen_MxK: np.ndarray, class_M: np.ndarray, weight_M: np.ndarray) -> np.ndarray:
    """Weighted Dice of each class, `(K,)`; membership may be soft."""
    truth = class_M[:, None] == np.arange(chosen_MxK.shape[1])
    both = weight_M @ (chosen_MxK * truth)
    return 2 * both / np.maximum(weight_M @ chosen_MxK + weight_M @ truth, 1e-12)


def hard_dice(logits_MxK: np.ndarray, class_M: np.ndarray, weight_M: np.ndarray) -> np.ndarray:
    """`dice` of the class with the largest logit."""
    chosen = logits_MxK.argmax(axis=1)[:, None] == np.arange(logits_MxK.shape[1])
    return dice(chosen.astype(float), class_M, weight_M)


def calibrate(logits_MxK: np.ndarray, class_M: np.ndarray, fraction_K: np.ndarray) -> np.ndarray:
    """Offsets `(K,)` to add to logits, for the largest mean Dice over the classes.

    Args:
      logits_MxK: of labelled voxels, each by a head that has not seen it.
      class_M: their classes.
      fraction_K: of the volume that the classes take.
    """
    K = logits_MxK.shape[1]
    rarest = np.bincount(class_M, minlength=K).min()
    if not rarest:
        return np.zeros(K)
    centred = logits_MxK - logits_MxK.mean(axis=1, keepdims=True)
    temper = max(TEMPER * centred.std(), 1e-6)
    weight_M, offset_K = label_weights(class_M, fraction_K), np.zeros(K)

    def score(offsets):
        return dice(softmax((logits_MxK + offsets) / temper, axis=1), class_M, weight_M).mean()

    for reach in (_REACH, _REACH / 4, _REACH / 16):  # coordinate ascent, finer each time
        for k in range(K - 1 if K == 2 else K):
            moves = [offset_K + m * temper * (np.arange(K) == k) for m in reach * 2]
            offset_K = max(moves, key=score)
    offset_K = offset_K - offset_K.mean()
    return offset_K * rarest / (rarest + PRIOR)
