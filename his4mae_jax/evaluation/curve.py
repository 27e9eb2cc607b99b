"""The curve of a run (Fig. 3): the DSC of checkpoints spread over the training."""

import contextlib
from typing import Any

import ml_collections
import numpy as np

from his4mae_jax.bucket.path import PathLike
from his4mae_jax.clustering.centres import linear_scores
from his4mae_jax.clustering.fit import fit_centres, fit_mask, read_codes
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.volumes.crop import central_box
from his4mae_jax.data.volumes.in_memory import from_array
from his4mae_jax.evaluation import dice, scores
from his4mae_jax.evaluation.classical import progressing
from his4mae_jax.inference.trained import volume_encoder
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.output.plan import headline
from his4mae_jax.progress import Log
from his4mae_jax.training.run.checkpoints import Checkpoints


def dsc_curve(
    config: ml_collections.ConfigDict,
    test: Target,
    workdir: PathLike,
    log: Log,
    scored: tuple[int, dict[str, Any]],
) -> list[dict[str, Any]]:
    """DSC of checkpoints spread over the run, on a box in the middle of the volume (Fig. 3).

    Each checkpoint gets centres of its own, fitted on the same voxels. The curve is only shown: the score of a run is
    always that of its last checkpoint.

    Args:
      config: the configuration.
      test: the volume and its ground truth.
      workdir: folder of the run.
      log: prints one line.
      scored: (step, DSC) of the segmentation itself, which is reused where the box is the whole volume.

    Returns:
      {"step", "dsc"} of each checkpoint; empty where the box is smaller than a field of view.
    """
    box = central_box(test.image.shape, config.evaluate.curve_box)
    part = test.cropped(box)
    curve = []
    with contextlib.closing(Checkpoints(workdir, config)) as checkpoints:
        for step in progressing("evaluate: curve", list(checkpoints.spread()), "checkpoints", log):
            if step == scored[0] and part.image.shape == test.image.shape:
                curve.append({"step": step, "dsc": scored[1]})
                continue
            encoder = volume_encoder(config, checkpoints, step, test.image)
            if encoder.coverage.axis_too_small(part.image.shape):
                fov = encoder.coverage.fov
                log(f"evaluate: no curve: evaluate.curve_box is smaller than the field of view of {fov}")
                break
            dsc = _score(config, encoder, part, read_codes(config, checkpoints, step), log)
            curve.append({"step": int(step), "dsc": dsc})
            shape, mean = part.image.shape, dsc["one_to_one"]["mean"]
            log(f"evaluate: step {step}: mean DSC {mean:.3f} in a box of {shape}")
    return curve


def _score(
    config: ml_collections.ConfigDict, encoder: VolumeEncoder, part: Target, codes_KxD: np.ndarray | None, log: Log
) -> dict[str, dict[str, float]]:
    """Fits centres on a box, labels it and scores the labels."""
    image, clusters = part.image, headline(config)
    mask = fit_mask(config, part.labels)
    fit = fit_centres(config, encoder, image, [clusters], mask, codes_KxD, choice=False, log=log)
    labels = encoder.labels(image, linear_scores(fit.centres), onto=part.onto, encoded=fit.encoded)[clusters]
    labels = from_array(labels, part.output.voxel_size_nm, f"labels of {image.name}", image=False)
    confusion = dice.confusion(labels, part.output_labels, clusters, len(part.class_names))
    return scores.by_matching(confusion, part.class_names, supervised=config.method in SUPERVISED)
