"""What a workdir records of its training, labels and scores."""

import dataclasses
import importlib.metadata
import json
import pathlib
import platform
from typing import Any

import his4mae_jax
from his4mae_jax import palette
from his4mae_jax.config import get_default
from his4mae_jax.errors import UserError
from his4mae_jax.naming import clusters_file
from his4mae_jax.output import records
from his4mae_jax.training.run.checkpoints import read_config


@dataclasses.dataclass(frozen=True)
class Facts:
    """All of a report that is read from records.

    Attributes:
      segmentation: content of segment.json.
      labels: how many there are; their ids are 1, 2, ...
      names: by label.
      colours: "#RRGGBB" by label.
      differences: (setting, value, default) of settings that differ from their defaults.
      metrics: content of metrics.json if it is of these labels, else None.
      stale: what in the workdir is of another checkpoint or other labels, one sentence each.
      versions: of packages, by name.
    """

    segmentation: dict[str, Any]
    labels: int
    names: dict[int, str]
    colours: dict[int, str]
    differences: list[tuple[str, str, str]]
    metrics: dict[str, Any] | None
    stale: list[str]
    versions: dict[str, str]


def collect(workdir: pathlib.Path, folder: pathlib.Path, labels: int) -> Facts:
    """Reads the records of a run.

    Args:
      workdir: of the training.
      folder: of the labels.
      labels: number of labels in `labels.ome.zarr`.

    Raises:
      UserError: there are no such labels, or a record is damaged.
    """
    segmentation = records.segmented(folder, [labels])
    stale = []
    trained = max((int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()), default=0)
    if trained > segmentation["step"]:
        stale.append(f"The labels are of step {segmentation['step']:,}; training has gone on to step {trained:,}.")
    names, colours = _names(folder, labels, stale)
    metrics = _metrics(folder, segmentation, labels, stale)
    versions = {"his4mae_jax": his4mae_jax.__version__, "Python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in ("jax", "flax", "numpy")}
    return Facts(
        segmentation, labels, names, colours, _differences(workdir, segmentation), metrics, stale, versions
    )  # fmt: skip


def _names(folder, labels, stale):
    ids = range(1, labels + 1)
    names, colours = {i: f"cluster {i}" for i in ids}, {i: palette.colour(i) for i in ids}
    if (folder / clusters_file.FILE).exists():
        named = clusters_file.read(folder / clusters_file.FILE)
        if named.centres == records.centres_digest(folder, labels):
            names |= {c.id: c.name for c in named.clusters}
            colours |= {c.id: c.colour for c in named.clusters}
        else:
            stale.append(f"{clusters_file.FILE} names clusters of other centres, and is left out.")
    return names, colours


def _metrics(folder, segmentation, labels, stale):
    path = folder / "metrics.json"
    if not path.exists():
        return None
    metrics = records.read(path)
    older = path.stat().st_mtime_ns < (folder / records.SEGMENTATION).stat().st_mtime_ns
    digest = metrics.get("matching", {}).get("centres", "")
    other = digest and digest != records.centres_digest(folder, labels)
    if older or other or metrics.get("volume") != segmentation["volume"] or metrics.get("clusters") != labels:
        stale.append("metrics.json has the scores of other labels, and is left out; run `his4mae evaluate`.")
        return None
    return metrics


def _differences(workdir, segmentation):
    config = read_config(workdir)
    if config is None:
        raise UserError(f"{workdir / 'config.json'}: missing; train in this folder first")
    settings, defaults = _flat(config), _flat(get_default().to_dict())
    settings |= {f"segment.{key}": value for key, value in segmentation.get("what", {}).get("settings", {}).items()}
    return [
        (key, json.dumps(value), json.dumps(defaults.get(key)))
        for key, value in sorted(settings.items())
        if json.dumps(value) != json.dumps(defaults.get(key))
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
