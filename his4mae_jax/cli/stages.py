"""The stages of a run, and the modes that are made of them."""

from collections.abc import Sequence
from typing import Any

import ml_collections

from his4mae_jax import config as configs
from his4mae_jax.bucket.path import PathLike, Place
from his4mae_jax.cli import frozen, other_modes, process, run_page, volumes, workdirs
from his4mae_jax.cli.process import join, log, part
from his4mae_jax.errors import UserError
from his4mae_jax.training.devices.memory import return_freed_memory

# Modules that import JAX are imported within the functions: a mistyped flag is reported before JAX has started.

MODES = (
    "train", "segment", "evaluate", "name", "all", "probe", "export", "compare", "fetch", "inspect", "report", "view",
)  # fmt: skip
ALONE = ("name", "report", "view", "probe", "export", "compare", "fetch", "inspect")  # modes of a single process
SAVED = ("name", "export", "report", "view")  # modes that take the settings of the training where no config is given


def run_in_process(config: ml_collections.ConfigDict, workdir: str | None, mode: str) -> None:
    """Run a mode in a process of its own: with the other processes of the run, and its devices set up.

    Raises:
      UserError: bad input.
    """
    process.quiet_orbax()
    configs.validate(config)  # before waiting for other processes
    if mode not in ALONE:
        _check_alone(config, mode)
        join()
    if mode == "segment" and config.segment.engine == "dask":
        process.leave_accelerators()
    own_threads = config.segment.encoder_file and mode != "train"  # onnxruntime shares out the cores by itself
    # Each run of a comparison does this itself.
    if mode not in ("name", "view", "fetch", "compare") and not own_threads:
        from his4mae_jax.training.devices.cpu_devices import share_cores

        share_cores(config)
    run(config, workdir, mode)
    part()


def run(config: ml_collections.ConfigDict, workdir: PathLike | None, mode: str) -> None:
    """Run the stages of a mode in order.

    Args:
      config: all settings.
      workdir: folder of the run; None for `fetch` alone.
      mode: one of `MODES`.

    Raises:
      UserError: bad input.
    """
    configs.validate(config)
    _check_alone(config, mode)
    workdir = workdirs.opened(workdir, mode)
    if mode == "compare":
        return other_modes.compare(config, workdir)
    if mode == "fetch":
        from his4mae_jax.data.known.fetch import fetch

        return fetch(config, log)
    if mode == "name":
        with run_page.after(config, workdir, "name"):
            return name(config, workdir)
    if mode == "report":
        return run_page.write(config, workdir, umap=True)
    if mode == "view":
        return other_modes.view(config, workdir)
    if config.method in configs.SUPERVISED and not config.supervised.classes:
        from his4mae_jax.data import datasets

        config.supervised.classes = len(datasets.class_names(config))
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir}: a file is in the way; give --workdir a folder")
    from his4mae_jax.training.run.checkpoints import check_workdir

    check_workdir(workdir, config)
    frozen.check(config, mode)
    make_phantoms(config, workdir)
    opened = None
    if config.segment.centres == "probe" and not config.segment.centres_file and mode in ("segment", "evaluate", "all"):
        config.segment.centres_file = _probe_file(workdir)
    if mode == "inspect":
        other_modes.inspect(config, workdir)
    if mode == "probe":
        with run_page.after(config, workdir, "probe", page=not config.probe.segment):
            opened = probe(config, workdir)
        if config.probe.segment:
            config.segment.centres, config.segment.centres_file = "probe", _probe_file(workdir)
            configs.validate(config)
            mode = "segment"
    if mode == "train" or (mode == "all" and not config.segment.encoder_file):
        with run_page.after(config, workdir, "train"):
            train(config, workdir, segments=mode == "all")
    if mode in ("segment", "all"):
        with run_page.after(config, workdir, "segment"):
            segment(config, workdir, opened)
    if mode in ("evaluate", "all"):
        with run_page.after(config, workdir, "evaluate"):
            evaluate(config, workdir)
    if mode == "export":
        other_modes.export(config, workdir)


def _check_alone(config, mode):
    """Raise `UserError` where a launcher started several processes for what a single one does."""
    if mode in ALONE:
        process.check_alone(f"--mode={mode}")
    elif config.segment.engine == "dask" and mode in ("segment", "all"):
        process.check_alone("segment.engine='dask'")


def make_phantoms(config: ml_collections.ConfigDict, workdir: Place) -> None:
    """Draw the synthetic cells of a config whose source is "phantom": the first process does, the others wait."""
    if config.data.source != "phantom":
        return
    from his4mae_jax.data.phantom import dataset as phantom
    from his4mae_jax.training.devices import distributed

    if distributed.is_main():
        phantom.write_cells(config, workdir, log)
    distributed.barrier("phantoms")


def train(config: ml_collections.ConfigDict, workdir: Place, *, segments: bool) -> None:
    """Train, or go on from the last checkpoint. Ground truth that a later stage uses is checked first.

    Args:
      segments: whether the volume to segment is needed later: a bad one, or a file in the way, is then reported before
        the training.
    """
    from his4mae_jax.data import datasets
    from his4mae_jax.data.label_check import check_run_labels
    from his4mae_jax.output.publish import check_free
    from his4mae_jax.training.devices import distributed
    from his4mae_jax.training.run import loop

    for own, folder in volumes.to_segment(config, workdir) if segments else ():
        target = datasets.target(own, workdir, need_labels=False)
        check_free(with_label_instances(own, folder, target.class_names), folder, target.class_names)
    if distributed.is_main():
        check_run_labels(config, workdir, log)
    images = datasets.training_volumes(config, workdir, log)
    labels = datasets.training_labels(config, workdir) if config.method in configs.SUPERVISED else None
    loop.train(config, images, workdir, log, labels)


def _probe_file(workdir):
    path = workdir / "probe.npz"
    if not path.exists():
        raise UserError(f'{path}: not there, and segment.centres is "probe"; run `his4mae probe` first')
    return str(path)


def probe(config: ml_collections.ConfigDict, workdir: Place) -> tuple[Any, Any]:
    """Fit a classifier of a few labelled voxels, and say what to label next.

    Returns:
      What it opened, for `segment`: the volume (`Target`), and the encoder bound to it (`Bound`).
    """
    from his4mae_jax.data import datasets
    from his4mae_jax.probe import stage

    config, folder = volumes.one(config, workdir)
    target = datasets.target(config, workdir, need_labels=False, log=log)
    if config.segment.keep_features:
        volumes.created(config, workdir)
    bound = stage.probe(config, target, datasets.stored_image(config, workdir), workdir, log, folder)
    frozen.keep_config(config, workdir)
    return target, bound


def segment(config: ml_collections.ConfigDict, workdir: Place, opened: tuple[Any, Any] | None = None) -> None:
    """Fit the cluster centres and label every voxel of each volume to segment.

    Args:
      opened: the only one, of `probe`; None: all are opened here.
    """
    from his4mae_jax.output import plan

    plan.need_encoder(config, workdir)
    for own, folder in volumes.to_segment(config, workdir):
        segment_one(own, workdir, folder, opened)
    frozen.keep_config(config, workdir)


def segment_one(
    config: ml_collections.ConfigDict, workdir: Place, folder: Place, opened: tuple[Any, Any] | None = None
) -> None:
    """Fit the cluster centres and label every voxel of the volume that a config names."""
    from his4mae_jax.data import datasets
    from his4mae_jax.naming import stage as naming
    from his4mae_jax.output import segment as stage

    target, bound = opened or (datasets.target(config, workdir, need_labels=False, log=log), None)
    volumes.created(config, workdir)
    return_freed_memory()
    own = with_label_instances(config, folder, target.class_names)
    seconds = stage.segment(own, target, workdir, log, folder, bound)
    if seconds:  # else the first process has published the labels, and does the rest
        naming.after_segment(config, folder, target, log)


def with_label_instances(
    config: ml_collections.ConfigDict, folder: Place, class_names: Sequence[str]
) -> ml_collections.ConfigDict:
    """The config with labels only in `segment.instances`; names in clusters.yaml are checked, and left to `naming`."""
    from his4mae_jax.naming import stage as naming
    from his4mae_jax.output import plan

    label_names = plan.label_names(config, plan.headline(config), class_names)
    return naming.check(config, folder, label_names)


def name(config: ml_collections.ConfigDict, workdir: Place) -> None:
    """Write the labels by name, as clusters.yaml names the clusters."""
    from his4mae_jax.data import datasets
    from his4mae_jax.naming import stage

    for own, folder in volumes.to_segment(config, workdir):
        stage.name(own, folder, log, lambda own=own: datasets.target(own, workdir, need_labels=False, log=log))


def evaluate(config: ml_collections.ConfigDict, workdir: Place) -> None:
    """Score the labels of each volume, where there is ground truth, and draw the figures.

    Of several processes only the first one works; the others wait for it when they part.
    """
    from his4mae_jax.training.devices import distributed

    if distributed.is_main():
        for own, folder in volumes.to_segment(config, workdir):
            evaluate_one(own, workdir, folder)


def evaluate_one(config: ml_collections.ConfigDict, workdir: Place, folder: Place) -> None:
    """Score the labels of one volume, where there is ground truth, and draw the figures."""
    from his4mae_jax.data import datasets
    from his4mae_jax.evaluation import evaluate as scores
    from his4mae_jax.evaluation import tables
    from his4mae_jax.output import plan, records
    from his4mae_jax.report import page

    target = datasets.target(config, workdir, need_labels=False)
    metrics, assignment = None, None
    if target.labels is not None:
        metrics, assignment = scores.evaluate(config, target, workdir, log, folder)
        tables.write_metrics(metrics, folder)
        print(tables.terminal_table(metrics), flush=True)
    else:
        records.segmented(folder, plan.label_sizes(config))
        log("evaluate: no labels, so no scores; the figures show the clusters")
    for path in page.draw(config, target, metrics, assignment, workdir, folder):
        log(f"figure: {path}")
