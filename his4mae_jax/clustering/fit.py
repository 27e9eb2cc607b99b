"""Cluster centres of a segmentation: fitted on a sample of its volume, read from the codebook, or from a file."""

import hashlib

import jax
import ml_collections
import numpy as np

from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.volumes.labels import Inside
from his4mae_jax.errors import UserError
from his4mae_jax.models.codebook import nearest_code
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.optimizer import make_optimizer


def fit_mask(config, labels):
    """The label volume outside whose cell no voxel is sampled for a fit, or None."""
    if labels is None or not config.segment.within_mask:
        return None
    return Inside(labels, config.segment.mask_margin)


def fit_centres(config, segmenter, volume, sizes, fraction, mask, codes_KxD=None, inside=None):
    """`({C: Centres}, voxels sampled)`: one sample of the volume, one k-means for each C.

    `inside` (slices) is the part of the volume to sample. With `codes_KxD` (`segment.centres =
    "codebook"`) the codes are grouped instead, by how often they are nearest in the sample. Supervised
    methods give classes: nothing is fitted.
    """
    s = config.segment
    if config.method in SUPERVISED:
        eye = np.eye(sizes[0], dtype=np.float32)  # |z - e_c|^2 is least where z_c is largest
        return {sizes[0]: centre_files.Centres(eye, eye)}, 0
    features, noises = segmenter.sample(
        volume, fraction, s.fit_tiles, config.seed, mask, inside=inside, most=s.fit_voxels,
        noise=s.metric == "whitened",
    )  # fmt: skip
    if codes_KxD is not None:
        usage_K = np.bincount(nearest_code(features, codes_KxD), minlength=len(codes_KxD))
        return {
            size: centre_files.from_codes(codes_KxD, usage_K, size, s.restarts, config.seed) for size in sizes
        }, len(features)
    white = centre_files.noise_whitening(features, *noises) if s.metric == "whitened" and noises else None
    # C centres span C - 1 directions at most: further ones would only add noise to distances.
    centres = {
        size: centre_files.fit(features, size, s.restarts, config.seed)
        if white is None
        else centre_files.fit(features, size, s.restarts, config.seed, white[:, :size], mixture=True)
        for size in sizes
    }
    return centres, len(features)


def read_codes(config, checkpoints, step):
    """The codebook of one checkpoint, `(K, D)`."""
    trained = ml_collections.ConfigDict(checkpoints.about(step)["config"])
    models = METHODS[trained.method].build(trained)
    like = jax.eval_shape(lambda: states.create(trained, models, make_optimizer(trained)))
    state, _ = checkpoints.restore(step, like, meshes.replicated(meshes.make_local_mesh()))
    return np.asarray(state.params["codebook"]["codes"])


def encoder_digest(params):
    """A text that tells one encoder's parameters from any others."""
    digest = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(x).tobytes())
    return digest.hexdigest()


def load_centres(path, sizes, digest):
    """`{C: Centres}` of a file that another segmentation left, for the same encoder's features.

    Raises `UserError` when it was fitted on another encoder's, or lacks a number of clusters.
    """
    found, facts = centre_files.load(path)
    if facts.get("encoder_digest") != digest:
        raise UserError(
            f"{path}: these centres were fitted on features of another checkpoint or encoder, which mean something "
            "else; give those of this training, or leave segment.centres_file empty"
        )
    missing = sorted(set(sizes) - set(found))
    if missing:
        raise UserError(
            f"{path}: no centres of {', '.join(map(str, missing))} clusters (there are {', '.join(map(str, found))}); "
            "set segment.clusters and evaluate.clusters accordingly"
        )
    return {size: found[size] for size in sizes}
