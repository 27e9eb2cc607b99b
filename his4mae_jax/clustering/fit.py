"""Cluster centres of a segmentation: fitted on a sample of its volume, or read from the codebook."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from his4mae_jax.clustering import clusters
from his4mae_jax.clustering.centres import Centres
from his4mae_jax.clustering.choice import Choice, compare
from his4mae_jax.clustering.sampling import sample
from his4mae_jax.clustering.whitening import noise_whitening
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.volumes.labels import Inside
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.inference.tiling import Encoded
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.models.codebook import nearest_code
from his4mae_jax.progress import Log, say
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.run.checkpoints import Checkpoints
from his4mae_jax.training.step.state import state_like


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """Centres of several numbers of clusters, fitted on one sample.

    Attributes:
      centres: by the number of labels.
      voxels: in the sample.
      encoded: see `sampling.Sample`, or features that were kept.
      choice: of the numbers of clusters in `segment.compare_clusters`; None: not measured.
    """

    centres: dict[int, Centres]
    voxels: int = 0
    encoded: Encoded | None = None
    choice: Choice | None = None


def fit_mask(config: ml_collections.ConfigDict, labels: VolumeLike | None) -> VolumeLike | None:
    """The label volume outside whose cell no voxel is sampled for a fit, or None."""
    if labels is None or not config.segment.within_mask:
        return None
    return Inside(labels, config.segment.mask_margin)


def fit_centres(
    config: ml_collections.ConfigDict,
    encoder: VolumeEncoder,
    volume: VolumeLike,
    sizes: Sequence[int],
    mask: VolumeLike | None,
    codes_KxD: np.ndarray | None = None,
    inside: Box | None = None,
    *,
    choice: bool = True,
    log: Log = say,
) -> Fit:
    """The centres of a run: `fit_clusters` by its settings; classes of a supervised method are not fitted.

    Args:
      config: `segment` and `seed` of it count.
      encoder: bound to the volume's grey levels.
      volume: to sample.
      sizes: numbers of clusters.
      mask: see `fit_mask`.
      codes_KxD: the codebook where `segment.centres` is "codebook".
      inside: the part of the volume to sample; None: all of it.
      choice: whether `segment.compare_clusters` are compared.
      log: prints a line of progress.
    """
    if config.method in SUPERVISED:
        eye = np.eye(sizes[0], dtype=np.float32)  # |z - e_c|^2 is least where z_c is largest
        return Fit({sizes[0]: Centres(eye, eye)})
    return fit_clusters(
        encoder, volume, sizes, config.segment, seed=config.seed, mask=mask, codes_KxD=codes_KxD, inside=inside,
        choice=choice, log=log,
    )  # fmt: skip


def fit_clusters(
    encoder: VolumeEncoder,
    volume: VolumeLike,
    sizes: Sequence[int],
    segment: Mapping[str, Any],
    *,
    seed: int = 0,
    mask: VolumeLike | None = None,
    codes_KxD: np.ndarray | None = None,
    inside: Box | None = None,
    choice: bool = True,
    log: Log = say,
) -> Fit:
    """One sample of the volume, and on it one k-means for each number of clusters.

    Args:
      encoder: bound to the volume's grey levels.
      volume: to sample.
      sizes: numbers of clusters.
      segment: settings with the keys of `config.segment`: fraction, fit_tiles, fit_least, fit_voxels, metric,
        restarts, compare_clusters.
      seed: of the sample and of k-means.
      mask: label volume; voxels of `IGNORE` are not sampled.
      codes_KxD: group these codes instead, by how often they are nearest in the sample.
      inside: the part of the volume to sample; None: all of it.
      choice: whether `compare_clusters` are compared; not where codes are grouped.
      log: prints a line of progress.

    Raises:
      UserError: fewer voxels were sampled than there are clusters, or no code is in use.
    """
    whitened, restarts = segment["metric"] == "whitened", segment["restarts"]
    sampled = sample(
        encoder, volume, segment["fraction"], segment["fit_tiles"], seed, mask, inside=inside,
        least=segment["fit_least"], most=segment["fit_voxels"], noise=whitened, log=log,
    )  # fmt: skip
    features, white = sampled.features_MxD, None
    if codes_KxD is not None:
        usage_K = np.bincount(nearest_code(features, codes_KxD), minlength=len(codes_KxD))
        centres = {size: clusters.from_codes(codes_KxD, usage_K, size, restarts, seed, log=log) for size in sizes}
    elif whitened and sampled.noises:
        # C centres span C - 1 directions at most: further ones would only add noise to distances.
        white = noise_whitening(features, *sampled.noises)
        centres = {
            size: clusters.from_features(features, size, restarts, seed, white[:, :size], mixture=True, log=log)
            for size in sizes
        }
    else:
        centres = {size: clusters.from_features(features, size, restarts, seed, log=log) for size in sizes}
    found = None
    if choice and segment["compare_clusters"] and codes_KxD is None:
        found = compare(sampled, segment["compare_clusters"], white_DxD=white, seed=seed, log=log)
        if found:
            log(f"fit: {found.text()}")
    return Fit(centres, len(features), sampled.encoded, found)


def read_codes(config: ml_collections.ConfigDict, checkpoints: Checkpoints, step: int) -> np.ndarray | None:
    """The codebook of one checkpoint, `(K, D)`; None unless `segment.centres` is "codebook"."""
    if config.segment.centres != "codebook":
        return None
    trained = ml_collections.ConfigDict(checkpoints.about(step)["config"])
    state, _ = checkpoints.restore(step, state_like(trained), meshes.replicated(meshes.make_local_mesh()))
    return np.asarray(state.params["codebook"]["codes"])


def encoder_digest(params: Any) -> str:
    """A hash that differs between encoders with different parameters."""
    digest = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(x).tobytes())
    return digest.hexdigest()
