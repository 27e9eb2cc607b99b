"""The page of a run, `report/index.html` in its workdir."""

import base64
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from his4mae_jax.bucket.path import Place
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.choice import Choice
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.grid import values_at
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation.evaluate import same_volume
from his4mae_jax.figures.curves import late_fall, read_log, training_curves
from his4mae_jax.output import records
from his4mae_jax.progress import Log
from his4mae_jax.report.html import features, gallery, reconstructions, record, sections, slices, viewer
from his4mae_jax.report.html.facts import LABELS, Facts, collect
from his4mae_jax.report.html.grids import Segmented
from his4mae_jax.report.html.template import page

CURVES = "curves.npz"
Section = tuple[str, str, str]  # anchor, title, HTML


def write(
    workdir: Place,
    folder: Place,
    segmented: Segmented | None,
    log: Log,
    *,
    training: Callable[[], Sequence[VolumeLike]] | None = None,
    compute: bool = True,
    umap: bool = False,
) -> Place:
    """Writes `report/index.html`, one file that needs no network and no other file.

    Args:
      workdir: with config.json, the checkpoints and the training log; the page is written into its `report/`.
      folder: with the labels, centres.npz, segment.json, metrics.json and tables of instances.
      segmented: the volume that the labels are of; None: there are no labels yet.
      log: prints one line, and progress.
      training: opens the volumes that were trained on, for reconstructions; None: those of an earlier page are shown.
      compute: whether reconstructions and features are computed that an earlier page has not kept.
      umap: whether features are also shown by UMAP, where umap-learn is installed.

    Raises:
      UserError: there was no training, the labels are of another volume, or a page of the user is in the way.
    """
    record.check_free(workdir)
    facts = collect(workdir, folder)
    log_entries = read_log(workdir / "train.jsonl")
    train = next(reversed(log_entries.values()), {})
    image = segmented.image if facts.segmentation and segmented else None
    if image is not None and not same_volume(facts.segmentation["volume"], image.name):
        raise UserError(
            f"{folder / records.SEGMENTATION}: the labels are of {facts.segmentation['volume']}, not of {image.name}; "
            "give the config that they were made with"
        )
    rebuilt = reconstructions.find(workdir, training if compute else None, log)
    body: list[Section] = [
        ("run", "Run", sections.run(facts, image, train)),
        ("training", "Training", sections.training(_curves(workdir, facts), late_fall(log_entries))),
        ("reconstructions", "Reconstructions", reconstructions.section(rebuilt, facts.config["method"])),
    ]
    data: dict[str, Any] = {"axes": [], "layers": []}
    if image is not None:
        shown, data = _volume(workdir, folder, facts, segmented, log, compute=compute, umap=umap)
        body = [body[0], *shown, ("instances", "Instances", sections.instances(folder)), *body[1:]]
    body.append(("further", "How to go on", sections.further(workdir, folder if image is not None else None)))
    name = "/".join(pathlib.PurePath(image.name).parts[-2:]) if image is not None else workdir.resolve().name
    text = page(f"his4mae: {name}", _lead(facts, image, train), facts.stale, body, data)
    path = record.write_page(workdir, text)
    if image is not None and folder != workdir:  # it stays with the labels when another volume is segmented
        record.write_page(folder, text)
    log(f"report: {path}")
    return path


def _volume(
    workdir: Place,
    folder: Place,
    facts: Facts,
    segmented: Segmented,
    log: Log,
    *,
    compute: bool,
    umap: bool,
) -> tuple[list[Section], dict[str, Any]]:
    """The sections that show the volume, the slices first, and the content of the page's JSON."""
    contrast = Contrast.from_json(facts.segmentation["what"]["contrast"])
    labels = open_volume(records.volume(folder / LABELS), image=False)
    fitted, about = centre_files.load(folder / records.CENTRES)
    centres = fitted.get(facts.labels)
    read = slices.read(segmented.image, labels, segmented.truth, contrast, log)
    found = features.find(
        workdir, folder, facts.segmentation, segmented.encoded, labels, log, compute=compute, umap=umap
    )  # fmt: skip
    classes = None
    if found and segmented.truth is not None:
        ids = values_at(segmented.truth, segmented.encoded, found.index_Mx3, found.box_M)
        classes = ids, segmented.class_names, facts.class_colours(segmented.class_names)
    layers = viewer.layers(facts, segmented, read)
    look, described = facts.look, {i: facts.described(i) for i in facts.look.names}
    return [
        ("slices", "Slices", viewer.section(layers, segmented, read)),
        ("clusters", "Clusters", gallery.section(facts, segmented, labels, centres, found, read, contrast)),
        ("choice", "How many", sections.choice(Choice.from_json(about.get("choice")), facts.labels)),
        ("scores", "Scores", sections.scores(facts)),
        ("features", "Features", features.section(found, centres, described, look.colours, classes)),
    ], viewer.data(layers, segmented, read)  # fmt: skip


def _lead(facts: Facts, image: VolumeLike | None, train: dict[str, Any]) -> str:
    """One line that says what this is."""
    step = max(facts.step, int(train.get("step", 0)))
    parts = [f"method {facts.config['method']}", f"trained to step {step:,}"]
    if "encoder_file" in facts.segmentation:
        parts = [f"frozen encoder {pathlib.PurePath(facts.segmentation['encoder_file']).stem}"]
    if image is not None:
        parts.append(" x ".join(map(str, image.shape)) + " voxels")
        parts.append(f"{facts.labels} labels")
    scored = facts.metrics and facts.metrics["dsc"]["many_to_one" if facts.merged else "one_to_one"].get("mean")
    if isinstance(scored, float):
        parts.append(f"mean Dice {scored:.3f} ({'merged clusters' if facts.merged else 'one cluster to one class'})")
    return ", ".join(parts)


def _curves(workdir, facts):
    """The training curves as a data URI, those of an earlier page where nothing was logged or scored since."""
    log = workdir / "train.jsonl"
    if not log.exists():
        return None
    names = [name for name in (facts.metrics or {}).get("dsc", {}).get("one_to_one", {}) if name != "mean"]
    colours = dict(zip(names, facts.class_colours(names), strict=True))
    of = {
        "log": [log.stat().st_size, log.stat().st_mtime_ns],
        "curve": (facts.metrics or {}).get("curve"),
        "of": colours,
    }
    arrays = record.kept(workdir, CURVES, of)
    if arrays is not None:
        return _png_uri(arrays["png"].tobytes())
    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary) / "training.png"
        training_curves(log, facts.metrics, path, colours)
        if not path.exists():
            return None
        png = path.read_bytes()
    record.keep(workdir, CURVES, of, png=np.frombuffer(png, np.uint8))
    return _png_uri(png)


def _png_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
