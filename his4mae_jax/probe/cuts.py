"""The cut of each class: an offset of its logit, by which the class takes the part of the volume that it should.

Labels do not say how common a class is: clicks are placed where organelles are, or where the classifier is unsure.
Near the cut with the best Dice a class takes about as many voxels as there are of it, so the cut follows from an
estimate of that fraction. Three estimates agree where labels lie at random, and fail in different ways:

- The share of the labels overrates small organelles that were sought out.
- The mean posterior over random voxels holds where labels were chosen by their place or look, as suggestions are, and
  overrates small organelles too where labels were chosen by class.
- The fractions at which the posteriors of random voxels agree with themselves (Saerens et al. 2002) hold where labels
  were chosen by class, and underrate small organelles where labels are hard cases.

Which one counts is read off the labels: hard cases have a smaller margin, by a classifier that has not seen them, than
voxels at random; and labels chosen by class are shared out differently than the mean posterior says.
"""

import dataclasses

import numpy as np
from scipy.special import softmax

PRIOR = 30.0  # labels of the rarest class, of labels at random, at which the cut has gone half way
HARD = (0.55, 0.75)  # part of a class that is surer than its median label: from chosen at random to chosen for doubt
BY_CLASS = (0.03, 0.15)  # distance of label shares from mean posteriors: from chosen at random to chosen by class
PASSES = 20


@dataclasses.dataclass(frozen=True)
class Cut:
    """Offsets to add to logits, and the estimates that they come from.

    Attributes:
      offset_K: to add.
      fraction_K: of the volume that each class takes.
      hard: 0 to 1, how far labels are hard cases.
      by_class: 0 to 1, how far labels were chosen by class.
    """

    offset_K: np.ndarray
    fraction_K: np.ndarray
    hard: float
    by_class: float


def cut(logits_UxK: np.ndarray, class_M: np.ndarray, held_out_MxK: np.ndarray | None = None) -> Cut:
    """The cut of a classifier.

    Args:
      logits_UxK: of voxels drawn at random, by a head fitted with `heads.sample_weights`.
      class_M: of the labelled voxels, each of the K classes at least once.
      held_out_MxK: their logits by heads that have not seen them, NaN where there is none; None: there are none.
    """
    counts = np.bincount(class_M, minlength=logits_UxK.shape[1])
    labelled = counts / len(class_M)
    weighted = labelled**0.5 / np.sum(labelled**0.5)  # the fractions that the head was fitted with
    posterior_UxK = softmax(logits_UxK + np.log(labelled / weighted), axis=1)
    mean = posterior_UxK.mean(axis=0)
    hard = 0.0 if held_out_MxK is None else _ramp(_surer(logits_UxK, posterior_UxK, class_M, held_out_MxK), HARD)
    by_class = (1 - hard) * _ramp(0.5 * np.abs(labelled - mean).sum(), BY_CLASS)
    at_random = (1 - hard) * (1 - by_class)
    agreeing = np.maximum(_agreeing(logits_UxK, weighted), 1e-3)
    fraction = (mean ** (1 - by_class) * agreeing**by_class) ** (1 - at_random / 2) * labelled ** (at_random / 2)
    fraction /= fraction.sum()
    step = 1 - at_random * PRIOR / (counts.min() + PRIOR)
    return Cut(step * taking(logits_UxK, fraction), fraction, hard, by_class)


def taking(logits_UxK: np.ndarray, fraction_K: np.ndarray) -> np.ndarray:
    """Offsets `(K,)`, of mean 0, by which each class is the largest in its fraction of the voxels."""
    K = logits_UxK.shape[1]
    offset = np.zeros(K)
    for number in range(PASSES):
        before = offset.copy()
        for k in range(K):
            others = np.delete(logits_UxK + offset, k, axis=1).max(axis=1)
            wanted = -np.quantile(logits_UxK[:, k] - others, 1 - fraction_K[k])
            offset[k] += (wanted - offset[k]) * (1.0 if K == 2 else 0.5)
        if number and np.abs(offset - before).max() < 1e-4:
            break
    return offset - offset.mean()


def label_weights(class_M: np.ndarray, fraction_K: np.ndarray) -> np.ndarray:
    """Weights of labelled voxels with which each class takes its fraction of the volume."""
    return (fraction_K / np.maximum(np.bincount(class_M, minlength=len(fraction_K)), 1))[class_M]


def dice(logits_MxK: np.ndarray, class_M: np.ndarray, weight_M: np.ndarray) -> np.ndarray:
    """Weighted Dice of each class, `(K,)`, by the class with the largest logit."""
    classes = np.arange(logits_MxK.shape[1])
    chosen, truth = logits_MxK.argmax(axis=1)[:, None] == classes, class_M[:, None] == classes
    both = weight_M @ (chosen & truth)
    return 2 * both / np.maximum(weight_M @ chosen + weight_M @ truth, 1e-12)


def _agreeing(logits_UxK: np.ndarray, weighted_K: np.ndarray) -> np.ndarray:
    """Fractions that are the mean of the posteriors that they imply."""
    fraction = weighted_K
    for _ in range(200):
        fraction = softmax(logits_UxK + np.log(np.maximum(fraction, 1e-12) / weighted_K), axis=1).mean(axis=0)
    return fraction


def _surer(logits_UxK, posterior_UxK, class_M, held_out_MxK) -> float:
    """Which part of the most common class's voxels has a larger margin than the median of its labels."""
    k = int(posterior_UxK.mean(axis=0).argmax())
    of_class = held_out_MxK[(class_M == k) & ~np.isnan(held_out_MxK[:, 0])]
    if not len(of_class):
        return 0.5
    weight = posterior_UxK[:, k]
    return float(np.sum(weight * (_margin(logits_UxK, k) > np.median(_margin(of_class, k)))) / np.sum(weight))


def _margin(logits_MxK: np.ndarray, k: int) -> np.ndarray:
    return logits_MxK[:, k] - np.delete(logits_MxK, k, axis=1).max(axis=1)


def _ramp(value: float, ends: tuple[float, float]) -> float:
    return float(np.clip((value - ends[0]) / (ends[1] - ends[0]), 0.0, 1.0))
