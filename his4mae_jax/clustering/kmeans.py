"""K-means with restarts, and the mixture of equal spheres that its centres may go on to."""

import dataclasses

import numpy as np
import scipy.special
import sklearn.cluster

from his4mae_jax.progress import Log, progress, say


@dataclasses.dataclass(frozen=True)
class Clustering:
    """The best of several runs of k-means.

    Attributes:
      centres_CxF: cluster centres.
      labels_M: cluster of each point.
      inertia: sum over the points of the squared distance to their centre (weighted).
    """

    centres_CxF: np.ndarray
    labels_M: np.ndarray
    inertia: float


def kmeans(
    points_MxF: np.ndarray,
    clusters: int,
    restarts: int,
    seed: int,
    *,
    weights_M: np.ndarray | None = None,
    label: str = "fit",
    log: Log = say,
) -> Clustering:
    """K-means++ (Arthur and Vassilvitskii 2007), the best of several runs.

    The result is that of `sklearn.cluster.KMeans(n_init=restarts)` to the last bit; the runs are started one by one to
    show progress.

    Args:
      points_MxF: at least `clusters` points.
      clusters: C.
      restarts: runs from different random centres.
      seed: of the random centres.
      weights_M: of the points.
      label: what the progress lines begin with.
      log: prints a line of progress.
    """
    random, best = np.random.RandomState(seed), None
    with progress(f"{label}: k-means of {clusters} clusters", restarts, unit="restarts", log=log) as bar:
        for _ in range(restarts):
            run = sklearn.cluster.KMeans(clusters, init="k-means++", n_init=1, random_state=random)
            run.fit(points_MxF, sample_weight=weights_M)
            # As scikit-learn does: the same clusters in another order are no better, whatever rounding says.
            if best is None or (run.inertia_ < best.inertia and not _same_partition(run.labels_, best.labels_M)):
                best = Clustering(run.cluster_centers_, run.labels_, run.inertia_)
            bar.advance()
    return best


def _same_partition(labels_M: np.ndarray, other_M: np.ndarray) -> bool:
    """Whether all points of each cluster are of one cluster of the other labels."""
    pairs = np.unique(np.stack([labels_M, other_M]), axis=1)
    return pairs.shape[1] == len(np.unique(labels_M))


def mixture_centres(z_MxF: np.ndarray, centres_CxF: np.ndarray, iterations: int = 60) -> np.ndarray:
    """Centres of the `mixture` that EM reaches from those of k-means, `(C, F)`.

    K-means shares points out evenly: the centre of a small cluster (granules) is drawn into the large one beside it
    (cytoplasm). Proportions that are fitted too leave each centre with its own points.
    """
    return mixture(z_MxF, centres_CxF, iterations)[0]


def mixture(z_MxF: np.ndarray, centres_CxF: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A mixture of C spheres of one width, by EM: (centres `(C, F)`, proportions `(C,)`, variance)."""
    z, centres = z_MxF.astype(np.float64), centres_CxF.astype(np.float64)
    z2_Mx1 = np.sum(z**2, axis=1, keepdims=True)
    proportion_C, variance = np.full(len(centres), 1 / len(centres)), None
    for _ in range(iterations):
        distance_MxC = z2_Mx1 - 2 * z @ centres.T + np.sum(centres**2, axis=1)
        if variance is None:
            variance = max(np.mean(distance_MxC.min(axis=1)) / z.shape[1], 1e-12)
        belongs_MxC = scipy.special.softmax(np.log(proportion_C) - distance_MxC / (2 * variance), axis=1)
        weight_C = belongs_MxC.sum(axis=0) + 1e-9
        variance = max(np.sum(belongs_MxC * distance_MxC) / z.size, 1e-12)
        centres, proportion_C = belongs_MxC.T @ z / weight_C[:, None], weight_C / len(z)
    return centres, proportion_C, variance
