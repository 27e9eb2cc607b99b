"""The evaluate stage: scores of label volumes, baselines and checkpoints in one metrics dict."""

import contextlib
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from his4mae_jax.bucket.path import PathLike, place
from his4mae_jax.clustering.centres import class_names
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.label_check import absent_classes
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError, mask
from his4mae_jax.evaluation import dice, scores
from his4mae_jax.evaluation.baseline import score_baseline
from his4mae_jax.evaluation.curve import dsc_curve
from his4mae_jax.output.plan import headline, label_path, label_sizes, labelled_by, need_checkpoint
from his4mae_jax.output.publish import damage
from his4mae_jax.output.records import SEGMENTATION, centres_digest, segmentation, segmented
from his4mae_jax.progress import Log
from his4mae_jax.training.run.checkpoints import Checkpoints


def evaluate(
    config: ml_collections.ConfigDict,
    test: Target,
    workdir: PathLike,
    log: Log,
    folder: PathLike | None = None,
) -> tuple[dict[str, Any], list[int | None]]:
    """Scores a segmentation, the baselines and the checkpoints of the curve.

    Args:
      config: the configuration.
      test: the volume and its ground truth.
      workdir: folder of the run.
      log: prints one line.
      folder: of the labels; None: the workdir.

    Returns:
      (content of metrics.json; class of each headline cluster by one-to-one matching, or None).

    Raises:
      UserError: there is no such segmentation, it is of another volume, or it does not fit the ground truth.
    """
    folder = workdir if folder is None else folder
    frozen = "encoder_file" in segmentation(folder)
    if not frozen:
        need_checkpoint(workdir)
    facts = segmented(folder, label_sizes(config))
    _check_volume(facts, test, folder)
    found = damage(folder, log)
    if found:
        more = f" (and {len(found) - 1} more, which `his4mae check` lists)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}; run the segment stage again, which makes damaged labels anew")
    probed, clusters = class_names(config.segment.centres_file), headline(config)
    supervised = config.method in SUPERVISED or probed == tuple(test.class_names)
    confusions = _confusions(config, test, folder)
    _check_classes(test, confusions[clusters], log)
    trained = 0.0 if frozen else _training_seconds(config, workdir, facts["step"])
    seconds = {"train": trained, "segment": facts["seconds"]}
    own = scores.of_method(confusions, clusters, test.class_names, seconds, supervised=supervised)
    baselines = _baselines(config, test, log)
    metrics = {
        "method": labelled_by(config, facts), "volume": mask(test.image.name), "segmentation": facts["job"], **own,
        "baselines": baselines,
    }  # fmt: skip
    # Classes of a probe belong to one checkpoint, and a frozen encoder has none.
    if config.evaluate.curve_box and not probed and not frozen:
        metrics["curve"] = dsc_curve(config, test, workdir, log, (facts["step"], metrics["dsc"]))
    one, many = (dice.direct,) * 2 if supervised else (dice.one_to_one, dice.many_to_one)
    one_to_one = one(confusions[clusters], test.class_names).assignment
    metrics["matching"] = {
        "centres": centres_digest(folder, clusters),
        "one_to_one": _class_of_label(one_to_one, test.class_names),
        "many_to_one": _class_of_label(many(confusions[clusters], test.class_names).assignment, test.class_names),
    }
    return metrics, one_to_one


def _class_of_label(assignment: Sequence[int | None], class_names: Sequence[str]) -> dict[str, str | None]:
    """The class name of each label, or None where it stands for no class."""
    return {str(i): None if c is None else class_names[c] for i, c in enumerate(assignment, 1)}


def same_volume(one: str, other: str) -> bool:
    """Whether two names mean the same volume: local paths to one file or folder, or equal texts."""
    one, other = mask(one), mask(other)  # records have no secrets, and signatures change from day to day
    local = "://" not in one and "://" not in other
    return one == other or (local and pathlib.Path(one).resolve() == pathlib.Path(other).resolve())


def _check_volume(facts: dict[str, Any], test: Target, folder: PathLike) -> None:
    """Raises `UserError` where the labels are of another volume than the ground truth."""
    if not same_volume(facts["volume"], test.image.name):
        raise UserError(
            f"{place(folder) / SEGMENTATION}: the labels are of {facts['volume']}, not of "
            f"{test.image.name}; segment that volume with this config"
        )


def _check_classes(test: Target, confusion: np.ndarray, log: Log) -> None:
    """Says which classes have no voxel in the ground truth; `UserError` where it is a mask of 0 and 255."""
    counts, truth = confusion.sum(0), test.output_labels
    error, warning = absent_classes(truth.name, test.class_names, counts, math.prod(truth.shape) - int(counts.sum()))
    if error:
        raise UserError(error)
    if warning:
        log(warning)


def _confusions(config: ml_collections.ConfigDict, test: Target, folder: PathLike) -> dict[int, np.ndarray]:
    """The confusion matrix of each label volume in a folder, by its number of labels."""
    confusions = {}
    for size in label_sizes(config):
        labels = open_volume(label_path(folder, size, headline(config)), image=False)
        confusions[size] = dice.confusion(labels, test.output_labels, size, len(test.class_names))
    return confusions


def _training_seconds(config: ml_collections.ConfigDict, workdir: PathLike, step: int) -> float:
    """Seconds of training up to the checkpoint that was segmented with."""
    with contextlib.closing(Checkpoints(workdir, config)) as checkpoints:
        return checkpoints.about(step)["seconds"]


def _baselines(config: ml_collections.ConfigDict, test: Target, log: Log) -> dict[str, Any]:
    """The scores of each classical baseline that the config names."""
    sizes, baselines = sorted({config.segment.clusters, *config.evaluate.clusters}), {}
    for kind in config.evaluate.baselines:
        log(f"evaluate: baseline {kind} with k-means")
        baselines[kind] = score_baseline(kind, config, test, sizes, log)
    return baselines
