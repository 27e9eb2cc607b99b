"""Names of clusters from the matching of clusters to classes that `evaluate` found where there is ground truth."""

import json

from his4mae_jax.bucket.path import Place
from his4mae_jax.errors import UserError

METRICS = "metrics.json"


def names_from_metrics(folder: Place, centres: str, matching: str) -> dict[int, str]:
    """The class name of each cluster that stands for a class.

    Args:
      folder: with metrics.json.
      centres: hash of the cluster centres of the labels that are to be named.
      matching: "one_to_one" or "many_to_one".

    Raises:
      UserError: there are no scores with a matching, or they are of other clusters.
    """
    path = folder / METRICS
    try:
        metrics = json.loads(path.read_text("utf-8"))
        found = metrics["matching"]
        names = {int(cluster): str(name) for cluster, name in found[matching].items() if name is not None}
    except FileNotFoundError as error:
        raise UserError(f"{path}: not there; names from ground truth need `his4mae evaluate` first") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: holds no matching of clusters to classes; run `his4mae evaluate` again") from error
    if found.get("centres") != centres:
        raise UserError(f"{path}: scores other clusters than those of the labels; run `his4mae evaluate` again")
    return names
