"""How many clusters a volume has, without labels: how well clusters of one part are found again in the rest.

Prediction strength (Tibshirani and Walther 2005): voxels are divided into two parts by blocks of space, centres are
fitted in each, and those of one part are asked which voxels of the other belong together. The strength of a cluster is
the share of its pairs of voxels that they put together; of a number of clusters it is that of its weakest one.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special

from his4mae_jax.clustering.kmeans import kmeans, mixture
from his4mae_jax.clustering.sampling import Sample
from his4mae_jax.progress import Log, progress, say

STRONG = 0.9  # prediction strength from which on clusters count as found again; the paper's range is 0.8 to 0.9
BLOCKS = 4  # of space along each axis, by turns of one part and the other
RESTARTS = 3  # of k-means in each part
MOST = 20_000  # voxels, drawn at random: more change the strengths by less than their spread over seeds
ITERATIONS = 60  # of EM
LEAST_PER_CLUSTER = 20  # voxels of a part, or numbers of clusters are left out


@dataclasses.dataclass(frozen=True)
class Choice:
    """Measures for several numbers of clusters C.

    Attributes:
      clusters: the numbers, ascending.
      weakest: prediction strength of the weakest cluster, 0 to 1, mean of both ways.
      mean: of all clusters.
      likelihood: mean log-likelihood of a voxel of one part by the mixture of the other (nats), in the same space for
        all C.
    """

    clusters: tuple[int, ...]
    weakest: tuple[float, ...]
    mean: tuple[float, ...]
    likelihood: tuple[float, ...]

    @property
    def best(self) -> int | None:
        """The largest number whose clusters are all found again (`STRONG`); None: there is none."""
        strong = [c for c, strength in zip(self.clusters, self.weakest, strict=True) if strength >= STRONG]
        return max(strong, default=None)

    def text(self) -> str:
        """One line that says so."""
        strength = dict(zip(self.clusters, self.weakest, strict=True))
        if self.best is None:
            most = max(self.clusters, key=strength.get)
            return (
                f"no number of clusters is found again in other parts of the volume (prediction strength at most "
                f"{strength[most]:.2f}, at {most}); labels may say little"
            )
        return (
            f"up to {self.best} clusters are found again in other parts of the volume (prediction strength "
            f"{strength[self.best]:.2f})"
        )

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Choice | None":
        """What `to_json` gave; None where it is not there, or damaged."""
        try:
            each = [tuple(value[field.name]) for field in dataclasses.fields(cls)]
        except (TypeError, KeyError):
            return None
        whole = (
            len({len(x) for x in each}) == 1 and each[0] and all(isinstance(v, int | float) for x in each for v in x)
        )
        return cls(*each) if whole else None


def compare(
    sample: Sample, clusters: Sequence[int], *, white_DxD: np.ndarray | None, seed: int, log: Log = say
) -> Choice | None:
    """Measures each number of clusters; None where the sample is too small for the smallest.

    Args:
      sample: of the volume.
      clusters: numbers of clusters.
      white_DxD: `noise_whitening` of the sample, where the fit whitens; then so many of its directions count as there
        are clusters, and labels are by the centres of mixtures, as in the fit.
      seed: of the draw of voxels and of k-means.
      log: prints a line of progress.
    """
    rng = np.random.default_rng([seed, 3])
    rows = np.sort(rng.permutation(len(sample.features_MxD))[:MOST])
    part_M = _checkerboard(sample.index_Mx3[rows]) if len(rows) else np.zeros(0, bool)
    fewest = min(part_M.sum(), (~part_M).sum())
    clusters = [c for c in sorted(set(clusters)) if c * LEAST_PER_CLUSTER <= fewest]
    if not clusters:
        return None
    z_MxF = sample.features_MxD[rows]
    if white_DxD is not None:
        z_MxF = z_MxF @ white_DxD[:, : clusters[-1]]
    z_MxF = z_MxF - z_MxF.mean(axis=0)
    found = []
    with progress("fit: numbers of clusters", len(clusters), log=log) as bar:
        for size in clusters:
            used = z_MxF.shape[1] if white_DxD is None else size
            found.append(_measure(z_MxF, used, part_M, size, seed, mixed=white_DxD is not None))
            bar.advance()
    return Choice(tuple(clusters), *(tuple(float(v) for v in column) for column in zip(*found, strict=True)))


def _checkerboard(index_Mx3: np.ndarray) -> np.ndarray:
    """Which voxels are of the first part: blocks of space by turns."""
    first = index_Mx3.min(axis=0)
    sides = np.maximum((np.ptp(index_Mx3, axis=0) + 1) / BLOCKS, 1)
    return ((index_Mx3 - first) // sides).sum(axis=1) % 2 == 0


def _measure(z_MxF, used: int, part_M, size: int, seed: int, mixed: bool) -> tuple[float, float, float]:
    """(strength of the weakest cluster, mean strength, log-likelihood) of one number of clusters, both ways.

    `mixed`: whether labels are by the centres of the mixture, as those of a volume are, or by those of k-means.
    """
    y_MxU, fits, labels = z_MxF[:, :used], [], []
    for part in (part_M, ~part_M):
        centres = kmeans(y_MxU[part], size, RESTARTS, seed, log=lambda line: None).centres_CxF
        fits.append(mixture(y_MxU[part], centres, ITERATIONS))
        centres = fits[-1][0] if mixed else centres
        labels.append(np.argmin(np.sum(centres**2, axis=1) - 2 * y_MxU @ centres.T, axis=1))
    ways, likelihood = [], []
    for here, part in enumerate((part_M, ~part_M)):
        ways.append(prediction_strength(labels[here][part], labels[1 - here][part], size))
        other = z_MxF[~part]
        likelihood.append(
            np.mean(_mixture_likelihood(y_MxU[part], *fits[1 - here]))
            + np.mean(_normal_likelihood(z_MxF[part][:, used:], other[:, used:]))
        )
    return np.mean([w.min() for w in ways]), np.mean([w.mean() for w in ways]), np.mean(likelihood)


def prediction_strength(own_M: np.ndarray, other_M: np.ndarray, clusters: int) -> np.ndarray:
    """For each cluster of `own` the share of its pairs of points that are together in `other` too, `(C,)`.

    Clusters of fewer than two points have strength 0.
    """
    table = np.zeros((clusters, clusters))
    np.add.at(table, (own_M, other_M), 1)
    size_C = table.sum(axis=1)
    return np.sum(table * (table - 1), axis=1) / np.maximum(size_C * (size_C - 1), 1)


def _mixture_likelihood(y_MxU, centres_CxU, proportion_C, variance: float) -> np.ndarray:
    distance = np.sum(y_MxU**2, axis=1, keepdims=True) - 2 * y_MxU @ centres_CxU.T + np.sum(centres_CxU**2, axis=1)
    return scipy.special.logsumexp(-distance / (2 * variance), axis=1, b=proportion_C) - (
        y_MxU.shape[1] / 2 * math.log(2 * math.pi * variance)
    )


def _normal_likelihood(x_MxR, other_NxR) -> np.ndarray:
    """Of the directions that this number of clusters does not use: one normal distribution along each."""
    mean, variance = other_NxR.mean(axis=0), np.maximum(other_NxR.var(axis=0), 1e-12)
    return -0.5 * np.sum((x_MxR - mean) ** 2 / variance + np.log(2 * math.pi * variance), axis=1)
