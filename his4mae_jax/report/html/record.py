"""`report/report.json`: which files in `report/` are ours, what each stage ran on, and results kept between pages."""

import datetime
import importlib.metadata
import io
import json
import os
import platform
import re
import zipfile
from typing import Any

import jax
import numpy as np

import his4mae_jax
from his4mae_jax.bucket.path import Place
from his4mae_jax.errors import mask
from his4mae_jax.files import write_bytes, write_json, writing
from his4mae_jax.output import records

FOLDER, PAGE, RECORD = "report", "index.html", "report.json"
PACKAGES = ("jax", "flax", "numpy", "tensorstore")
_OURS = re.compile(r"index\.html|(curves|features|reconstructions)\.npz")


def check_free(workdir: Place) -> None:
    """Checks that no page but one of ours is in the way.

    Raises:
      UserError: there is one, or the record is damaged.
    """
    records.check_free(workdir / FOLDER, [PAGE], _files(workdir))


def write_page(workdir: Place, text: str) -> Place:
    """Writes the page, whole or not at all.

    Raises:
      UserError: a page of the user is in the way, or the disk refuses a write.
    """
    check_free(workdir)
    _write(workdir, PAGE, mask(text).encode("utf-8"))  # it is made to be sent to others
    return workdir / FOLDER / PAGE


def keep(workdir: Place, name: str, of: dict[str, Any], **arrays: np.ndarray) -> None:
    """Keeps arrays for later pages.

    Args:
      workdir: of the run.
      name: of the npz file in `report/`.
      of: JSON of all that the arrays depend on.
      arrays: to keep.

    Raises:
      UserError: a file of the user is in the way, or the disk refuses a write.
    """
    records.check_free(workdir / FOLDER, [name], _files(workdir))
    stream = io.BytesIO()
    np.savez_compressed(stream, of=json.dumps(of, sort_keys=True), **arrays)
    _write(workdir, name, stream.getvalue())


def kept(workdir: Place, name: str, of: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """What `keep` wrote; None unless it is there, whole, and of the same `of`."""
    if name not in _files(workdir):
        return None
    try:
        with (workdir / FOLDER / name).open("rb") as stream, np.load(stream) as data:
            arrays = {key: data[key] for key in data.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return arrays if str(arrays.pop("of", "")) == json.dumps(of, sort_keys=True) else None


def note_stage(workdir: Place, stage: str, seconds: float, of: Any = None) -> None:
    """Records when a stage ended, on which devices, with which versions, and how long it took.

    Args:
      workdir: of the run.
      stage: its name.
      seconds: that it took in this process.
      of: JSON that identifies its result; where that of the last time is the same nothing was done, and that record
        stays. None: it is replaced in any case.

    Raises:
      UserError: the record is damaged, or the disk refuses a write.
    """
    before = stages(workdir).get(stage)
    if before and of is not None and before.get("of") == of:
        return
    own = {"his4mae_jax": his4mae_jax.__version__, "Python": platform.python_version()}
    entry = {
        "seconds": round(seconds, 1), "ended": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device(), "versions": own | {name: importlib.metadata.version(name) for name in PACKAGES}, "of": of,
    }  # fmt: skip
    _update(workdir, stages=stages(workdir) | {stage: entry})


def stages(workdir: Place) -> dict[str, dict[str, Any]]:
    """What `note_stage` recorded, by stage."""
    found = records.read(workdir / FOLDER / RECORD).get("stages")
    return found if isinstance(found, dict) and all(isinstance(entry, dict) for entry in found.values()) else {}


def device() -> str:
    """The devices of this process, such as "1 x NVIDIA H200" or "CPU, 2 cores"."""
    found = jax.local_devices()
    if found[0].platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        text = f"CPU ({platform.machine()}), {cores} cores"
    else:
        text = f"{jax.device_count()} x {found[0].device_kind}"
    return text + (f", {jax.process_count()} processes" if jax.process_count() > 1 else "")


def _files(workdir) -> set[str]:
    path = workdir / FOLDER / RECORD
    record = records.read(path)
    return records.checked(path, record["files"], _OURS) if "files" in record else set()


def _write(workdir, name, content):
    _update(workdir, files=sorted(_files(workdir) | {name}))  # before the file: it is known to be ours
    with writing(workdir / FOLDER):
        write_bytes(workdir / FOLDER / name, content)


def _update(workdir, **entries):
    path = workdir / FOLDER / RECORD
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, records.read(path) | entries)
