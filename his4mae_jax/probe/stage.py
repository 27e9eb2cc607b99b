"""The probe stage: labels in, a centres file with named classes and places to label next out."""

import contextlib
import os
import pathlib

import ml_collections
import numpy as np

from his4mae_jax import files
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.centres import Classes
from his4mae_jax.clustering.fit import encoder_digest
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.inference.trained import load
from his4mae_jax.output import records
from his4mae_jax.output.plan import bind_to, need_checkpoint
from his4mae_jax.probe.classifier import Classifier, fit_classifier
from his4mae_jax.probe.features import features_at, random_voxels
from his4mae_jax.probe.labels import Labelled, read_labels
from his4mae_jax.probe.suggest import least_sure, write_suggestions
from his4mae_jax.progress import Log
from his4mae_jax.training.run.checkpoints import Checkpoints

PROBE, SUGGEST = "probe.npz", "suggest.csv"
SAMPLE = 10_000  # voxels at random, which say how common classes are and from which suggestions are chosen


def probe(
    config: ml_collections.ConfigDict, target: Target, own: VolumeLike, workdir: str | os.PathLike, log: Log
) -> Classifier:
    """Fits a classifier on `probe.labels`; writes `probe.npz` and `suggest.csv`.

    Args:
      config: the configuration.
      target: the volume that was labelled.
      own: that volume at the voxel size of its file: points count its voxels.
      workdir: folder of a training.
      log: prints one line.

    Raises:
      UserError: the labels cannot be used, or something of the user is in the way.
    """
    settings, workdir = config.probe, pathlib.Path(workdir)
    if config.method in SUPERVISED:
        raise UserError(f"config key method is {config.method!r}: its labels are classes already; it needs no probe")
    if not settings.labels:
        raise UserError("config key probe.labels is empty: give a CSV file of points, or a volume of sparse labels")
    need_checkpoint(workdir)
    _check_free(workdir)
    image = target.image
    with contextlib.closing(Checkpoints(workdir, config)) as checkpoints:
        step = checkpoints.steps()[-1]
        trained = load(checkpoints, step, config.segment.encoder)
    encoder, inside = bind_to(trained, image, config.segment, config.seed)
    labelled = read_labels(
        settings.labels, own, image, inside, encoder.padding, names=settings.names, class_names=target.class_names,
        most=settings.voxels, seed=config.seed,
    )  # fmt: skip
    log(f"probe: {', '.join(f'{n:,} of {name}' for name, n in zip(labelled.names, labelled.counts, strict=True))}")
    random = random_voxels(encoder, image, inside, SAMPLE, config.segment.fit_tiles, config.seed)
    if len(encoder.coverage.fit_tiles(image.shape, inside=inside)) <= config.segment.fit_tiles:
        features = features_at(encoder, image, inside, np.concatenate([labelled.index_Mx3, random]), log=log)
        features, unlabelled = np.split(features, [len(labelled.index_Mx3)])
    else:  # clicks need smaller tiles than the sample
        features = features_at(encoder, image, inside, labelled.index_Mx3, log=log)
        unlabelled = features_at(encoder, image, inside, random, log=log)
    classifier = fit_classifier(
        features, labelled.class_M, labelled.index_Mx3, unlabelled, hidden=settings.hidden, block=settings.block,
        folds=settings.folds, seed=config.seed, log=log,
    )  # fmt: skip
    for line in report(labelled, classifier, settings.fewest):
        log(line)
    digest, head = encoder_digest(encoder.params), classifier.head
    kept = _label_free(workdir, digest)
    classes = Classes(labelled.names, head.weights_KxH, head.offset_K, head.hidden)
    with files.writing(workdir):
        centre_files.save(
            workdir / PROBE, {**kept, len(labelled.names): classes}, encoder=config.segment.encoder, step=step,
            volume=str(image.name), encoder_digest=digest, contrast=encoder.contrast.to_json(), probe=True,
            labels=labelled.counts.tolist(), strength=classifier.strength, fractions=classifier.fraction_K.tolist(),
        )  # fmt: skip
    logits = head.logits(unlabelled)
    rows = least_sure(logits, random, labelled.index_Mx3, settings.suggestions)
    scale = tuple(np.array(image.voxel_size_nm) / own.voxel_size_nm)
    write_suggestions(workdir / SUGGEST, random[rows], logits[rows], labelled.names, scale)
    log(f"probe: {workdir / PROBE}; apply it with `his4mae segment` and --config.segment.centres=probe")
    log(f"probe: {workdir / SUGGEST}: {len(rows)} places to label next")
    return classifier


def report(labelled: Labelled, classifier: Classifier, fewest: int) -> list[str]:
    """Lines that say how well each class is told apart, and which lack labels."""
    width = max(map(len, labelled.names))
    lines = [f"probe: {'class'.ljust(width)}  labels  of the volume  Dice over folds"]
    rows = zip(labelled.names, labelled.counts, classifier.fraction_K, classifier.dice(), strict=True)
    for name, count, fraction, dice in rows:
        score = f"{dice[0]:.3f} ± {dice[1]:.3f}" if dice else "not tested: labels lie in too few places"
        lines.append(f"probe: {name.ljust(width)}  {count:>6,}  {100 * fraction:>11.1f} %  {score}")
    few = [name for name, count in zip(labelled.names, labelled.counts, strict=True) if count < fewest]
    if few:
        lines.append(f"probe: fewer than {fewest} labels of {', '.join(few)}: label more of them first")
    return lines


def _label_free(workdir: pathlib.Path, digest: str) -> dict[int, centre_files.Centres]:
    """Cluster centres of this encoder that the workdir has: they go along in the file."""
    for name in (PROBE, records.CENTRES):
        if (workdir / name).exists():
            centres, facts = centre_files.load(workdir / name)
            kept = {size: c for size, c in centres.items() if not isinstance(c, Classes)}
            if facts.get("encoder_digest") == digest and kept:
                return kept
    return {}


def _check_free(workdir: pathlib.Path) -> None:
    """Refuses to replace files that an earlier probe did not write; `suggest.csv` is one's labels once filled in."""
    path, suggested = workdir / PROBE, workdir / SUGGEST
    if path.exists() and not centre_files.load(path)[1].get("probe"):
        raise UserError(f"{path}: in the way, and no probe wrote it; move it")
    if suggested.exists():
        rows = [line.split(",") for line in suggested.read_text(encoding="utf-8", errors="replace").splitlines()]
        ours = rows and rows[0][:4] == ["z", "y", "x", "class"]
        if not ours or any(len(row) > 3 and row[3].strip() for row in rows[1:]):
            raise UserError(
                f"{suggested}: has classes filled in, or is not ours, so it is not replaced; move it (into your "
                "labels) first"
            )
