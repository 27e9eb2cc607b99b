"""`Centres` of one number of clusters, from sampled features or from the codes of a codebook."""

import numpy as np

from his4mae_jax.clustering.centres import MAX_LABELS, Centres
from his4mae_jax.clustering.kmeans import kmeans, mixture_centres
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log, say


def from_features(
    features_MxD: np.ndarray,
    clusters: int,
    restarts: int,
    seed: int,
    projection_DxM: np.ndarray | None = None,
    *,
    mixture: bool = False,
    log: Log = say,
) -> Centres:
    """Centres by k-means, the largest cluster first, so that the first cluster means the same in every run of one seed.

    Args:
      features_MxD: of random voxels.
      clusters: C.
      restarts, seed: see `kmeans`.
      projection_DxM: features are multiplied by it before; None leaves them as they are.
      mixture: whether the centres go on to those of `mixture_centres`.
      log: prints a line of progress.

    Raises:
      UserError: fewer samples than clusters.
    """
    if len(features_MxD) < clusters:
        raise UserError(
            f"config key segment.fraction: only {len(features_MxD)} voxels were sampled for {clusters} clusters; raise "
            "it, or segment.fit_tiles if the cell fills little of the volume, or lower segment.mask_margin"
        )
    z_MxF = features_MxD if projection_DxM is None else features_MxD @ projection_DxM
    if projection_DxM is None:
        projection_DxM = np.eye(features_MxD.shape[1], dtype=np.float32)
    best = kmeans(z_MxF, clusters, restarts, seed, log=log)
    labels, centres_CxF, variance = best.labels_M, best.centres_CxF, best.inertia / z_MxF.size
    if mixture:
        centres_CxF = mixture_centres(z_MxF, centres_CxF)
        distance_MxC = np.sum(centres_CxF**2, axis=1) - 2 * z_MxF @ centres_CxF.T
        labels = np.argmin(distance_MxC, axis=1)
        variance = float(np.mean(distance_MxC.min(axis=1) + np.sum(z_MxF**2, axis=1))) / z_MxF.shape[1]
    order = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")
    return Centres(centres_CxF[order].astype(np.float32), projection_DxM, variance=max(float(variance), 1e-12))


def from_codes(
    codes_KxD: np.ndarray, usage_K: np.ndarray, clusters: int, restarts: int, seed: int, *, log: Log = say
) -> Centres:
    """Centres read from a codebook: every code is one, and belongs to one of C clusters.

    With more used codes than `clusters`, k-means on the codes, weighted by usage, groups them; otherwise each used code
    is a cluster of its own. Codes never used join the nearest group. Clusters are ordered by their usage, the largest
    first.

    Args:
      codes_KxD: the codebook.
      usage_K: how often each code was chosen.
      clusters: C.
      restarts, seed: see `kmeans`.
      log: prints a line of progress.

    Raises:
      UserError: labels would not fit uint8, or no code is in use.
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
    middles = codes[used]
    if used.sum() > clusters:
        middles = kmeans(codes[used], clusters, restarts, seed, weights_M=usage[used], log=log).centres_CxF
    group = np.argmin(np.sum((codes[:, None].astype(np.float64) - middles) ** 2, axis=-1), axis=1)
    order = np.argsort(-np.bincount(group, weights=usage, minlength=len(middles)), kind="stable")
    # The spread of codes about the middle of their cluster stands for that of voxels, which are not at hand.
    variance = max(float(np.average(np.mean((codes - middles[group]) ** 2, axis=1), weights=usage)), 1e-6)
    return Centres(codes, np.eye(codes.shape[1], dtype=np.float32), np.argsort(order)[group], variance)
