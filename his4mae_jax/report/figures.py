"""The pictures of a run: training curves, slices with their labels, and a bar chart of scores.

They are drawn through matplotlib's object interface alone: no pyplot, no global state, no
display. Classes have the same colour in all of them, from Okabe and Ito's palette, which readers
with any common colour vision tell apart.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

PALETTE = (  # Okabe and Ito's seven, then tints of Paul Tol's for the odd picture that has more
    "#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2",
    "#882255", "#44AA99", "#999933", "#AA4499", "#332288", "#DDCC77", "#88CCEE",
)  # fmt: skip
NEUTRAL = ("#FFFFFF", "#C0C0C0", "#909090")  # clusters that stand for no class
DARK = "#404040"  # between the stripes of those
METHODS = ("#0072B2", "#BDBDBD", "#7F7F7F", "#E69F00", "#CC79A7", "#009E73")
IGNORE = 255  # as in evaluation.dice: no label here
MAX_SIDE = 800  # a slice is reduced to at most this many pixels on its longer side
STRIP = 1 << 26  # voxels read at a time
PANEL = 3.6  # inches, the width of a slice
DPI = 120


# ----------------------------------------------------------------------------- training curves


def training_curves(train_jsonl, metrics: dict | None, path) -> None:
    """Draws the losses, the codebook's health, the learning rate and the DSC over the steps.

    The last panel is the paper's Fig. 3: the DSC of each class and their mean, from
    metrics["curve"]. A panel without data is left out; without any data no file is written.

    Args:
      train_jsonl: the log of training, one JSON object a line with "step" and any of "loss_recon",
        "loss_tea", "loss_stu", "perplexity", "dead_fraction", "lr". A line that cannot be read
        (a killed process leaves half a line) is skipped. Of a step logged twice, by a run that
        was resumed from before it, the last counts.
      metrics: see evaluation.tables; may be None.
      path: the PNG.
    """
    log = _read_log(train_jsonl)
    blue, red, green, grey = "#0072B2", "#D55E00", "#009E73", "#595959"
    panels = [  # title, scale, (key in the log, label, colour) of each line
        ("Reconstruction loss", "log", [("loss_recon", "$L_{recon}$", blue)]),
        (
            "Codebook losses",
            "log",
            [("loss_tea", "$L_{tea}$", red), ("loss_stu", "$L_{stu}$", green)],
        ),
        ("Codebook perplexity", "linear", [("perplexity", "", blue)]),
        ("Share of codes unused in an epoch", "share", [("dead_fraction", "", red)]),
        ("Learning rate", "linear", [("lr", "", grey)]),
    ]
    keys_logged = {key for entry in log.values() for key in entry if _number(entry[key])}
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
            points = [(step, entry[key]) for step, entry in log.items() if _number(entry.get(key))]
            if scale == "log":
                points = [(step, value) for step, value in points if value > 0]
            if points:
                _line(ax, points, colour, label, smooth=key.startswith("loss"))
        if scale == "log" and ax.lines:
            ax.set_yscale("log")
        elif scale == "linear":
            ax.ticklabel_format(axis="y", scilimits=(-3, 4))
            ax.set_ylim(bottom=0)
        elif scale == "share":
            ax.set_ylim(-0.03, 1.03)
        if len(lines) > 1 and ax.lines:
            ax.legend(frameon=False, fontsize=9)
        _panel(ax, title)
    if curve:
        ax = grid[count - 1]
        names = sorted(curve, key=lambda name: name == "mean")  # the mean last, drawn on top
        for name, colour in zip(names, _colours(len(names)), strict=True):
            colour, width = ("black", 2.4) if name == "mean" else (colour, 1.5)
            steps, values = zip(*curve[name], strict=True)
            ax.plot(steps, values, "o-", color=colour, linewidth=width, markersize=3, label=name)
        ax.set_ylim(-0.03, 1.03)
        ax.legend(frameon=False, fontsize=8, ncols=2)
        _panel(ax, "Dice similarity coefficient")
    _save(figure, path)


def _read_log(train_jsonl) -> dict[int, dict]:
    log: dict[int, dict] = {}
    if not Path(train_jsonl).exists():
        return log
    with open(train_jsonl, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
                step = int(entry["step"])
            except (ValueError, KeyError, TypeError):
                continue
            log[step] = entry
    return dict(sorted(log.items()))


def _dsc_curve(metrics: dict) -> dict[str, list[tuple[int, float]]]:
    curve: dict[str, list[tuple[int, float]]] = {}
    for entry in sorted(metrics.get("curve") or [], key=lambda entry: entry["step"]):
        for name, value in ((entry.get("dsc") or {}).get("one_to_one") or {}).items():
            if _number(value):
                curve.setdefault(name, []).append((entry["step"], float(value)))
    return curve


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


# ------------------------------------------------------------------------------ slice overlays


def slice_overlays(
    image,
    clusters,
    truth,
    assignment: Sequence[int | str | None] | None,
    class_names: Sequence[str],
    path,
    *,
    contrast,
    title: str = "",
) -> None:
    """Draws slices with ground truth and prediction laid over them (the paper's Fig. 2).

    Three slices on each axis, at 25, 50 and 75 % of it, one a row: image, ground truth,
    prediction. Only these slices are read, and large ones a strip at a time. The label that
    covers most of them is only a faint tint, so that the image stays visible under it.

    Args:
      image: grey values, (z, y, x); its voxel_size_nm (z, y, x) sets the scale bars and the
        shape of the pixels.
      clusters: label volume of the same shape with cluster ids, 255 where there is none.
      truth: label volume with class ids, 255 where not annotated (left plain); or None: then
        there is no such column, and each cluster has a colour of its own.
      assignment: for each cluster the class it stands for (`dice.Scores.assignment`) or None:
        those are hatched in greys.
      class_names: one name for each class id.
      path: the PNG.
      contrast: contrast.apply(array) maps raw values to [0, 1].
    """
    rows = []
    voxels = np.zeros(256, np.int64)  # per cluster, in the slices shown
    for axis in range(3):
        for share in (0.25, 0.5, 0.75):
            index = int(share * image.shape[axis])
            grey = _slice(image, axis, index, contrast.apply, average=True)
            labels = [_slice(v, axis, index) for v in (truth, clusters) if v is not None]
            voxels += np.bincount(labels[-1].ravel(), minlength=256)
            rows.append((axis, f"{'zyx'[axis]} = {index}\n{100 * share:.0f} %", grey, labels))
    seen = [cluster for cluster in np.flatnonzero(voxels).tolist() if cluster != IGNORE]

    class_looks = {i: (colour, "") for i, colour in enumerate(_colours(len(class_names)))}
    if truth is None or assignment is None:
        colours = _colours(max(seen, default=0) + 1)
        looks = {cluster: (colours[cluster], "") for cluster in seen}
        key = [Patch(color=look[0], label=f"cluster {c}") for c, look in looks.items()]
    else:
        looks = _looks_by_class(assignment, class_names, class_looks)
        key = [Patch(color=class_looks[i][0], label=n) for i, n in enumerate(class_names)]
        for cluster, (colour, hatched) in looks.items():
            if hatched and cluster in seen:
                label = f"cluster {cluster}: no class"
                look = {"facecolor": DARK, "edgecolor": colour, "hatch": 5 * hatched}
                key.append(Patch(**look, label=label))
    faint = looks.get(int(voxels[:IGNORE].argmax()), ("", ""))
    columns = ["image", "prediction"] if truth is None else ["image", "ground truth", "prediction"]

    size_nm = [float(size) for size in image.voxel_size_nm]
    physical = [image.shape[a] * size_nm[a] for a in range(3)]
    extents = [[physical[a] for a in range(3) if a != axis] for axis, *_ in rows]  # nm: high, wide
    heights = [PANEL * min(max(high / wide, 0.12), 1.25) for high, wide in extents]
    figure = Figure(
        figsize=(PANEL * len(columns) + 0.8, sum(heights) + 0.07 * len(rows) + 1),
        layout="compressed",
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    grid = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    for axes, (_, place, grey, labels), (high, wide) in zip(grid, rows, extents, strict=True):
        for ax, overlay in zip(axes, [None, *labels], strict=True):
            frame = {"extent": (0, wide, high, 0), "aspect": "equal"}  # nm
            ax.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="antialiased", **frame)
            if overlay is not None:
                pixels = [DPI * PANEL * high / wide, DPI * PANEL]
                own_looks = looks if overlay is labels[-1] else class_looks
                rgba = _overlay(overlay, own_looks, faint, pixels)
                ax.imshow(rgba, interpolation="nearest", **frame)
            ax.set(xticks=[], yticks=[])
        axes[0].set_ylabel(place, rotation=0, ha="right", va="center", fontsize=10)
        _scale_bar(axes[0], wide, high)
    for ax, name in zip(grid[0], columns, strict=True):
        ax.set_title(name, fontsize=12)
    if title:
        figure.suptitle(title, fontsize=13)
    if key:
        inches = 0.6 + 0.085 * max(len(patch.get_label()) for patch in key)
        ncols = max(1, min(len(key), int(PANEL * len(columns) / inches)))
        figure.legend(handles=key, loc="outside lower center", ncols=ncols, frameon=False)
    _save(figure, path)


def _looks_by_class(assignment, class_names, class_looks) -> dict[int, tuple[str, str]]:
    """cluster -> (colour, hatching: "", "/" or "\\")."""
    looks, left_over = {}, 0
    for cluster, klass in enumerate(assignment):
        if klass is None:
            looks[cluster] = NEUTRAL[left_over // 2 % len(NEUTRAL)], "/\\"[left_over % 2]
            left_over += 1
        else:
            index = list(class_names).index(klass) if isinstance(klass, str) else int(klass)
            looks[cluster] = class_looks[index]
    return looks


def _slice(volume, axis: int, index: int, apply=np.asarray, average: bool = False) -> np.ndarray:
    """One slice, 2D, at most MAX_SIDE a side: by averages (grey values) or by choice (labels)."""
    rows, columns = (size for a, size in enumerate(volume.shape) if a != axis)
    step = max(1, math.ceil(max(rows, columns) / MAX_SIDE))
    height = max(1, STRIP // (columns * step)) * step
    strips = []
    for top in range(0, rows, height):
        where = [slice(top, min(top + height, rows)), slice(0, columns)]
        where.insert(axis, slice(index, index + 1))
        strip = np.squeeze(np.asarray(apply(volume.read(tuple(where)))), axis)
        if not average:
            strip = strip[::step, ::step]
        elif step > 1:
            for side in (0, 1):
                starts = np.arange(0, strip.shape[side], step)
                counts = np.diff([*starts, strip.shape[side]])
                sums = np.add.reduceat(strip, starts, axis=side, dtype=np.float32)
                strip = sums / np.expand_dims(counts, 1 - side)
        strips.append(strip)
    return np.concatenate(strips)


def _overlay(labels: np.ndarray, looks, faint, pixels: Sequence[float]) -> np.ndarray:
    """RGBA of about `pixels` (rows, columns): a fill and a firm outline, or hatching."""
    for side in (0, 1):  # at the size of the screen, so that outlines are as thin across all axes
        labels = labels.repeat(max(1, round(pixels[side] / labels.shape[side])), axis=side)
    outline = np.zeros(labels.shape, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = labels[here] != labels[there]
        outline[here] |= differs
        outline[there] |= differs
    row, column = np.indices(labels.shape, sparse=True)
    rgba = np.zeros((*labels.shape, 4), np.float32)
    for label, look in looks.items():
        inside = labels == label
        colour, hatched = look
        rgba[inside, :3] = to_rgb(colour)
        rgba[inside, 3] = 0.16 if look == faint else 0.45
        if hatched:  # light and dark in turn: seen on a bright image and on a dark one
            stripe = (row + (column if hatched == "/" else -column)) % 8 < 2
            rgba[inside & ~stripe, :3] = to_rgb(DARK)
            rgba[inside, 3] = 0.38
        elif look != faint:
            rgba[inside & outline, 3] = 0.95
    return rgba


def _scale_bar(ax, wide: float, high: float) -> None:
    """A bar of 1, 2 or 5 × 10ⁿ nm, up to a quarter of the slice, in its lower left corner."""
    power = 10.0 ** math.floor(math.log10(wide / 4))
    length = max(factor * power for factor in (1, 2, 5) if factor * power <= wide / 4)
    left, bottom = 0.04 * wide, high - min(0.05 * wide, 0.2 * high)
    bar = Line2D([left, left + length], [bottom, bottom], color="white", linewidth=3)
    bar.set_path_effects([patheffects.withStroke(linewidth=5, foreground="black")])
    ax.add_line(bar)
    ax.annotate(
        f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm",
        (left + length / 2, bottom), xytext=(0, 3), textcoords="offset points",
        ha="center", va="bottom", color="white", fontsize=9,
        path_effects=[patheffects.withStroke(linewidth=3, foreground="black")],
    )  # fmt: skip


# ----------------------------------------------------------------------------------- bar chart


def dsc_bars(metrics: dict, path) -> None:
    """Draws the DSC of every class and their mean as bars, one for each method.

    Bars are one-to-one (the headline); a diamond marks many-to-one, which uses labels to merge
    clusters. An absent class reads "n/a". Without any score no file is written.

    Args:
      metrics: see evaluation.tables.
      path: the PNG.
    """
    blocks = {metrics["method"]: metrics, **(metrics.get("baselines") or {})}
    scores = {name: block["dsc"] for name, block in blocks.items() if block.get("dsc")}
    found = [name for dsc in scores.values() for one in dsc.values() for name in (one or {})]
    names = [name for name in dict.fromkeys(found) if name != "mean"] + ["mean"]
    if not found:
        return
    figure = Figure(
        figsize=(max(6.0, 1.6 + 0.42 * len(names) * (len(scores) + 1)), 3.8), layout="constrained"
    )
    ax = figure.subplots()
    width = 0.8 / len(scores)
    diamond = {
        "marker": "D", "markersize": 5, "color": "white", "markeredgecolor": "black",
        "linestyle": "",
    }  # fmt: skip
    for i, (method, dsc) in enumerate(scores.items()):
        one, many = dsc.get("one_to_one") or {}, dsc.get("many_to_one") or {}
        for k, name in enumerate(names):
            centre = k + (i - (len(scores) - 1) / 2) * width
            scored = _number(one.get(name))
            height = one[name] if scored else 0.0
            label = f"{method} (C = {blocks[method]['clusters']})" if k == 0 else None
            ax.bar(centre, height, 0.92 * width, color=METHODS[i % len(METHODS)], label=label)
            if _number(many.get(name)):
                ax.plot(centre, many[name], zorder=3, clip_on=False, **diamond)
                if abs(many[name] - height) < 0.09:  # room for the diamond below the number
                    height = max(height, many[name]) + 0.025
            text = f"{one[name]:.2f}" if scored else "n/a"
            ax.text(centre, height + 0.012, text, ha="center", va="bottom", fontsize=8)
    ax.set_xticks(range(len(names)), names, fontsize=10)
    ax.set_ylim(0, 1.08)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_ylabel("Dice similarity coefficient", fontsize=10)
    ax.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if len(names) > 2:  # the mean stands apart
        ax.axvline(len(names) - 1.5, color="#BDBDBD", linewidth=1, linestyle=":")
    handles = ax.get_legend_handles_labels()[0]
    if any(dsc.get("many_to_one") for dsc in scores.values()):
        handles.append(Line2D([], [], label="many-to-one", **diamond))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(len(handles), 5), frameon=False,
        fontsize=9,
    )  # fmt: skip
    _save(figure, path)


# -------------------------------------------------------------------------------------- shared


def _number(value) -> bool:
    """True for a finite number: NaN stands for an absent class, and so does JSON's null."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _colours(count: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def _save(figure: Figure, path) -> None:
    # Written aside and renamed: a page that is open never shows half a picture.
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        FigureCanvasAgg(figure)
        figure.savefig(aside, format="png", dpi=DPI, facecolor="white")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
