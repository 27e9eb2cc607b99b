"""The classifier of a few labels: strength by cross-validation over space, and the cuts of its classes."""

import dataclasses

import numpy as np
from scipy.special import log_softmax

from his4mae_jax.probe import cuts
from his4mae_jax.probe.folds import scorable_folds, spatial_folds
from his4mae_jax.probe.heads import Fit, Head, fitting, sample_weights
from his4mae_jax.progress import Log, progress, say


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A fitted classifier, and what cross-validation says of it.

    Attributes:
      head: fitted on all labels, cuts included.
      strength: of its regularisation.
      fraction_K: estimated fraction of the volume that each class takes.
      dice_FxK: Dice of each class in each fold that was tested, NaN where the fold has no label of the class; no rows
        where labels do not lie in two places.
      hard: 0 to 1, how far labels are hard cases: Dice of the whole volume is then higher than over the folds.
    """

    head: Head
    strength: float
    fraction_K: np.ndarray
    dice_FxK: np.ndarray
    hard: float

    def dice(self) -> list[tuple[float, float] | None]:
        """(mean, standard deviation) of Dice over the folds for each class; None where no fold tests it."""
        each = [column[~np.isnan(column)] for column in self.dice_FxK.T]
        return [(float(column.mean()), float(column.std())) if len(column) else None for column in each]


def fit_classifier(
    features_MxD: np.ndarray,
    class_M: np.ndarray,
    index_Mx3: np.ndarray,
    unlabelled_UxD: np.ndarray,
    *,
    hidden: int = 0,
    block: int = 64,
    folds: int = 5,
    seed: int = 0,
    log: Log = say,
) -> Classifier:
    """Fits a classifier.

    Args:
      features_MxD: of labelled voxels.
      class_M: 0 to K - 1, each at least once.
      index_Mx3: where they lie.
      unlabelled_UxD: features of voxels drawn at random, which say how common classes are.
      hidden: units of the hidden layer; 0: none, and logits are linear.
      block: side in voxels of the blocks of space that are left out together.
      folds: of cross-validation.
      seed: of folds and of the hidden layer.
      log: prints a line of progress.
    """
    classes = int(class_M.max()) + 1
    fold_M = spatial_folds(index_Mx3, class_M, block, folds, seed)
    tested, (fit, strengths) = scorable_folds(fold_M, class_M), fitting(hidden, seed)
    strength, logits_MxK = strengths[len(strengths) // 2], None
    with progress("probe: cross-validation", len(strengths) * len(tested), unit="fits", log=log) as bar:
        best = np.inf
        for candidate in strengths if tested else ():
            logits = _out_of_fold(fit, candidate, features_MxD, class_M, fold_M, tested, bar)
            loss = _loss(logits, class_M)
            if loss < best:
                best, strength, logits_MxK = loss, candidate, logits
    head = fit(features_MxD, class_M, strength)
    cut = cuts.cut(head.logits(unlabelled_UxD), class_M, logits_MxK)
    dice_FxK = np.zeros((0, classes))
    if logits_MxK is not None:
        dice_FxK = _dice_of_folds(logits_MxK + cut.offset_K, class_M, fold_M, tested, cut.fraction_K)
    head = dataclasses.replace(head, offset_K=np.float32(head.offset_K + cut.offset_K))
    return Classifier(head, strength, cut.fraction_K, dice_FxK, cut.hard)


def _out_of_fold(fit: Fit, strength, features_MxD, class_M, fold_M, tested, bar) -> np.ndarray:
    """Logits of each labelled voxel by a head that has not seen its fold; NaN where there is none."""
    logits = np.full((len(class_M), int(class_M.max()) + 1), np.nan)
    for fold in tested:
        out = fold_M == fold
        logits[out] = fit(features_MxD[~out], class_M[~out], strength).logits(features_MxD[out])
        bar.advance()
    return logits


def _loss(logits_MxK: np.ndarray, class_M: np.ndarray) -> float:
    """Cross-entropy, weighted as in the fit."""
    known = ~np.isnan(logits_MxK[:, 0])
    log_p = log_softmax(logits_MxK[known], axis=1)[np.arange(known.sum()), class_M[known]]
    return float(-np.average(log_p, weights=sample_weights(class_M)[known]))


def _dice_of_folds(logits_MxK, class_M, fold_M, tested, fraction_K) -> np.ndarray:
    """Dice in each tested fold, `(folds, K)`; NaN where the fold has no label of the class."""
    rows = []
    for fold in tested:
        out = fold_M == fold
        row = cuts.dice(logits_MxK[out], class_M[out], cuts.label_weights(class_M[out], fraction_K))
        rows.append(np.where(np.bincount(class_M[out], minlength=len(fraction_K)) > 0, row, np.nan))
    return np.array(rows)
