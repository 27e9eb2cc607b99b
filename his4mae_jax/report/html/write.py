"""`his4mae report`: the page of a run, written into its workdir."""

import base64
import pathlib
import re
import tempfile

from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation.evaluate import same_volume
from his4mae_jax.figures.curves import read_log, training_curves
from his4mae_jax.files import write_json, write_text, writing
from his4mae_jax.output import records
from his4mae_jax.output.plan import label_path
from his4mae_jax.progress import Log
from his4mae_jax.report.html import sections, slices
from his4mae_jax.report.html.facts import collect
from his4mae_jax.report.html.template import page

PAGE, RECORD = "index.html", "report.json"


def check_free(folder: pathlib.Path) -> None:
    """Checks that no page but one of ours is in the way.

    Raises:
      UserError: there is one.
    """
    report = folder / "report"
    record = report / RECORD
    ours = records.checked(record, records.read(record).get("files"), re.compile(PAGE)) if record.exists() else ()
    records.check_free(report, [PAGE], ours)


def write(workdir: pathlib.Path, folder: pathlib.Path, image: VolumeLike, labels: int, log: Log) -> pathlib.Path:
    """Writes `report/index.html`, one file that needs no network and no other file.

    Args:
      workdir: of the training; the page is written there.
      folder: of the labels.
      image: what was segmented.
      labels: number of labels in `labels.ome.zarr`.
      log: prints one line.

    Raises:
      UserError: there are no such labels, they are of another volume, or a page of the user is in the way.
    """
    check_free(workdir)
    facts = collect(workdir, folder, labels)
    if not same_volume(facts.segmentation["volume"], image.name):
        raise UserError(
            f"{folder / records.SEGMENTATION}: the labels are of {facts.segmentation['volume']}, not of {image.name}; "
            "give the config that they were made with"
        )
    contrast = Contrast.from_json(facts.segmentation["what"]["contrast"])
    read = slices.read(image, open_volume(label_path(folder, labels, labels), image=False), contrast, log)
    log_entries = read_log(workdir / "train.jsonl")
    body = [
        sections.run(facts, image, next(reversed(log_entries.values()), {})),
        sections.training(_curves(workdir, facts.metrics)),
        sections.viewer(facts),
        sections.gallery(facts, folder, read),
        sections.scores(facts),
        sections.instances(folder),
        sections.further(workdir),
    ]
    shown = [[_shown(each, image, facts.colours) for each in read if each.axis == axis] for axis in range(3)]
    text = page(f"his4mae: {pathlib.Path(image.name).name}", facts.stale, body, shown)
    report = workdir / "report"
    with writing(report):
        report.mkdir(exist_ok=True)
        write_json(report / RECORD, {"files": [PAGE], "job": facts.segmentation.get("job")})
        write_text(report / PAGE, text)
    log(f"report: {report / PAGE}")
    return report / PAGE


def _curves(folder, metrics):
    if not (folder / "train.jsonl").exists():
        return None
    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary) / "training.png"
        training_curves(folder / "train.jsonl", metrics, path)
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else None


def _shown(each, image, colours):
    high, wide = (image.shape[a] * image.voxel_size_nm[a] for a in range(3) if a != each.axis)
    return {
        "index": each.index, "aspect": wide / high,
        "grey": slices.grey_uri(each.grey), "labels": slices.labels_uri(each.labels, colours),
    }  # fmt: skip
