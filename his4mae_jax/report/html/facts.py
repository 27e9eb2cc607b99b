"""What a workdir records of its training, labels and scores."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from his4mae_jax import palette
from his4mae_jax.bucket.path import Place
from his4mae_jax.config import get_default
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation.tables import more_clusters_than_classes
from his4mae_jax.naming import clusters_file
from his4mae_jax.naming.shown import Shown, shown
from his4mae_jax.output import records
from his4mae_jax.output.outputs import stored_names
from his4mae_jax.report.html import record
from his4mae_jax.training.run.checkpoints import read_config
from his4mae_jax.workdir import checkpoint_steps

LABELS = "labels.ome.zarr"


@dataclasses.dataclass(frozen=True)
class Facts:
    """All of a report that is read from records.

    Attributes:
      config: content of config.json.
      step: of the newest checkpoint; 0: there is none.
      segmentation: content of segment.json; empty: nothing was segmented.
      labels: how many there are; their ids are 1, 2, ...
      look: their names and colours.
      metrics: content of metrics.json if it is of these labels, else None.
      differences: (setting, value, default) of settings that differ from their defaults.
      stale: what in the workdir is of another checkpoint or other labels, one sentence each.
      stages: what each stage ran on, see `record.note_stage`.
    """

    config: dict[str, Any]
    step: int
    segmentation: dict[str, Any]
    labels: int
    look: Shown
    metrics: dict[str, Any] | None
    differences: list[tuple[str, str, str]]
    stale: list[str]
    stages: dict[str, dict[str, Any]]

    @property
    def trained(self) -> bool:
        """Whether there was a training in the workdir; a frozen encoder needs none."""
        return self.step > 0 or "encoder_file" not in self.segmentation

    @property
    def merged(self) -> bool:
        """Whether clusters are merged by class in the first place: there are more of them than classes."""
        return self.metrics is not None and more_clusters_than_classes(self.metrics)

    @property
    def classes(self) -> dict[int, str | None]:
        """The class that each label stands for, None for those of no class; empty without ground truth."""
        matching = (self.metrics or {}).get("matching") or {}
        found = matching.get("many_to_one" if self.merged else "one_to_one") or {}
        return {int(label): name for label, name in found.items()}

    def described(self, label: int) -> str:
        """The name of a label, and the class that it stands for where that says more."""
        name, of = self.look.names[label], self.classes.get(label, "")
        return f"{name}: no class" if of is None else f"{name} ({of})" if of not in ("", name) else name

    def class_colours(self, names: Sequence[str]) -> list[str]:
        """Colours of classes: those of the clusters that stand for them one to one, others that no cluster has."""
        matching = ((self.metrics or {}).get("matching") or {}).get("one_to_one") or {}
        of = {
            name: self.look.colours[int(label)]
            for label, name in matching.items()
            if name and int(label) in self.look.colours
        }
        taken = set(self.look.colours.values())
        free = iter([colour for colour in palette.COLOURS if colour not in taken] + list(palette.COLOURS) * len(names))
        return [of.get(name) or next(free) for name in names]


def collect(workdir: Place, folder: Place) -> Facts:
    """Reads the records of a run.

    Args:
      workdir: with config.json, the checkpoints and the training log.
      folder: with the labels; there may be none yet.

    Raises:
      UserError: there was no training in the workdir, or a record is damaged.
    """
    config = read_config(workdir)
    if config is None:
        raise UserError(f"{workdir / 'config.json'}: missing; train in this folder first")
    step = max(checkpoint_steps(workdir), default=0)
    segmentation, stale = records.segmentation(folder), []
    labels, look, metrics = 0, Shown({}, {}), None
    if segmentation:
        labels = len(stored_names(records.volume(folder / LABELS)))
        records.segmented(folder, [labels])
        if step > segmentation["step"] and "encoder_file" not in segmentation:
            stale.append(f"The labels are of step {segmentation['step']:,}; training has gone on to step {step:,}.")
        look = shown(folder, labels)
        if look.stale:
            stale.append(f"{clusters_file.FILE} names clusters of other centres, and is left out.")
        metrics = _metrics(folder, segmentation, labels, stale)
    return Facts(
        config, step, segmentation, labels, look, metrics, _differences(config, segmentation), stale,
        record.stages(workdir),
    )  # fmt: skip


def _metrics(folder, segmentation, labels, stale):
    path = folder / "metrics.json"
    if not path.exists():
        return None
    metrics = records.read(path)
    if "segmentation" in metrics:
        older = metrics["segmentation"] != segmentation["job"]
    else:  # of an earlier version; copies of files may be in another order
        older = path.stat().st_mtime_ns < (folder / records.SEGMENTATION).stat().st_mtime_ns
    digest = metrics.get("matching", {}).get("centres", "")
    other = digest and digest != records.centres_digest(folder, labels)
    if older or other or metrics.get("volume") != segmentation["volume"] or metrics.get("clusters") != labels:
        stale.append("metrics.json has the scores of other labels, and is left out; run `his4mae evaluate`.")
        return None
    return metrics


def _differences(config, segmentation):
    settings, defaults = _flat(config), _flat(get_default().to_dict())
    settings |= {f"segment.{key}": value for key, value in segmentation.get("what", {}).get("settings", {}).items()}
    return [
        (key, json.dumps(value, ensure_ascii=False), json.dumps(defaults.get(key)))
        for key, value in sorted(settings.items())
        if json.dumps(value) != json.dumps(defaults.get(key))
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
