"""K-means centres: fitted once on a sample of voxels, saved, then only applied."""

import json
import os

import numpy as np
import sklearn.cluster

from his4mae_jax.errors import UserError


def fit(features_MxD, clusters, restarts, seed):
    """Centres `(C, D)` float32 by k-means++ with `restarts`, largest cluster first.

    The order is fixed, so that cluster 0 means the same in every run of one seed.
    Raises `UserError` with fewer samples than clusters.
    """
    if len(features_MxD) < clusters:
        raise UserError(
            f"config key segment.fraction: only {len(features_MxD)} voxels were sampled for {clusters} clusters; raise it"
        )
    kmeans = sklearn.cluster.KMeans(clusters, init="k-means++", n_init=restarts, random_state=seed)
    labels = kmeans.fit_predict(features_MxD)
    order = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")
    return kmeans.cluster_centers_[order].astype(np.float32)


def save(path, centres_by_size, **facts):
    """Write `{C: centres}` and facts (JSON) to an npz file, atomically."""
    part = f"{path}.partial"
    with open(part, "wb") as file:
        arrays = {f"centres_{size}": centres for size, centres in centres_by_size.items()}
        np.savez(file, facts=json.dumps(facts), **arrays)
    os.replace(part, path)


def load(path):
    """`(centres_by_size, facts)` of `save`; `UserError` if the file is not one of ours."""
    try:
        with np.load(path) as data:
            facts = json.loads(str(data["facts"]))
            found = {int(k.split("_")[1]): data[k] for k in data.files if k.startswith("centres_")}
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a centres file ({error}); delete it and run --mode=segment again") from error
    return found, facts
