"""`--mode=inspect`: what the volumes of a config are, how they look, and what a run with them will take.

Nothing of a run is touched: all that is written goes to `inspect/` in the workdir.
"""

import pathlib
import time

import jax
import numpy as np

from his4mae_jax.data import datasets
from his4mae_jax.data.volumes.anisotropy import LIMIT, in_plane_nm, size_text, slice_axes
from his4mae_jax.data.volumes.contrast import content_box, estimate_contrast, sample_content
from his4mae_jax.data.volumes.crop import central_box
from his4mae_jax.data.volumes.volume import chunks_of
from his4mae_jax.files import write_json, writing
from his4mae_jax.report import contact_sheet, estimate

BINS = 128  # of the histogram
_PROBE = 128  # voxels a side of the box whose reading is timed


def inspect(config, workdir, log) -> list[pathlib.Path]:
    """Looks at every volume that the config names, tells what it finds, and estimates what a run takes.

    Writes `inspect/inspect.json` and `inspect/contact_sheet.png` (further pages: `contact_sheet_2.png`, …).

    Returns:
      The paths written.

    Raises:
      UserError: a volume cannot be used, for the reason that training or segmentation would give.
    """
    folder = pathlib.Path(workdir) / "inspect"
    volumes, entries, rates = [], [], []
    for role, volume in datasets.all_volumes(config, workdir):
        rates.append(_read_rate(volume))
        facts, entry = look(config, role, volume)
        volumes.append(facts)
        entries.append(entry)
        for line in told(facts):
            log(f"inspect: {line}")
    expected = expect(config, entries, [facts["roles"] for facts in volumes], rates, log)
    paths = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for page, start in enumerate(range(0, len(entries), contact_sheet.ROWS), 1):
            paths.append(folder / ("contact_sheet.png" if page == 1 else f"contact_sheet_{page}.png"))
            contact_sheet.contact_sheet(entries[start : start + contact_sheet.ROWS], config.model.fov, paths[-1])
        for old in set(folder.glob("contact_sheet*.png")) - set(paths):  # pages of a config with more volumes
            old.unlink()
        write_json(folder / "inspect.json", {"volumes": volumes, "estimate": expected})
    return [folder / "inspect.json", *paths]


def look(config, roles: str, volume) -> tuple[dict, contact_sheet.Entry]:
    """The facts of one volume, for JSON, and its row of the contact sheet."""
    stored = _stored(volume)
    keys = {"segment.axes": config.segment.axes, "data.axes": config.data.axes}
    key = "data.axes" if "train" in roles else "segment.axes"
    axes = slice_axes(volume, keys[key], key)
    box = content_box(volume)
    values = sample_content(volume, seed=config.seed)
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
            "dtype": stored.dtype.name,
            "bytes": estimate.n_bytes(stored),
            "chunks": list(chunks_of(stored)),
        },
        "shape": list(volume.shape),
        "voxel_size_nm": list(volume.voxel_size_nm),
        "in_plane_nm": in_plane_nm(volume),
        "slices_across": axes,
        "content_box": [[s.start, s.stop] for s in box],
        "contrast": contrast.to_json(),
        "contrast_from": "window" if getattr(volume, "contrast", None) else "percentiles",
        "grey": {"min": values.min().item(), "max": values.max().item(), "mean": float(values.mean(dtype=float)),
                 "std": float(values.std(dtype=float))},
        "clipped": float(np.mean((values < contrast.low) | (values > contrast.high))),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }  # fmt: skip
    title = f"{roles}: {_short(volume.name)}, {_shape(volume.shape)} voxels of {size_text(volume)}, {stored.dtype.name}"
    return facts, contact_sheet.Entry(title, volume, box, axes, contrast, edges, counts)


def told(facts: dict) -> list[str]:
    """The facts of one volume as lines for the terminal."""
    stored = facts["stored"]
    size = " x ".join(f"{s:g}" for s in stored["voxel_size_nm"])
    lines = [
        f"{facts['roles']}: {facts['name']}",
        f"  {_shape(stored['shape'])} voxels (z, y, x) of {size} nm, {stored['dtype']}, {stored['bytes'] / 1e9:.2f} GB "
        f"in chunks of {_shape(stored['chunks'])}",
    ]
    if facts["shape"] != stored["shape"]:
        used = " x ".join(f"{s:g}" for s in facts["voxel_size_nm"])
        lines.append(f"  resampled to {_shape(facts['shape'])} voxels of {used} nm")
    if max(facts["voxel_size_nm"]) > LIMIT * min(facts["voxel_size_nm"]):
        lines.append(f"  anisotropic: slices are taken across {facts['slices_across']} only")
    cut = [hi - lo for lo, hi in facts["content_box"]]
    if cut != facts["shape"]:
        box = ", ".join(f"{lo}:{hi}" for lo, hi in facts["content_box"])
        lines.append(f"  padding around its content, which is [{box}]")
    c, grey = facts["contrast"], facts["grey"]
    lines.append(
        f"  grey levels {grey['min']:g} to {grey['max']:g} (mean {grey['mean']:.4g}), shown from {c['low']:g} to "
        f"{c['high']:g}{', inverted' if c['invert'] else ''} by {facts['contrast_from']}; "
        f"{100 * facts['clipped']:.2f} % of the voxels clipped"
    )
    return lines


def expect(config, entries, roles, rates, log) -> dict:
    """Estimates, told and returned: training on the training volumes, segmenting the one to segment."""
    log(f"inspect: measuring a step and a batch of the encoder on {jax.devices()[0].device_kind}")
    found = {"device": f"{jax.device_count()} x {jax.devices()[0].device_kind}", "dtype": config.model.dtype}
    trained = [e.volume for e, r in zip(entries, roles, strict=True) if "train" in r]
    if trained:
        t = found["training"] = estimate.training(config, trained)
        log(
            f"inspect: training takes about {_duration(t['seconds'])} ({t['steps']:,} steps of "
            f"{config.train.batch_size} fields of view, {t['images_per_s']:,.0f} images/s), "
            f"{_bytes(t['memory_bytes'])} of memory for it and {_bytes(t['checkpoint_bytes'])} of disk for checkpoints"
        )
    last = [i for i, r in enumerate(roles) if "segment" in r] or [i for i, r in enumerate(roles) if "test" in r]
    if last:
        volume, box = entries[last[0]].volume, entries[last[0]].box
        axes = slice_axes(volume, config.segment.axes, "segment.axes")
        s = found["segmentation"] = {
            "volume": volume.name, **estimate.segmentation(config, volume, box, axes, rates[last[0]]),
        }  # fmt: skip
        log(
            f"inspect: segmenting {_short(volume.name)} takes about {_duration(s['seconds'])} ({s['fovs']:,} fields of "
            f"view at {s['fovs_per_s']:,.0f}/s, reading {_duration(s['read_seconds'])}), "
            f"{_bytes(s['memory_bytes'])} of memory for it and at most {_bytes(s['label_bytes'])} of disk for labels"
        )
    log("inspect: times are those of the network and of reading; clustering, writing and figures come on top")
    return found


def _read_rate(volume) -> float:
    """Bytes a second, from one box in the middle of the volume."""
    box = central_box(volume.shape, _PROBE)
    began = time.perf_counter()
    read = volume.read(box)
    return read.nbytes / max(time.perf_counter() - began, 1e-6)


def _stored(volume):
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


def _duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"
