"""The modes that make no labels: looking at data and results, exporting, comparing methods."""

import ml_collections

from his4mae_jax.bucket.path import Place
from his4mae_jax.cli import volumes
from his4mae_jax.cli.process import log
from his4mae_jax.errors import UserError

# Modules that import JAX are imported within the functions: a mistyped flag is reported before JAX has started.


def inspect(config: ml_collections.ConfigDict, workdir: Place) -> None:
    """Describe the volumes of a config and estimate what a run takes."""
    from his4mae_jax.report import inspect as report

    report.inspect(config, workdir, log)


def view(config: ml_collections.ConfigDict, workdir: Place) -> None:
    """Show the volume, labels, names, instances and probabilities in a viewer until the user ends it."""
    from his4mae_jax.data import datasets
    from his4mae_jax.view import stage

    config, folder = volumes.one(config, workdir)
    stage.check(config, folder)
    stage.view(config, folder, datasets.stored_image(config, workdir), log)


def export(config: ml_collections.ConfigDict, workdir: Place) -> None:
    """Write the encoder, with the centres that the workdir has, for other software."""
    from his4mae_jax.data import datasets
    from his4mae_jax.export import stage
    from his4mae_jax.output import plan, records

    plan.need_checkpoint(workdir)
    clusters = plan.headline(config)
    names = plan.label_names(config, clusters, datasets.class_names(config)).values()
    try:
        folder = volumes.one(config, workdir)[1]
    except UserError:  # none is named: the encoder alone
        folder = workdir
    centres = folder / records.CENTRES
    stage.export(config, workdir, log, centres=centres, clusters=clusters, names=tuple(names))


def compare(config: ml_collections.ConfigDict, workdir: Place) -> None:
    """Train and score every row of `config.compare`, write the tables, draw the figures that it names."""
    from his4mae_jax.compare import figures
    from his4mae_jax.compare import run as rows

    figures.check(config)  # what a figure lacks is reported before the first training
    failed = None
    try:
        rows.run(config, workdir, log)
    except UserError as error:  # the other rows are drawn even so
        if not workdir.is_dir():
            raise
        failed = error
    for path in figures.draw(config, workdir, log):
        log(f"figure: {path}")
    if failed:
        raise failed
