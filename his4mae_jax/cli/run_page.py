"""The page of a run, written after each stage and by `his4mae report`."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections

from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.cli import volumes
from his4mae_jax.cli.process import log
from his4mae_jax.errors import UserError
from his4mae_jax.workdir import checkpoint_steps


@contextlib.contextmanager
def after(config: ml_collections.ConfigDict, workdir: PathLike, stage: str, *, page: bool = True) -> Iterator[None]:
    """Records how long a stage took and on what, and writes the page of the run behind it.

    A page that cannot be written is one line of warning: what the stage made is there even so. Of several processes
    only the first one writes it.

    Args:
      config: of the run.
      workdir: of the run.
      stage: its name.
      page: False where another stage follows at once, which writes the page.
    """
    began = time.perf_counter()
    yield
    from his4mae_jax.training.devices import distributed

    if not config.report.after_stages or not distributed.is_main():
        return
    try:
        from his4mae_jax.report.html import record

        seconds, folders = time.perf_counter() - began, [folder for _, folder in shown_volumes(config, workdir)]
        record.note_stage(place(workdir), stage, seconds, _result(place(workdir), folders, stage))
        # Names need no model, and are there within seconds: what a page kept of the model is shown as it is.
        if page:
            write(config, workdir, compute=stage != "name")
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        log(f"warning: the page of the run was not written: {text}")


def shown_volumes(
    config: ml_collections.ConfigDict, workdir: PathLike
) -> list[tuple[ml_collections.ConfigDict, Place]]:
    """The volumes that the config names, as `volumes.to_segment` gives them; the workdir itself where it names none."""
    try:
        return volumes.to_segment(config, workdir)
    except UserError:  # as where there is only a training
        return [(config, place(workdir))]


def _result(workdir: Place, folders: Sequence[Place], stage: str) -> Any:
    """What identifies the result of a stage that does nothing where it is there already."""
    from his4mae_jax.output import records

    if stage == "train":
        return max(checkpoint_steps(workdir), default=0)
    return [records.segmentation(folder).get("job") for folder in folders] if stage == "segment" else None


def write(config: ml_collections.ConfigDict, workdir: PathLike, *, compute: bool = True, umap: bool = False) -> None:
    """Writes the page of a run.

    Args:
      config: of the run.
      workdir: of the run, with the labels where there are some.
      compute, umap: see `report.html.write`.

    Raises:
      UserError: there is nothing to show, or what there is does not belong together.
    """
    from his4mae_jax.data import datasets
    from his4mae_jax.output import records
    from his4mae_jax.report.html import write as html
    from his4mae_jax.report.html.grids import Segmented

    named = shown_volumes(config, workdir)
    for own, folder in named:
        segmented = None
        if records.segmentation(folder):
            target = datasets.target(own, workdir, need_labels=False)
            segmented = Segmented(target.output, target.image, target.output_labels, target.class_names)
        elif len(named) > 1:
            continue
        html.write(
            place(workdir), folder, segmented, log, compute=compute, umap=umap,
            training=lambda: datasets.training_volumes(config, workdir),
        )  # fmt: skip
