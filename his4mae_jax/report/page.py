"""The figures of a run, as PNG files in `figures/`."""

import pathlib

from his4mae_jax.data.contrast import Contrast
from his4mae_jax.data.ome_zarr import writing
from his4mae_jax.data.volume import open_volume
from his4mae_jax.report import figures
from his4mae_jax.segmentation import centres as centre_files
from his4mae_jax.segmentation.label_volume import label_path


def draw(config, test, metrics, assignment, workdir):
    """Draw training curves, slices and (with scores) bars; returns the paths written."""
    workdir = pathlib.Path(workdir)
    folder = workdir / "figures"
    made = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (workdir / "train.jsonl").exists():
            figures.training_curves(workdir / "train.jsonl", metrics, folder / "training.png")
            made.append(folder / "training.png")
        clusters = open_volume(label_path(workdir, config.segment.clusters, config.segment.clusters), image=False)
        _, facts = centre_files.load(workdir / "centres.npz")
        title = f"{pathlib.Path(test.image.name).name}, C = {config.segment.clusters}"
        figures.slice_overlays(
            test.image, clusters, test.labels, assignment, test.class_names, folder / "slices.png",
            contrast=Contrast.from_json(facts["contrast"]), title=title,
        )  # fmt: skip
        made.append(folder / "slices.png")
        if metrics:
            figures.dsc_bars(metrics, folder / "dsc.png")
            made.append(folder / "dsc.png")
    return made
