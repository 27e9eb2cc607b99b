"""Folds of cross-validation that lie apart in space."""

import warnings

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold


def spatial_folds(index_Mx3: np.ndarray, class_M: np.ndarray, block: int, folds: int, seed: int) -> np.ndarray:
    """The fold of each labelled voxel: all voxels of one block of space are in one.

    Neighbours in one organelle are nearly copies of each other. With some of them in training, a classifier would score
    on the others what it has seen. Blocks are dealt out so that every class is in as many folds as can be.

    Args:
      index_Mx3: voxels.
      class_M: class of each.
      block: side of a block in voxels; halved while all labels lie in too few blocks for two folds.
      folds: folds at most.
      seed: of the dealing.

    Returns:
      `(M,)`: numbers from 0; all 0 where there are not two places to tell apart.
    """
    while True:
        _, group_M = np.unique(index_Mx3 // block, axis=0, return_inverse=True)
        group_M = group_M.ravel()
        blocks_of = [len(np.unique(group_M[class_M == k])) for k in np.unique(class_M)]
        if min(blocks_of) >= 2 or block == 1:
            break
        block //= 2
    number = min(folds, int(group_M.max()) + 1, max(blocks_of))
    fold_M = np.zeros(len(class_M), int)
    if number < 2:
        return fold_M
    splits = StratifiedGroupKFold(number, shuffle=True, random_state=seed)
    least = np.bincount(class_M).max()
    if least < number:  # scikit-learn refuses more folds than the largest class has members
        return fold_M
    with warnings.catch_warnings():  # a class with fewer members than folds is missing in some: that is known here
        warnings.simplefilter("ignore", UserWarning)
        for fold, (_, test) in enumerate(splits.split(index_Mx3, class_M, group_M)):
            fold_M[test] = fold
    return fold_M


def scorable_folds(fold_M: np.ndarray, class_M: np.ndarray) -> list[int]:
    """The folds that can be tested: those whose other folds hold every class."""
    classes = np.unique(class_M)
    return [int(f) for f in np.unique(fold_M) if np.array_equal(np.unique(class_M[fold_M != f]), classes)]
