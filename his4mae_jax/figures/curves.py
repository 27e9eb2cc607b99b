"""Training curves: losses, the codebook's health, the learning rate, and the DSC over the steps."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from his4mae_jax.bucket.path import PathLike, place
from his4mae_jax.errors import UserError
from his4mae_jax.figures import style
from his4mae_jax.workdir import log_entry


def training_curves(
    train_jsonl: PathLike,
    metrics: dict[str, Any] | None,
    path: PathLike,
    colours: Mapping[str, str] | None = None,
) -> None:
    """Draws the losses, the codebook's health, the learning rate and the DSC over the steps.

    The last panel is the paper's Fig. 3: the DSC of each class and their mean, from
    metrics["curve"]; classes have the same colours as in the slices, whichever are absent. A panel
    without data is left out; without any data no file is written.

    Args:
      train_jsonl: the log of training, one JSON object a line with "step" and any of "loss_recon",
        "loss_tea", "loss_stu", "perplexity", "dead_fraction", "lr". An invalid line (a killed
        process may leave half of one) is skipped. If a resumed run logged a step again, its last
        entry is used.
      metrics: see evaluation.tables; may be None.
      path: the PNG.
      colours: "#RRGGBB" by class; None: those of the classes' labels.
    """
    log = read_log(train_jsonl)
    blue, red, green, grey = "#0072B2", "#D55E00", "#009E73", "#595959"
    panels = [  # title, scale, (key in the log, label, colour) of each line
        ("Reconstruction loss", "log", [("loss_recon", "$L_{recon}$", blue)]),
        (
            "Codebook losses",
            "log",
            [("loss_tea", "$L_{tea}$", red), ("loss_stu", "$L_{stu}$", green)],
        ),
        ("Codebook perplexity", "linear", [("perplexity", "", blue)]),
        ("Fraction of isolated codes in an epoch", "fraction", [("dead_fraction", "", red)]),
        ("Learning rate", "linear", [("lr", "", grey)]),
    ]
    keys_logged = {key for entry in log.values() for key in entry if style.is_number(entry[key])}
    panels = [panel for panel in panels if any(key in keys_logged for key, *_ in panel[2])]
    curve = _dsc_curve(metrics or {})
    count = len(panels) + bool(curve)
    if not count:
        return

    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(4.4 * columns, 3.3 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in grid[count:]:
        ax.remove()
    for ax, (title, scale, lines) in zip(grid, panels, strict=False):
        for key, label, colour in lines:
            points = [(step, entry[key]) for step, entry in log.items() if style.is_number(entry.get(key))]
            if scale == "log":
                points = [(step, value) for step, value in points if value > 0]
            if points:
                _line(ax, points, colour, label, smooth=key.startswith("loss"))
        if scale == "log" and ax.lines:
            ax.set_yscale("log")
        elif scale == "linear":
            ax.ticklabel_format(axis="y", scilimits=(-3, 4))
            # The margin is relative to the largest value, not to the range: an almost constant line would be cut off.
            ax.set_ylim(0, 1.05 * ax.dataLim.y1 if ax.lines and ax.dataLim.y1 > 0 else None)
        elif scale == "fraction":
            ax.set_ylim(-0.03, 1.03)
        if len(lines) > 1 and ax.lines:
            ax.legend(frameon=False, fontsize=9)
        _panel(ax, title)
    if curve:
        ax = grid[count - 1]
        names = _class_names(metrics)
        own = dict(zip(names, style.colours(len(names)), strict=True)) | dict(colours or {})
        looks = {name: (own[name], 1.5) for name in names}
        looks["mean"] = "black", 2.4  # last, drawn on top
        for name, (colour, width) in looks.items():
            if name not in curve:  # absent from the ground truth
                continue
            steps, values = zip(*curve[name], strict=True)
            ax.plot(steps, values, "o-", color=colour, linewidth=width, markersize=3, label=name)
        ax.set_ylim(-0.03, 1.03)
        ax.legend(frameon=False, fontsize=8, ncols=2)
        _panel(ax, "Dice similarity coefficient")
    style.save(figure, path)


def read_log(train_jsonl: PathLike) -> dict[int, dict[str, Any]]:
    """The entries of a training log by step, ascending; see `training_curves`. Empty where there is no file.

    Lines that are none, as a torn disk leaves them, are left out.

    Raises:
      UserError: the file cannot be read.
    """
    if not place(train_jsonl).exists():
        return {}
    try:
        lines = place(train_jsonl).read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{train_jsonl}: cannot be read ({error.strerror}); move it away") from error
    entries = [entry for entry in map(log_entry, lines) if entry is not None]
    return {entry["step"]: entry for entry in sorted(entries, key=lambda entry: entry["step"])}


def late_fall(log: Mapping[int, Mapping[str, Any]], key: str = "loss_recon") -> float | None:
    """The part by which a loss fell over the second half of a training: of its last tenth below the tenth before half.

    None where too little was logged.
    """
    losses = {step: entry[key] for step, entry in log.items() if style.is_number(entry.get(key))}
    last = max(losses, default=0)

    def mean(begin: float, end: float) -> float | None:
        part = [loss for step, loss in losses.items() if begin * last < step <= end * last]
        return sum(part) / len(part) if part else None

    before, after = mean(0.4, 0.5), mean(0.9, 1.0)
    return None if not before or after is None else 1 - after / before


def _dsc_curve(metrics: dict) -> dict[str, list[tuple[int, float]]]:
    curve: dict[str, list[tuple[int, float]]] = {}
    for entry in sorted(metrics.get("curve") or [], key=lambda entry: entry["step"]):
        for name, value in ((entry.get("dsc") or {}).get("one_to_one") or {}).items():
            if style.is_number(value):
                curve.setdefault(name, []).append((entry["step"], float(value)))
    return curve


def _class_names(metrics: dict) -> list[str]:
    """All classes in the order of their ids, those absent from the ground truth included."""
    blocks = [metrics, *(metrics.get("curve") or [])]
    named = [name for block in blocks for name in ((block.get("dsc") or {}).get("one_to_one") or {})]
    return [name for name in dict.fromkeys(named) if name != "mean"]


def _panel(ax, title: str) -> None:
    ax.set_title(title, fontsize=11)
    ax.set_xlabel("step", fontsize=9)
    ax.tick_params(which="both", labelsize=8)
    ax.yaxis.get_offset_text().set_fontsize(8)
    ax.grid(color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def _line(ax, points: list[tuple[int, float]], colour: str, label: str, smooth: bool) -> None:
    """The points; if they are many and noisy, pale, under a running mean that shows the trend."""
    steps, values = (np.asarray(column, np.float64) for column in zip(*points, strict=True))
    width = len(values) // 25
    if width < 2 or not smooth:
        marker = "o" if len(values) < 30 else None
        ax.plot(steps, values, color=colour, marker=marker, markersize=3, label=label)
        return
    ax.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - width, 0), np.minimum(index + width + 1, len(values))
    ax.plot(steps, (total[high] - total[low]) / (high - low), color=colour, label=label)
