"""Score maps: distances to cluster centres up to a term that all centres share, linear in the features.

|z - c|^2 - |z|^2 = |c|^2 - 2 z.c. Averages over fields of view and linear expansion to voxels commute with a linear
map, so tokens become C scores first, and C maps are expanded to voxels in place of D features.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class LinearScores:
    """One clustering as scores `offset + z . weights`; the centre with the smallest score is the nearest.

    Attributes:
      weights_CxD: float32.
      offset_C: float32.
      group_C: label of each centre (integers), where several centres share one; None: the centre's own number.
      variance: of features within a cluster, per direction: `exp(-score / (2 variance))` is in proportion to a
        centre's probability.
      hidden: (weights `(D, H)`, bias `(H,)`) of a layer gelu(z weights + bias) that takes the place of z, with
        `weights_CxD` of shape `(C, H)`; None: scores are linear in z.
      texture: where it is not 0, z has the features and their texture in a Gaussian of so many tokens behind them
        (`lattice.texture`): D is twice that of the encoder.
    """

    weights_CxD: np.ndarray
    offset_C: np.ndarray
    group_C: np.ndarray | None = None
    variance: float = 1.0
    hidden: tuple[np.ndarray, np.ndarray] | None = None
    texture: float = 0.0

    @property
    def maps(self) -> int:
        """Values at each lattice point: the scores, and the features where these are needed beside them."""
        inputs = self.weights_CxD.shape[1] if self.hidden is None else len(self.hidden[0])
        if self.texture:  # features, two moments of each, and what becomes of them
            return len(self.offset_C) + 2 * inputs
        return len(self.offset_C) + (0 if self.hidden is None else inputs)


@dataclasses.dataclass(frozen=True)
class StackedScores:
    """Several clusterings as the arguments of jitted functions.

    Attributes:
      heads: for each clustering its weights, offset and hidden layer, as `LinearScores` has them.
      groups: for each clustering the label of each centre (uint8) or None.
      counts: number of centres of each clustering.
      probable: (index, number of labels) of the clustering whose probabilities are wanted, or None.
      variance: of that clustering.
      texture: of the clusterings that have one, else 0: scores are then taken of whole features, as `heads` says.
    """

    heads: tuple[tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None], ...]
    groups: tuple[jax.Array | None, ...]
    counts: tuple[int, ...]
    probable: tuple[int, int] | None
    variance: np.float32
    texture: float

    @classmethod
    def of(cls, clusterings: Mapping[int, LinearScores], probabilities_of: int | None) -> "StackedScores":
        """Stacks `{number of labels: LinearScores}`."""
        each = tuple(clusterings.values())
        probable = variance = None
        if probabilities_of is not None:
            probable = (list(clusterings).index(probabilities_of), probabilities_of)
            variance = clusterings[probabilities_of].variance
        return cls(
            tuple((c.weights_CxD, c.offset_C, c.hidden) for c in each),
            tuple(None if c.group_C is None else jnp.asarray(c.group_C, jnp.uint8) for c in each),
            tuple(len(c.offset_C) for c in each),
            probable,
            np.float32(1.0 if variance is None else variance),
            texture_of(clusterings),
        )

    @property
    def linear(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The arguments of `scores` behind the features, of all clusterings at once; None where one is not linear in
        single tokens."""
        if self.texture or any(hidden is not None for _, _, hidden in self.heads):
            return None
        weights, offsets, _ = zip(*self.heads, strict=True)
        return np.concatenate(weights), np.concatenate(offsets)


def texture_of(clusterings: Mapping[int, LinearScores]) -> float:
    """The `LinearScores.texture` of those clusterings that have one; 0 where none has.

    Raises:
      ValueError: they differ.
    """
    widths = {c.texture for c in clusterings.values()} - {0.0}
    if len(widths) > 1:
        raise ValueError(f"clusterings of several textures, {sorted(widths)}; one at a time can be applied")
    return widths.pop() if widths else 0.0


def scores(features: jax.Array, weights_CxD: jax.Array, offset_C: jax.Array) -> jax.Array:
    """Scores of features `(..., D)` for each centre, `(..., C)`."""
    # "highest": labels must not depend on how a backend rounds a matmul.
    return offset_C + jnp.einsum("...d,cd->...c", features.astype(jnp.float32), weights_CxD, precision="highest")


def head_scores(
    features: jax.Array,
    heads: Sequence,
    smoothed: Callable[[jax.Array], jax.Array] | None = None,
    texture: jax.Array | None = None,
    put_back: Callable[[jax.Array], jax.Array] = lambda maps: maps,
) -> jax.Array:
    """Scores by the `StackedScores.heads`, one after the other: `(..., sum(C))`.

    What a head does with the features first is linear, so it is smoothed in their place.

    Args:
      features: `(..., D)`.
      heads: those with 2 D inputs count the texture, the others leave it out.
      smoothed: smooths a lattice of any number of maps; None: features count as they are.
      texture: of the features, `(..., D)`.
      put_back: makes maps of `texture` into maps of the points of `features`, where they are not the same points.
    """
    maps, dim = [], features.shape[-1]
    for weights_CxH, offset_C, hidden in heads:
        inputs, constant = (weights_CxH.T, offset_C) if hidden is None else hidden
        z = scores(features, inputs[:dim].T, constant)
        z = z if smoothed is None else smoothed(z)
        if len(inputs) > dim:
            z = z + put_back(scores(texture, inputs[dim:].T, np.float32(0)))
        maps.append(z if hidden is None else scores(jax.nn.gelu(z), weights_CxH, offset_C))
    return jnp.concatenate(maps, axis=-1)


def nearest(maps: jax.Array, sizes: Sequence[int], groups: Sequence[jax.Array | None] | None = None) -> jax.Array:
    """Labels of several clusterings from their stacked score maps.

    Args:
      maps: `(..., sum(sizes))`.
      sizes: number of centres of each clustering.
      groups: for each clustering the label of each centre (uint8), or None: the centre's own number.

    Returns:
      `(len(sizes), ...)` uint8, ids from 1.
    """
    labels = []
    parts = jnp.split(maps, np.cumsum(sizes)[:-1], axis=-1)
    for part, group in zip(parts, groups or [None] * len(sizes), strict=True):
        centre = jnp.argmin(part, axis=-1)
        labels.append(1 + (centre.astype(jnp.uint8) if group is None else group[centre]))
    return jnp.stack(labels)


def probabilities(
    maps: jax.Array,
    sizes: Sequence[int],
    groups: Sequence[jax.Array | None],
    clustering: int,
    labels: int,
    variance: float | jax.Array,
) -> jax.Array:
    """Softmax of the scores of one clustering.

    With squared distances d to the centres it is that of -d / (2 variance): the posterior of a mixture of equal
    spheres. Centres that share a label add up.

    Args:
      maps: stacked score maps, `(..., sum(sizes))`.
      sizes: number of centres of each clustering.
      groups: see `nearest`.
      clustering: index of the clustering.
      labels: number of its labels, L.
      variance: see `LinearScores`.

    Returns:
      `(L, ...)` uint8, 255 for probability 1.
    """
    part = jnp.split(maps, np.cumsum(sizes)[:-1], axis=-1)[clustering]
    posterior = jnp.moveaxis(jax.nn.softmax(-part / (2.0 * variance), axis=-1), -1, 0)
    if groups[clustering] is not None:
        posterior = jax.ops.segment_sum(posterior, groups[clustering].astype(jnp.int32), num_segments=labels)
    return jnp.round(255.0 * posterior).astype(jnp.uint8)
