"""The probe stage: labels in, a centres file with named classes and places to label next out."""

from collections.abc import Sequence

import ml_collections
import numpy as np

from his4mae_jax import files
from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.centres import Centres, Classes
from his4mae_jax.clustering.fit import encoder_digest
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError, mask
from his4mae_jax.inference.encoders.opening import checkpoints_of, open_encoder
from his4mae_jax.inference.kept_features import kept_features
from his4mae_jax.output import records
from his4mae_jax.output.plan import Bound, bind_to, need_encoder
from his4mae_jax.probe.fit import Probe, fit_probe
from his4mae_jax.probe.labels import Labelled, read_labels
from his4mae_jax.probe.suggest import write_suggestions
from his4mae_jax.progress import Log

PROBE, SUGGEST = "probe.npz", "suggest.csv"


def probe(
    config: ml_collections.ConfigDict,
    target: Target,
    own: VolumeLike,
    workdir: PathLike,
    log: Log,
    folder: PathLike | None = None,
) -> Bound:
    """Fits a classifier on `probe.labels`; writes `probe.npz` and `suggest.csv`.

    Args:
      config: the configuration.
      target: the volume that was labelled.
      own: that volume at the voxel size of its file: points count its voxels.
      workdir: folder of a training.
      log: prints one line.
      folder: of the volume's labels and centres, where it was segmented; None: the workdir.

    Returns:
      The encoder bound to the volume, as it was opened for that.

    Raises:
      UserError: the labels cannot be used, or something of the user is in the way.
    """
    settings, workdir, folder = config.probe, place(workdir), place(folder or workdir)
    if config.method in SUPERVISED:
        raise UserError(f"config key method is {config.method!r}: its labels are classes already; it needs no probe")
    if not settings.labels:
        raise UserError("config key probe.labels is empty: give a CSV file of points, or a volume of sparse labels")
    need_encoder(config, workdir)
    _check_free(workdir)
    image = target.image
    with checkpoints_of(config, workdir) as checkpoints:
        trained = open_encoder(config, checkpoints)
    encoder, inside = bind_to(trained, image, config.segment, config.seed)
    encoder = encoder.textured(0.0 if encoder.coverage.cover else settings.texture)
    digest = encoder_digest(encoder.params)
    clusters = _kept_clusters(folder, digest, settings.keep_clusters)
    labelled = read_labels(
        settings.labels, own, image, inside, encoder.padding, names=settings.names, class_names=target.class_names,
        most=settings.voxels, fewest_classes=1 if clusters else 2, seed=config.seed,
    )  # fmt: skip
    log(f"probe: {', '.join(f'{n:,} of {name}' for name, n in zip(labelled.names, labelled.counts, strict=True))}")
    kept = None
    if config.segment.keep_features:
        kept = kept_features(encoder, image, inside, folder, digest, log)
    fitted = fit_probe(
        encoder, image, inside, labelled, hidden=settings.hidden, block=settings.block, folds=settings.folds,
        suggestions=settings.suggestions, clusters=clusters, encoded=kept,
        fit_tiles=config.segment.fit_tiles, seed=config.seed, log=log,
    )  # fmt: skip
    classifier, names = fitted.classifier, fitted.labelled.names
    for line in report(labelled, fitted, settings.fewest):
        log(line)
    centres = {**_label_free((workdir / PROBE, folder / records.CENTRES), digest), len(names): fitted.classes}
    with files.writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        centre_files.save(
            workdir / PROBE, centres,
            encoder=config.segment.encoder_file or config.segment.encoder, step=trained.step, volume=mask(image.name),
            encoder_digest=digest, contrast=encoder.contrast.to_json(), probe=True,
            labels=fitted.labelled.counts.tolist(), strength=classifier.strength,
            fractions=classifier.fraction_K.tolist(),
        )  # fmt: skip
    scale = tuple(np.array(image.voxel_size_nm) / own.voxel_size_nm)
    write_suggestions(workdir / SUGGEST, fitted.suggested_Sx3, fitted.suggested_SxK, names, scale)
    how = "" if settings.segment else "; apply it with `his4mae segment` and --config.segment.centres=probe"
    log(f"probe: {workdir / PROBE}{how}")
    log(f"probe: {workdir / SUGGEST}: {len(fitted.suggested_Sx3)} places to label next")
    return Bound(trained.step, encoder, inside)


def report(labelled: Labelled, fitted: Probe, fewest: int) -> list[str]:
    """Lines that say how well each class is told apart, which lack labels, and which clusters stay."""
    width, classifier = max(map(len, labelled.names)), fitted.classifier
    lines = [f"probe: {'class'.ljust(width)}  labels  of the volume  Dice over folds"]
    rows = zip(labelled.names, labelled.counts, classifier.fraction_K, classifier.dice(), strict=False)
    for name, count, fraction, dice in rows:
        score = f"{dice[0]:.3f} ± {dice[1]:.3f}" if dice else "not tested: labels lie in too few places"
        lines.append(f"probe: {name.ljust(width)}  {count:>6,}  {100 * fraction:>11.1f} %  {score}")
    few = [name for name, count in zip(labelled.names, labelled.counts, strict=True) if count < fewest]
    if few:
        lines.append(f"probe: fewer than {fewest} labels of {', '.join(few)}: label more of them first")
    if len(labelled.class_M) >= 50 and classifier.hard > 0.5:
        lines.append(
            "probe: labels are hard cases, as suggestions are: Dice of the whole volume will be higher than this"
        )
    if fitted.kept:
        lines.append(f"probe: hardly labelled, so kept as they are: clusters {', '.join(map(str, fitted.kept))}")
    return lines


def _kept_clusters(folder: Place, digest: str, size: int) -> Centres | None:
    """The clusters of the volume's segmentation that `probe.keep_clusters` asks for."""
    if not size:
        return None
    path = folder / records.CENTRES
    if not path.exists():
        raise UserError(f"{path}: not there, and probe.keep_clusters is {size}; segment into {size} clusters first")
    centres = centre_files.load_for(path, [size], digest)[size]
    if isinstance(centres, Classes):
        raise UserError(f"{path}: its {size} labels are classes, not clusters; segment without a probe first")
    return centres


def _label_free(paths: Sequence[Place], digest: str) -> dict[int, centre_files.Centres]:
    """Cluster centres of this encoder in the first of these files that has some: they go along in the file."""
    for path in paths:
        if path.exists():
            centres, facts = centre_files.load(path)
            kept = {size: c for size, c in centres.items() if not isinstance(c, Classes)}
            if facts.get("encoder_digest") == digest and kept:
                return kept
    return {}


def _check_free(workdir: Place) -> None:
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
