"""The figures of a comparison (the paper's Figs. 2 to 5), from the runs in its workdir."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.compare import codebook_size, features_umap
from his4mae_jax.compare import curves as compare_curves
from his4mae_jax.compare import slices as compare_slices
from his4mae_jax.compare.rows import Run, plan, read_json
from his4mae_jax.config import SUPERVISED, steps_per_epoch
from his4mae_jax.data import datasets
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation import dice
from his4mae_jax.figures import curves, style
from his4mae_jax.files import writing
from his4mae_jax.inference.encoders.opening import checkpoints_of, open_encoder
from his4mae_jax.output.plan import label_path, need_encoder
from his4mae_jax.output.records import segmented

# Settings that say which voxels are scored; runs that share them can be shown side by side.
TEST = ("source", "test", "test_labels", "binary_labels", "file_voxel_size_nm", "channel", "voxel_size_nm", "phantom")
# Settings of `segment` that features depend on, beside the training.
FEATURES = (
    "encoder_file", "encoder", "inference", "expansion", "stride", "axes", "smooth", "overhang", "edge_weight",
)  # fmt: skip


Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that is scored: its config and metrics."""

    run: Run
    config: ml_collections.ConfigDict
    metrics: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the comparison with at least one finished run; `place` is its number among all rows."""

    name: str
    place: int
    seeds: tuple[Finished, ...]

    @property
    def first(self) -> Finished:
        return self.seeds[0]

    @property
    def supervised(self) -> bool:
        return self.first.config.method in SUPERVISED


def check(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError`, before the first run, if a figure needs a package that is not installed."""
    if "umap" in config.compare.figures:
        features_umap.need_umap()


def draw(config: ml_collections.ConfigDict, workdir: str | os.PathLike, log: Log) -> list[pathlib.Path]:
    """Draws `config.compare.figures` into `workdir/figures/`; runs that are not finished are left out.

    Args:
      config: of the comparison.
      workdir: its folder, see `compare.run`.
      log: prints one line for each run that is left out, with the reason.

    Returns:
      The pictures that were drawn.

    Raises:
      UserError: for bad rows, and where "umap" is asked for without umap-learn: after all other
        pictures.
    """
    workdir = pathlib.Path(workdir)
    drawers = {"slices": draw_slices, "curves": draw_curves, "codebook": draw_codebook, "umap": draw_umap}
    wanted = [figure for figure in drawers if figure in config.compare.figures]
    rows = _finished(config, workdir, log) if wanted else []
    made = []
    for figure in wanted:

        def log_figure(text, figure=figure):
            log(f"figure {figure}: {text}")

        with writing(workdir / "figures"):
            pictures = drawers[figure](config, rows, workdir / "figures", log_figure)
        if not pictures:
            log_figure("nothing to draw yet")
        made += pictures
    return made


def _finished(config, workdir, log):
    by_name: dict[str, list[Run]] = {}
    for run in plan(config, workdir):
        by_name.setdefault(run.name, []).append(run)
    rows = []
    for place, (name, runs) in enumerate(by_name.items()):
        done = [run for run in runs if run.done]
        if len(done) < len(runs):
            missing = ", ".join(str(run.seed) for run in runs if run not in done)
            log(f"figures: {name} without seed {missing}: not finished")
        seeds = [
            Finished(r, ml_collections.ConfigDict(r.settings), read_json(r.outputs / "metrics.json")) for r in done
        ]
        if seeds:
            rows.append(Row(name, place, tuple(seeds)))
    return rows


def draw_slices(
    config: ml_collections.ConfigDict, rows: Sequence[Row], folder: pathlib.Path, log: Log
) -> list[pathlib.Path]:
    """Fig. 2: `slices_<axis>.png` for each of `segment.axes`, each row by its first finished seed."""
    test, contrast, shown, methods = None, None, None, []
    for row in rows:
        first, folder_of_run = row.first, row.first.run.folder
        if shown is not None and (_test_settings(first), first.config.segment.grid) != shown:
            log(f"without {row.name}: it is scored on another volume or grid")
            continue
        try:
            own_test = test or datasets.target(first.config, folder_of_run, need_labels=True)
            _, facts = centre_files.load(first.run.outputs / "centres.npz")
            clusters = open_volume(label_path(first.run.outputs, 0, 0), image=False)
            scores = _scores(row, clusters, own_test)
        except UserError as error:
            log(f"without {row.name}: {error}")
            continue
        test, shown = own_test, (_test_settings(first), first.config.segment.grid)
        contrast = contrast or Contrast.from_json(facts["contrast"])
        note = f"DSC {scores.dsc['mean']:.3f}"
        if len(config.compare.seeds) > 1:
            note += f", seed {first.run.seed}"
        methods.append(compare_slices.Method(row.name, note, clusters, scores.assignment))
    paths = []
    for axis in config.segment.axes if methods else ():
        paths.append(folder / f"slices_{axis}.png")
        compare_slices.method_slices(
            test.output, test.output_labels, methods, test.class_names, paths[-1], contrast=contrast, axis=axis,
            title=pathlib.Path(test.image.name).name,
        )  # fmt: skip
    return paths


def _test_settings(finished):
    return json.dumps([finished.run.settings["data"][key] for key in TEST])


def _scores(row, clusters, test):
    """Scores with their assignment, as `evaluation.evaluate` computes them: metrics.json holds no assignment."""
    confusion = dice.confusion(clusters, test.output_labels, row.first.metrics["clusters"], len(test.class_names))
    return (dice.direct if row.supervised else dice.one_to_one)(confusion, test.class_names)


def draw_curves(
    config: ml_collections.ConfigDict, rows: Sequence[Row], folder: pathlib.Path, log: Log
) -> list[pathlib.Path]:
    """Fig. 3, curves.png, and codebook_health.png, for the rows with a curve and with a codebook."""
    drawn, trainings = [], {}
    for row in rows:
        training = json.dumps([row.first.run.training, row.first.config.segment.get("encoder_file", "")])
        if training in trainings:
            log(f"without the losses and codebook of {row.name}: its training is that of {trainings[training]}")
        seeds = () if training in trainings else row.seeds
        trainings.setdefault(training, row.name)
        dsc, logs = [_dsc_curve(seed.metrics) for seed in row.seeds], [_train_log(seed) for seed in seeds]
        if not any(dsc):
            log(f"without {row.name}: its metrics have no curve (evaluate.curve_box)")
        drawn.append(compare_curves.Row(
            row.name, row.place, dashed=row.supervised, dsc=dsc,
            loss=[{step: entry["loss_recon"] for step, _, entry in _with(entries, "loss_recon")} for entries in logs],
            perplexity=[{epoch: entry["perplexity"] for _, epoch, entry in _with(e, "perplexity")} for e in logs],
            dead=[{epoch: entry["dead_fraction"] for _, epoch, entry in _with(e, "dead_fraction")} for e in logs],
        ))  # fmt: skip
    pictures = {"curves.png": compare_curves.dsc_and_loss, "codebook_health.png": compare_curves.codebook_health}
    return [folder / name for name, picture in pictures.items() if picture(drawn, folder / name)]


def _dsc_curve(metrics):
    points = {entry["step"]: entry["dsc"]["one_to_one"]["mean"] for entry in metrics.get("curve") or []}
    return {step: value for step, value in points.items() if style.is_number(value)}


def _train_log(seed):
    """Entries of train.jsonl as (step, epoch, entry)."""
    log, epoch = curves.read_log(seed.run.folder / "train.jsonl"), steps_per_epoch(seed.config)
    return [(step, step / epoch, entry) for step, entry in log.items()]


def _with(entries, key):
    return [entry for entry in entries if style.is_number(entry[2].get(key))]


def draw_codebook(
    config: ml_collections.ConfigDict, rows: Sequence[Row], folder: pathlib.Path, log: Log
) -> list[pathlib.Path]:
    """Fig. 4, codebook_size.png: a line for each set of rows that differ in `codebook.size` alone."""
    lines: dict[str, codebook_size.Line] = {}
    for row in rows:
        first = row.first
        settings = first.run.training | {"segment": first.run.settings["segment"], "test": _test_settings(first)}
        if settings["method"] != "his4mae" or not settings["codebook.enabled"]:
            log(f"without {row.name}: it has no codebook")
            continue
        size = settings.pop("codebook.size")
        del settings["seed"]
        line = lines.setdefault(json.dumps(settings, sort_keys=True), codebook_size.Line(row.name, {}))
        line.scores.setdefault(size, []).extend(seed.metrics["dsc"]["one_to_one"] for seed in row.seeds)
    several = [line for line in lines.values() if len(line.scores) > 1]
    for line in lines.values():
        if line not in several:
            log(f"without {line.name}: no other finished row differs from it in codebook.size alone")
    if not several:
        return []
    names = dict.fromkeys(name for line in several for scores in line.scores.values() for dsc in scores for name in dsc)
    codebook_size.codebook_sizes(several, [name for name in names if name != "mean"], folder / "codebook_size.png")
    return [folder / "codebook_size.png"]


def draw_umap(
    config: ml_collections.ConfigDict, rows: Sequence[Row], folder: pathlib.Path, log: Log
) -> list[pathlib.Path]:
    """Fig. 5, umap.png: a panel for each row that learns features without labels, by its first finished seed."""
    panels, names, drawn = [], (), {}
    for row in rows:
        if row.supervised:
            log(f"without {row.name}: its encoder gives classes and no features")
            continue
        first = row.first
        features_settings = [first.config.segment[key] for key in FEATURES]
        key = json.dumps([first.run.training, features_settings, _test_settings(first)])
        if key in drawn:
            log(f"without {row.name}: its features are those of {drawn[key]}")
            continue
        try:
            test, features_MxD, class_M = _features(first)
        except UserError as error:
            log(f"without {row.name}: {error}")
            continue
        if len(class_M) < features_umap.FEWEST or (names and names != test.class_names):
            log(f"without {row.name}: {len(class_M)} annotated voxels of the classes {', '.join(test.class_names)}")
            continue
        names, drawn[key] = test.class_names, row.name
        panels.append((row.name, features_umap.embed(features_MxD, config.seed), class_M))
        log(f"{row.name}: {len(class_M):,} voxels")
    if not panels:
        return []
    features_umap.feature_maps(panels, names, folder / "umap.png")
    return [folder / "umap.png"]


def _features(finished):
    """The test data of a run, features of its voxels and their classes."""
    config, folder = finished.config, finished.run.folder
    need_encoder(config, folder)
    step = segmented(finished.run.outputs, [finished.metrics["clusters"]])["step"]
    test = datasets.target(config, folder, need_labels=True)
    with checkpoints_of(config, folder) as checkpoints:
        encoder = open_encoder(config, checkpoints, step).bind(test.image, config.segment, seed=config.seed)
        # The voxels are the same for all rows and seeds.
        features_MxD, class_M = features_umap.annotated_features(
            encoder, test.image, test.labels, max_tiles=config.segment.fit_tiles, seed=0
        )
    return test, features_MxD, class_M
