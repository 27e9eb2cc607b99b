"""Scores of label volumes as metrics.json holds them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from his4mae_jax.evaluation import dice


def by_matching(
    confusion: np.ndarray, class_names: Sequence[str], *, supervised: bool = False
) -> dict[str, dict[str, float]]:
    """Returns `{"one_to_one": DSC by class, "many_to_one": ...}`.

    Args:
      confusion: see `dice.confusion`.
      class_names: of the ground truth.
      supervised: whether the labels are classes, so that nothing is matched and both entries are equal.
    """
    one, many = (dice.direct,) * 2 if supervised else (dice.one_to_one, dice.many_to_one)
    return {"one_to_one": one(confusion, class_names).dsc, "many_to_one": many(confusion, class_names).dsc}


def of_method(
    confusions: Mapping[int, np.ndarray],
    headline: int,
    class_names: Sequence[str],
    seconds: Mapping[str, float],
    *,
    supervised: bool = False,
) -> dict[str, Any]:
    """Returns the scores of one method for all its numbers of clusters.

    Args:
      confusions: see `dice.confusion`, by number of clusters.
      headline: the number of clusters that the method is compared by.
      class_names: of the ground truth.
      seconds: by stage.
      supervised: see `by_matching`.
    """
    by_clusters = {
        str(size): by_matching(confusion, class_names, supervised=supervised)
        for size, confusion in sorted(confusions.items())
    }
    return {
        "dsc": by_clusters[str(headline)], "clusters": headline, "seconds": dict(seconds), "by_clusters": by_clusters,
    }  # fmt: skip
