"""The figures of a run, as PNG files in `figures/`."""

import pathlib

import ml_collections

from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.evaluation.tables import more_clusters_than_classes
from his4mae_jax.figures.bars import dsc_bars
from his4mae_jax.figures.curves import training_curves
from his4mae_jax.figures.slices import slice_overlays
from his4mae_jax.files import writing
from his4mae_jax.naming.shown import shown
from his4mae_jax.output import records
from his4mae_jax.output.plan import headline, label_path, labelled_by


def draw(
    config: ml_collections.ConfigDict,
    test: Target,
    metrics: dict | None,
    assignment: list[int | None] | None,
    workdir: PathLike,
    outputs: PathLike | None = None,
) -> list[Place]:
    """Draws training curves, slices and, with scores, bars.

    Args:
      config: of the run.
      test: the volume that was segmented, and its ground truth if there is one.
      metrics: see `evaluation.tables`; None without ground truth.
      assignment: the class that each cluster stands for; None without ground truth.
      workdir: of the run.
      outputs: folder of the labels, in which `figures/` is written; None: the workdir.

    Returns:
      The paths of the figures that there is something to draw for.
    """
    workdir = place(workdir)
    outputs = place(outputs or workdir)
    folder = outputs / "figures"
    training, slices, dsc = (folder / f"{name}.png" for name in ("training", "slices", "dsc"))
    tried = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (workdir / "train.jsonl").exists():
            training_curves(workdir / "train.jsonl", metrics, training)
            tried.append(training)
        clusters = open_volume(label_path(outputs, headline(config), headline(config)), image=False)
        _, facts = centre_files.load(outputs / "centres.npz")
        look, by = shown(outputs, headline(config)), labelled_by(config, records.segmentation(outputs))
        merged = metrics and more_clusters_than_classes(metrics) and metrics.get("matching")
        if merged:  # clusters that share a class have its colour
            assignment = [merged["many_to_one"].get(str(i)) for i in look.names]
        slice_overlays(
            test.output, clusters, test.output_labels, assignment, test.class_names, slices,
            contrast=Contrast.from_json(facts["contrast"]), names=look.names, colours=look.colours,
            hidden=look.ignored,
            title=f"{pathlib.Path(test.image.name).name}, {by}, {headline(config)} labels"
            + (", merged by the class they overlap most" if merged else ""),
        )  # fmt: skip
        tried.append(slices)
        if metrics:
            dsc_bars(metrics, dsc, {i: name for i, name in look.names.items() if i not in look.ignored})
            tried.append(dsc)
    # Curves and bars write nothing where there is nothing to draw.
    return [path for path in tried if path.exists()]
