"""The evaluate stage: score label volumes, baselines and checkpoints into one metrics dict."""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
import numpy as np

from his4mae_jax.clustering.centres import linear_scores
from his4mae_jax.clustering.fit import fit_centres, fit_mask, read_codes
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.volumes.contrast import estimate_contrast
from his4mae_jax.data.volumes.crop import Crop, central_box
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation import dice
from his4mae_jax.evaluation.classical import cluster_classical, progressing
from his4mae_jax.inference.trained import volume_encoder
from his4mae_jax.output.plan import headline, label_path, label_sizes, need_checkpoint
from his4mae_jax.output.records import segmented
from his4mae_jax.training.run.checkpoints import Checkpoints


def same_volume(one: str, other: str) -> bool:
    """Whether two names mean the same volume: local paths to one file or folder, or equal texts."""
    local = "://" not in one and "://" not in other
    return one == other or (local and pathlib.Path(one).resolve() == pathlib.Path(other).resolve())


def _score(confusion: np.ndarray, class_names: Sequence[str], supervised: bool = False) -> dict[str, dict[str, float]]:
    """DSC by both ways of matching; the labels of a supervised method are classes, so that both are equal."""
    one, many = (dice.direct,) * 2 if supervised else (dice.one_to_one, dice.many_to_one)
    return {"one_to_one": one(confusion, class_names).dsc, "many_to_one": many(confusion, class_names).dsc}


def _block(confusions, headline, class_names, seconds, supervised=False):
    """The metrics block of one method from its confusion matrices by C."""
    by_clusters = {str(size): _score(c, class_names, supervised) for size, c in sorted(confusions.items())}
    return {
        "dsc": by_clusters[str(headline)], "clusters": headline, "seconds": seconds, "by_clusters": by_clusters,
    }  # fmt: skip


def _baseline(kind, config, test, sizes, log):
    """Clusters the volume by a classical baseline and scores it block by block; its labels are not kept."""
    contrast = estimate_contrast(
        test.image, percentiles=tuple(config.data.contrast_percentiles), invert=config.data.invert, seed=config.seed
    )
    confusions = {size: np.zeros((size + 1, len(test.class_names)), np.int64) for size in sizes}
    truth, truth_box = None, None

    def score(size, box, labels):
        nonlocal truth, truth_box
        if box != truth_box:  # all sizes of a block come one after the other
            truth, truth_box = test.labels.read(box), box
        confusions[size] += dice.block_confusion(labels, truth, size, len(test.class_names), kind, test.labels.name)

    began = time.perf_counter()
    cluster_classical(
        test.image, kind, sizes, score, contrast=contrast, mask=fit_mask(config, test.labels), seed=config.seed,
        fraction=config.segment.fraction, block=config.segment.block, restarts=config.segment.restarts, log=log,
    )  # fmt: skip
    seconds = {"segment": time.perf_counter() - began}
    return _block(confusions, config.segment.clusters, test.class_names, seconds)


class _Array:
    """A label array with the interface of a volume."""

    def __init__(self, array, like):
        self.array, self.name, self.voxel_size_nm = array, f"labels of {like.name}", like.voxel_size_nm
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, slices):
        return self.array[slices]


def dsc_curve(
    config: ml_collections.ConfigDict,
    test: Target,
    workdir: str | pathlib.Path,
    log: Callable[[str], None],
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
    checkpoints = Checkpoints(workdir, config)
    box = central_box(test.image.shape, config.evaluate.curve_box)
    image, labels = Crop(test.image, box), Crop(test.labels, box)
    mask = fit_mask(config, labels)
    clusters, curve = headline(config), []
    for step in progressing("evaluate: curve", list(checkpoints.spread()), "checkpoints", log):
        if step == scored[0] and image.shape == test.image.shape:
            curve.append({"step": step, "dsc": scored[1]})
            continue
        encoder = volume_encoder(config, checkpoints, step, test.image)
        if encoder.coverage.axis_too_small(image.shape):
            log(f"evaluate: no curve: evaluate.curve_box is smaller than the field of view of {encoder.coverage.fov}")
            break
        # A tenth of the box's voxels at most: small boxes hold few thousandths.
        fraction = min(0.1, max(config.segment.fraction, 5000 / np.prod(image.shape)))
        codes_KxD = read_codes(config, checkpoints, step)
        fit = fit_centres(config, encoder, image, [clusters], fraction, mask, codes_KxD, log=log)
        clustered = encoder.labels(image, linear_scores(fit.centres), encoded=fit.encoded)[clusters]
        confusion = dice.confusion(_Array(clustered, image), labels, clusters, len(test.class_names))
        curve.append({"step": int(step), "dsc": _score(confusion, test.class_names, config.method in SUPERVISED)})
        log(f"evaluate: step {step}: mean DSC {curve[-1]['dsc']['one_to_one']['mean']:.3f} in a box of {image.shape}")
    checkpoints.close()
    return curve


def evaluate(
    config: ml_collections.ConfigDict, test: Target, workdir: str | pathlib.Path, log: Callable[[str], None]
) -> tuple[dict[str, Any], list[int | None]]:
    """Scores the segmentation in the workdir, the baselines and the checkpoints of the curve.

    Args:
      config: the configuration.
      test: the volume and its ground truth.
      workdir: folder of the run.
      log: prints one line.

    Returns:
      (content of metrics.json; class of each headline cluster by one-to-one matching, or None).

    Raises:
      UserError: there is no such segmentation, it is of another volume, or it does not fit the ground truth.
    """
    need_checkpoint(workdir)
    sizes, supervised = label_sizes(config), config.method in SUPERVISED
    facts = segmented(workdir, sizes)
    if not same_volume(facts["volume"], test.image.name):
        raise UserError(
            f"{pathlib.Path(workdir) / 'segment.json'}: the labels are of {facts['volume']}, not of "
            f"{test.image.name}; segment that volume with this config"
        )
    clusters = headline(config)
    confusions = {}
    for size in sizes:
        labels = open_volume(label_path(workdir, size, clusters), image=False)
        confusions[size] = dice.confusion(labels, test.labels, size, len(test.class_names))
    checkpoints = Checkpoints(workdir, config)
    seconds = {"train": checkpoints.about(facts["step"])["seconds"], "segment": facts["seconds"]}
    checkpoints.close()
    block = _block(confusions, clusters, test.class_names, seconds, supervised)
    metrics = {"method": config.method, "volume": test.image.name, **block}
    metrics["baselines"] = {}
    baseline_sizes = sorted({config.segment.clusters, *config.evaluate.clusters})
    for kind in config.evaluate.baselines:
        log(f"evaluate: baseline {kind} with k-means")
        metrics["baselines"][kind] = _baseline(kind, config, test, baseline_sizes, log)
    if config.evaluate.curve_box:
        metrics["curve"] = dsc_curve(config, test, workdir, log, (facts["step"], metrics["dsc"]))
    match = dice.direct if supervised else dice.one_to_one
    return metrics, match(confusions[clusters], test.class_names).assignment
