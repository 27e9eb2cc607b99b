"""`his4mae inspect`: what the volumes of a config are, how they look, and what a run with them will take.

Nothing of a run is touched: all that is written goes to `inspect/` in the workdir, each part as soon as it is known.
"""

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np

from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.data import datasets
from his4mae_jax.data.label_check import check_labels
from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.volumes.anisotropy import LIMIT, in_plane_nm, size_text, slice_axes
from his4mae_jax.data.volumes.blocks import known_value, stored_of
from his4mae_jax.data.volumes.contrast import content_box, estimate_contrast, read_sample
from his4mae_jax.data.volumes.crop import central_box
from his4mae_jax.data.volumes.volume import VolumeLike, chunks_of
from his4mae_jax.errors import UserError
from his4mae_jax.files import write_json, writing
from his4mae_jax.progress import Log, duration, progress, rate
from his4mae_jax.report import contact_sheet, estimate

BINS = 128  # of the histogram
LONG = 86_400  # seconds of an estimate from which on the log says what to change
_PROBE = 128  # voxels a side of the box whose reading is timed
_RECORD = "inspect.json"
_PAGE = re.compile(r"contact_sheet(_\d+)?\.png")


def inspect(config: ml_collections.ConfigDict, workdir: PathLike, log: Log) -> list[Place]:
    """Looks at every volume that the config names, says what it finds, and estimates what a run takes.

    Writes `inspect/inspect.json` and `inspect/contact_sheet.png` (further pages: `contact_sheet_2.png`, …) before it
    measures anything, and adds each estimate to the JSON file when it is known.

    Returns:
      The paths written.

    Raises:
      UserError: a volume cannot be used, for the reason that training or segmentation would give.
    """
    folder = place(workdir) / "inspect"
    volumes, entries, outputs, rates = [], [], [], []
    for role, volume, stored in datasets.all_volumes(config, workdir):
        with progress(f"inspect: reading {_short(volume.name)}", log=log):
            rates.append(_read_rate(volume))
            facts, entry = look(config, role, volume)
        volumes.append(facts)
        entries.append(entry)
        outputs.append(volume if config.segment.grid == "model" else stored)
        for line in describe(facts):
            log(f"inspect: {line}")
    labelled, problems = _look_at_labels(config, workdir, entries, log)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        pages = _draw_pages(folder, [*entries, *labelled], config.model.fov, config.model.patch_size)
        labels = [dataclasses.asdict(entry.report) for entry in labelled]
        record = {"volumes": volumes, "labels": labels, "pages": [page.name for page in pages]}
        write_json(folder / _RECORD, record)
    for path in (folder / _RECORD, *pages):
        log(f"inspect: {path}")
    record["estimate"] = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "dtype": config.model.dtype,
    }
    roles = [facts["roles"] for facts in volumes]
    for name, estimated in _estimates(config, entries, outputs, roles, rates, log):
        record["estimate"][name] = estimated
        with writing(folder):
            write_json(folder / _RECORD, record)
    log("inspect: times are those of the network and of reading; clustering, writing and figures come on top")
    if problems:
        raise UserError(problems[0])
    return [folder / _RECORD, *pages]


def _look_at_labels(
    config: ml_collections.ConfigDict, workdir: PathLike, entries: list[contact_sheet.Entry], log: Log
) -> tuple[list[contact_sheet.Entry], list[str]]:
    """Compares every ground truth that the config names with its image.

    Returns:
      A row of the contact sheet for each, and the errors, which training or scoring would end with.
    """
    rows, errors = [], []
    by_name = {entry.volume.name: entry for entry in entries}
    try:
        for key, image, labels in datasets.labelled_volumes(config, workdir):
            report = check_labels(image, labels, datasets.class_names(config), key=key, log=log)
            log(f"inspect: {report.summary()}")
            for line in report.warnings:
                log(f"inspect: {line}")
            errors += report.errors
            entry = by_name.get(image.name)
            if entry and report.rows:
                title = f"{key}: {_short(labels.name)}"
                rows.append(dataclasses.replace(entry, title=title, labels=labels, report=report))
    except UserError as error:  # labels that cannot be opened do not keep the images from being shown
        errors.append(str(error))
    return rows, errors


def _draw_pages(folder: Place, entries: list[contact_sheet.Entry], fov: int, patch: int) -> list[Place]:
    """The contact sheet, `contact_sheet.ROWS` volumes a page; pages of an earlier call that had more are removed."""
    pages = []
    for number, start in enumerate(range(0, len(entries), contact_sheet.ROWS), 1):
        pages.append(folder / ("contact_sheet.png" if number == 1 else f"contact_sheet_{number}.png"))
        contact_sheet.contact_sheet(entries[start : start + contact_sheet.ROWS], fov, patch, pages[-1])
    recorded: list[str] = []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        recorded = json.loads((folder / _RECORD).read_text("utf-8"))["pages"]
    for name in set(recorded) - {page.name for page in pages}:
        if _PAGE.fullmatch(name):  # a record that was edited must not have other files removed
            (folder / name).unlink(missing_ok=True)
    return pages


def look(config: ml_collections.ConfigDict, roles: str, volume: VolumeLike) -> tuple[dict, contact_sheet.Entry]:
    """Returns the facts of one volume, for JSON, and its row of the contact sheet."""
    stored = _stored(volume)
    keys = {"segment.axes": config.segment.axes, "data.axes": config.data.axes}
    key = "data.axes" if "train" in roles else "segment.axes"
    axes = slice_axes(volume, keys[key], key)
    box = content_box(volume)
    sample = read_sample(volume, seed=config.seed)
    values = sample.values
    contrast = estimate_contrast(
        volume, percentiles=tuple(config.data.contrast_percentiles), invert=config.data.invert, seed=config.seed
    )
    counts, edges = np.histogram(values, _edges(values))
    facts = {
        "roles": roles,
        "name": volume.name,
        "stored": {
            "shape": list(stored.shape),
            "voxel_size_nm": list(stored.voxel_size_nm),
            **({"origin_nm": list(origin_of(stored))} if any(origin_of(stored)) else {}),
            "dtype": stored.dtype.name,
            "bytes": estimate.n_bytes(stored),
            "chunks": list(chunks_of(stored)),
        },
        "shape": list(volume.shape),
        "voxel_size_nm": list(volume.voxel_size_nm),
        "in_plane_nm": in_plane_nm(volume),
        **_spans(config, volume),
        "slices_across": axes,
        "content_box": [[s.start, s.stop] for s in box],
        **({"left_out": sample.left_out} if sample.left_out else {}),
        "contrast": contrast.to_json(),
        "contrast_from": "window" if getattr(volume, "contrast", None) else "percentiles",
        "grey": {"min": values.min().item(), "max": values.max().item(), "mean": float(values.mean(dtype=float)),
                 "std": float(values.std(dtype=float))},
        "clipped": float(np.mean((values < contrast.low) | (values > contrast.high))),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }  # fmt: skip
    title = f"{roles}: {_short(volume.name)}, {_shape(volume.shape)} voxels of {size_text(volume)}, {stored.dtype.name}"
    return facts, contact_sheet.Entry(title, volume, box, axes, contrast, edges, counts, left_out=sample.planes)


def _spans(config: ml_collections.ConfigDict, volume: VolumeLike) -> dict[str, float]:
    """What the model that is trained sees at once and as one token; nothing of a frozen encoder."""
    if config.segment.encoder_file:
        return {}
    nm = in_plane_nm(volume)
    return {"fov_nm": config.model.fov * nm, "patch_nm": config.model.patch_size * nm}


def describe(facts: dict) -> list[str]:
    """Returns the facts of one volume as lines for the terminal."""
    stored = facts["stored"]
    size = " x ".join(f"{s:g}" for s in stored["voxel_size_nm"])
    lines = [
        f"{facts['roles']}: {facts['name']}",
        f"  {_shape(stored['shape'])} voxels (z, y, x) of {size} nm, {stored['dtype']}, {stored['bytes'] / 1e9:.2f} GB "
        f"in chunks of {_shape(stored['chunks'])}",
    ]
    if "origin_nm" in stored:
        lines.append(f"  its first voxel lies at {', '.join(f'{o:g}' for o in stored['origin_nm'])} nm (z, y, x)")
    if facts["shape"] != stored["shape"]:
        used = " x ".join(f"{s:g}" for s in facts["voxel_size_nm"])
        lines.append(f"  resampled to {_shape(facts['shape'])} voxels of {used} nm")
    if max(facts["voxel_size_nm"]) > LIMIT * min(facts["voxel_size_nm"]):
        lines.append(f"  anisotropic: slices are taken across {facts['slices_across']} only")
    if "fov_nm" in facts:
        lines.append(
            f"  the model sees {facts['fov_nm']:,.0f} nm at once and {facts['patch_nm']:,.0f} nm as one token: about "
            "the width of an organelle, and of its finest part that is to be found (data.voxel_size_nm changes both)"
        )
    cut = [hi - lo for lo, hi in facts["content_box"]]
    if cut != facts["shape"]:
        box = ", ".join(f"{lo}:{hi}" for lo, hi in facts["content_box"])
        lines.append(f"  padding around its content, which is [{box}]")
    if "left_out" in facts:
        lines.append(f"  lost or saturated, and left out of the window of grey levels: {facts['left_out']}")
    c, grey = facts["contrast"], facts["grey"]
    lines.append(
        f"  grey levels {grey['min']:g} to {grey['max']:g} (mean {grey['mean']:.4g}), shown from {c['low']:g} to "
        f"{c['high']:g}{', inverted' if c['invert'] else ''} by {facts['contrast_from']}; "
        f"{100 * facts['clipped']:.2f} % of the voxels clipped"
    )
    return lines


def _estimates(
    config: ml_collections.ConfigDict,
    entries: list[contact_sheet.Entry],
    outputs: list[VolumeLike],
    roles: list[str],
    rates: list[float],
    log: Log,
) -> Iterator[tuple[str, dict]]:
    """Yields `(name, estimate)` as each is measured: training on all volumes to train on, segmenting one volume."""
    device = jax.devices()[0].device_kind
    training = [entry.volume for entry, role in zip(entries, roles, strict=True) if "train" in role]
    if training and not config.segment.encoder_file:  # a frozen encoder: nothing is trained
        with progress(f"inspect: measuring a training step on {device}", log=log):
            t = estimate.training(config, training)
        log(
            f"inspect: training takes about {duration(t['seconds'])} ({t['steps']:,} steps of "
            f"{config.train.batch_size} fields of view, {rate(t['images_per_s'], 'images')}), "
            f"{_bytes(t['memory_bytes'])} of memory and {_bytes(t['checkpoint_bytes'])} of disk for checkpoints"
        )
        if t["seconds"] > LONG:
            log(
                "inspect: that is more than a day: set train.steps (or train.epochs) lower, start from get_small() of "
                "his4mae_jax.config, or train on a GPU or TPU"
            )
        yield "training", t
    segmented = [i for i, r in enumerate(roles) if "segment" in r] or [i for i, r in enumerate(roles) if "test" in r]
    if segmented:
        volume, box = entries[segmented[0]].volume, entries[segmented[0]].box
        axes = slice_axes(volume, config.segment.axes, "segment.axes")
        with progress(f"inspect: measuring the encoder on {device}", log=log):
            s = estimate.segmentation(config, volume, box, axes, rates[segmented[0]], outputs[segmented[0]])
        log(
            f"inspect: segmenting {_short(volume.name)} takes about {duration(s['seconds'])} ({s['fovs']:,} at "
            f"{rate(s['fovs_per_s'], 'fields of view')}, reading {duration(s['read_seconds'])}), "
            f"{_bytes(s['memory_bytes'])} of memory and at most {_bytes(s['label_bytes'])} of disk for labels"
            + (f", {_bytes(s['feature_bytes'])} for kept features" if s["feature_bytes"] else "")
        )
        yield "segmentation", {"volume": volume.name, **s}


def _read_rate(volume: VolumeLike) -> float:
    """Bytes per second, from one box in the middle of the volume, or the first of which something is stored."""
    box = central_box(volume.shape, _PROBE)
    if known_value(volume, box) is not None:
        box = next(stored_of(volume).boxes((_PROBE,) * 3), box)
    began = time.perf_counter()
    read = volume.read(box)
    return read.nbytes / max(time.perf_counter() - began, 1e-6)


def _stored(volume: VolumeLike) -> VolumeLike:
    """The volume as it lies on disk, below what resampling and windows make of it."""
    while hasattr(volume, "source"):
        volume = volume.source
    return volume


def _edges(values: np.ndarray) -> np.ndarray:
    """Bin edges; of integers between levels, so that no bin holds more levels than another."""
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f":
        return np.linspace(low, high, BINS + 1)
    width = max(1, -(-int(high - low + 1) // BINS))
    return np.arange(int(low), int(high) + width + 1, width) - 0.5


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"…{name[-59:]}"


def _shape(shape) -> str:
    return "x".join(map(str, shape))


def _bytes(n: float) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"
