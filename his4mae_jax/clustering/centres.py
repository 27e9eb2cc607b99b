"""K-means centres: fitted once on a sample of voxels, saved, then only applied."""

import dataclasses
import json
import os

import numpy as np
import scipy.special
import sklearn.cluster

from his4mae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Centres:
    """C cluster centres and the linear map of features before distances are taken.

    A voxel belongs to the centre with the smallest |z P - c|^2; `projection_DxM` is P, the
    identity for plain k-means. Its label is that centre's number or, where several centres
    share a label, what `group_C` (integers) has for it. `variance` is the mean of (z P - c)^2 over
    the voxels of a cluster and over M: with it distances become probabilities.
    """

    centres_CxM: np.ndarray
    projection_DxM: np.ndarray
    group_C: np.ndarray | None = None
    variance: float = 1.0

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


MAX_LABELS = 254  # clusters whose ids fit uint8 beside IGNORE
FEATURE_WEIGHT = 0.25  # of the features' own covariance beside that of noise (docs/results.md)


def noise_whitening(features_MxD, *noises_MxD):
    """Directions in which features say more than noise, the clearest first: P, `(D, D)`.

    Most of a token's variance is fine structure of its own patch and of its own slice.
    Organelles are what neighbouring tokens agree on, and what slices across different axes
    agree on at one place: differences between either are noise (`noises_MxD`: samples of mean
    0, weighed equally). Dividing by its covariance weighs each direction by what it says beyond
    one token (the minimum noise fraction transform of Green et al. 1988). Some of the features'
    own covariance is added to the noise: it bounds how much one direction can count, or the
    strongest contrast, a nucleus against all the rest, takes several clusters before small
    organelles get one. Needs no labels, and is linear: labels still come from C score maps.
    """
    covariances = [_covariance(x) for x in noises_MxD]
    total = _covariance(features_MxD - features_MxD.mean(axis=0))
    values, vectors = np.linalg.eigh(np.mean(covariances, axis=0) + FEATURE_WEIGHT * total)
    # Directions that hardly vary at all (LayerNorm removes one) must not be blown up.
    values = np.maximum(values, 1e-3 * values.mean())
    white = vectors / np.sqrt(values)
    _, rotation = np.linalg.eigh(white.T @ total @ white)
    return (white @ rotation[:, ::-1]).astype(np.float32)


def _covariance(x_MxD):
    """Of samples of mean 0, scaled to trace 1."""
    covariance = x_MxD.T.astype(np.float64) @ x_MxD / max(len(x_MxD), 1)
    return covariance / max(np.trace(covariance), 1e-12)


def mixture_centres(z_MxF, centres_CxF, iterations=60):
    """Centres of the `mixture` that EM reaches from those of k-means, `(C, F)`.

    K-means shares voxels out evenly: the centre of a small cluster (granules) is drawn into the
    large one beside it (cytoplasm). Proportions that are fitted too leave it where its own are.
    """
    return mixture(z_MxF, centres_CxF, iterations)[0]


def mixture(z_MxF, centres_CxF, iterations):
    """A mixture of C spheres of one width, by EM: `(centres (C, F), proportions (C,), variance)`."""
    z, centres = z_MxF.astype(np.float64), centres_CxF.astype(np.float64)
    z2_Mx1 = np.sum(z**2, axis=1, keepdims=True)
    share_C, variance = np.full(len(centres), 1 / len(centres)), None
    for _ in range(iterations):
        distance_MxC = z2_Mx1 - 2 * z @ centres.T + np.sum(centres**2, axis=1)
        if variance is None:
            variance = max(np.mean(distance_MxC.min(axis=1)) / z.shape[1], 1e-12)
        belongs_MxC = scipy.special.softmax(np.log(share_C) - distance_MxC / (2 * variance), axis=1)
        weight_C = belongs_MxC.sum(axis=0) + 1e-9
        variance = max(np.sum(belongs_MxC * distance_MxC) / z.size, 1e-12)
        centres, share_C = belongs_MxC.T @ z / weight_C[:, None], weight_C / len(z)
    return centres, share_C, variance


def fit(features_MxD, clusters, restarts, seed, projection_DxM=None, mixture=False):
    """`Centres` by k-means++ with `restarts`, largest cluster first.

    `projection_DxM` is what features are multiplied by before; `None` leaves them as they are.
    With `mixture` the centres go on to those of `mixture_centres`. The order is fixed, so that
    cluster 0 means the same in every run of one seed.
    Raises `UserError` with fewer samples than clusters.
    """
    if len(features_MxD) < clusters:
        raise UserError(
            f"config key segment.fraction: only {len(features_MxD)} voxels were sampled for {clusters} clusters; raise "
            "it, or segment.fit_tiles if the cell fills little of the volume, or lower segment.mask_margin"
        )
    kmeans = sklearn.cluster.KMeans(clusters, init="k-means++", n_init=restarts, random_state=seed)
    z_MxF = features_MxD if projection_DxM is None else features_MxD @ projection_DxM
    if projection_DxM is None:
        projection_DxM = np.eye(features_MxD.shape[1], dtype=np.float32)
    labels, centres_CxF = kmeans.fit_predict(z_MxF), kmeans.cluster_centers_
    variance = kmeans.inertia_ / z_MxF.size
    if mixture:
        centres_CxF = mixture_centres(z_MxF, centres_CxF)
        distance_MxC = np.sum(centres_CxF**2, axis=1) - 2 * z_MxF @ centres_CxF.T
        labels = np.argmin(distance_MxC, axis=1)
        variance = float(np.mean(distance_MxC.min(axis=1) + np.sum(z_MxF**2, axis=1))) / z_MxF.shape[1]
    order = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")
    return Centres(centres_CxF[order].astype(np.float32), projection_DxM, variance=max(float(variance), 1e-12))


def from_codes(codes_KxD, usage_K, clusters, restarts, seed):
    """`Centres` read from a codebook: every code is one, and each belongs to one of C clusters.

    `usage_K` is how often each code was chosen. With more used codes than `clusters`, k-means on
    them, weighted by usage, groups them; otherwise each used code is a cluster of its own. Codes
    never used join the nearest group. Clusters are ordered by their usage, the largest first.
    Raises `UserError` where labels would not fit uint8, or with no code in use.
    """
    if clusters > MAX_LABELS:
        raise UserError(
            f"config key segment.clusters is {clusters}: labels are uint8, so at most {MAX_LABELS} clusters"
        )
    codes, usage = np.asarray(codes_KxD, np.float32), np.asarray(usage_K, np.float64)
    used = usage > 0
    if not used.any():
        raise UserError(
            "config key codebook.start: no code of this checkpoint was used yet, so the codebook cannot give clusters; "
            "train further, or start distillation earlier"
        )
    if used.sum() > clusters:
        kmeans = sklearn.cluster.KMeans(clusters, init="k-means++", n_init=restarts, random_state=seed)
        middles = kmeans.fit(codes[used], sample_weight=usage[used]).cluster_centers_
    else:
        middles = codes[used]
    group = np.argmin(np.sum((codes[:, None].astype(np.float64) - middles) ** 2, axis=-1), axis=1)
    order = np.argsort(-np.bincount(group, weights=usage, minlength=len(middles)), kind="stable")
    # No voxels are at hand: the spread of codes about the middle of their cluster stands for theirs.
    variance = max(float(np.average(np.mean((codes - middles[group]) ** 2, axis=1), weights=usage)), 1e-6)
    return Centres(codes, np.eye(codes.shape[1], dtype=np.float32), np.argsort(order)[group], variance)


def save(path, centres_by_size, **facts):
    """Write `{C: Centres}` and facts (JSON) to an npz file, atomically."""
    part = f"{path}.partial"
    with open(part, "wb") as file:
        arrays = {f"centres_{size}": c.centres_CxM for size, c in centres_by_size.items()}
        arrays |= {f"projection_{size}": c.projection_DxM for size, c in centres_by_size.items()}
        arrays |= {f"group_{size}": c.group_C for size, c in centres_by_size.items() if c.group_C is not None}
        arrays |= {f"variance_{size}": np.float64(c.variance) for size, c in centres_by_size.items()}
        np.savez(file, facts=json.dumps(facts), **arrays)
    os.replace(part, path)


def load(path):
    """`({C: Centres}, facts)` of `save`; `UserError` if the file is not one of ours."""
    try:
        with np.load(path) as data:
            facts = json.loads(str(data["facts"]))
            sizes = [k.removeprefix("centres_") for k in data.files if k.startswith("centres_")]
            found = {
                int(c): Centres(
                    data[f"centres_{c}"], data[f"projection_{c}"], data.get(f"group_{c}"),
                    float(data.get(f"variance_{c}", 1.0)),
                )
                for c in sizes
            }  # fmt: skip
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a centres file ({error}); delete it and run --mode=segment again") from error
    return dict(sorted(found.items())), facts
