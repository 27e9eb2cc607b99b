"""K-means centres: fitted once on a sample of voxels, saved, then only applied."""

import dataclasses
import json
import os

import numpy as np
import sklearn.cluster

from his4mae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Centres:
    """C cluster centres and the linear map of features before distances are taken.

    A voxel belongs to the centre with the smallest |z P - c|^2; `projection_DxM` is P, the
    identity for plain k-means.
    """

    centres_CxM: np.ndarray
    projection_DxM: np.ndarray

    def linear(self):
        """`(weights_CxD, offset_C)` of the scores |z P - c|^2 - |z P - m|^2, linear in z.

        m is the mean centre: what is subtracted is the same for all centres, and leaves the
        differences between them, which float32 then holds to full precision.
        """
        centres = self.centres_CxM.astype(np.float64)
        middle = centres.mean(axis=0)
        weights = -2.0 * (centres - middle) @ self.projection_DxM.T.astype(np.float64)
        offset = np.sum(centres**2, axis=1) - np.sum(middle**2)
        return weights.astype(np.float32), offset.astype(np.float32)


def noise_whitening(*noises_MxD):
    """P such that noise becomes white, `(D, D)`; noises are samples of mean 0, weighed equally.

    Most of a token's variance is fine structure of its own patch and of its own slice.
    Organelles are what neighbouring tokens agree on, and what slices across different axes
    agree on at one place: differences between either are noise. Dividing by its covariance
    weighs each direction by what it says beyond one token (the minimum noise fraction
    transform of Green et al. 1988). It needs no labels and is linear, so labels still come
    from C score maps.
    """
    covariance = 0.0
    for x in noises_MxD:
        part = x.T.astype(np.float64) @ x / len(x)
        covariance = covariance + part / np.trace(part)
    values, vectors = np.linalg.eigh(covariance)
    # Directions that hardly vary at all (LayerNorm removes one) must not be blown up.
    values = np.maximum(values, 1e-3 * values.mean())
    return (vectors / np.sqrt(values)).astype(np.float32)


def fit(features_MxD, clusters, restarts, seed, projection_DxM=None):
    """`Centres` by k-means++ with `restarts`, largest cluster first.

    The order is fixed, so that cluster 0 means the same in every run of one seed.
    Raises `UserError` with fewer samples than clusters.
    """
    if len(features_MxD) < clusters:
        raise UserError(
            f"config key segment.fraction: only {len(features_MxD)} voxels were sampled for {clusters} clusters; raise "
            "it, or segment.fit_tiles if the cell fills little of the volume"
        )
    if projection_DxM is None:
        projection_DxM = np.eye(features_MxD.shape[1], dtype=np.float32)
    kmeans = sklearn.cluster.KMeans(clusters, init="k-means++", n_init=restarts, random_state=seed)
    labels = kmeans.fit_predict(features_MxD @ projection_DxM)
    order = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")
    return Centres(kmeans.cluster_centers_[order].astype(np.float32), projection_DxM)


def save(path, centres_by_size, **facts):
    """Write `{C: Centres}` (of one projection) and facts (JSON) to an npz file, atomically."""
    part = f"{path}.partial"
    with open(part, "wb") as file:
        arrays = {f"centres_{size}": c.centres_CxM for size, c in centres_by_size.items()}
        projection = next(iter(centres_by_size.values())).projection_DxM
        np.savez(file, facts=json.dumps(facts), projection=projection, **arrays)
    os.replace(part, path)


def load(path):
    """`({C: Centres}, facts)` of `save`; `UserError` if the file is not one of ours."""
    try:
        with np.load(path) as data:
            facts, projection = json.loads(str(data["facts"])), data["projection"]
            names = [k for k in data.files if k.startswith("centres_")]
            found = {int(k.split("_")[1]): Centres(data[k], projection) for k in names}
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a centres file ({error}); delete it and run --mode=segment again") from error
    return found, facts
