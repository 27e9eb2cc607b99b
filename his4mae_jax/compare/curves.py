"""Several methods over the training: DSC and reconstruction loss (the paper's Fig. 3), and the codebook's health."""

import dataclasses
import os
import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, ScalarFormatter

from his4mae_jax.figures import style

# Dark ones first, for thin lines on white. Each has a marker, for readers who cannot tell the colours apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933", "#332288", "#7F7F7F")
MARKERS = "os^Dvph*X"
POINTS = 200  # of a line at most; more are averaged in groups of neighbours

Points = dict[float, float]  # x -> y


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the comparison: its curves over the training, `Points` for each seed.

    Attributes:
      name: in the legend.
      place: its index among all rows, also those that are not drawn; sets colour and marker.
      dashed: for supervised methods.
      dsc: mean DSC over steps.
      loss: reconstruction loss over steps; empty for methods without one.
      perplexity: of the codebook, over epochs; empty for methods without one.
      dead: fraction of isolated codes, over epochs; empty likewise.
    """

    name: str
    place: int
    dashed: bool = False
    dsc: Sequence[Points] = ()
    loss: Sequence[Points] = ()
    perplexity: Sequence[Points] = ()
    dead: Sequence[Points] = ()


def band(seeds: Sequence[Points]) -> np.ndarray:
    """Mean, least and largest value over the seeds at every x that all of them have.

    Returns:
      (4, N): x ascending, mean, minimum, maximum; N = 0 where the seeds share no x.
    """
    shared = sorted(set.intersection(*(set(points) for points in seeds))) if seeds else []
    values = [[points[x] for points in seeds] for x in shared]
    table = [(x, statistics.fmean(v), min(v), max(v)) for x, v in zip(shared, values, strict=True)]
    return np.array(table, float).reshape(-1, 4).T


def thinned(points: Points) -> Points:
    """At most `POINTS` points, each the average of a group of neighbouring ones."""
    if len(points) <= POINTS:
        return dict(sorted(points.items()))
    groups = np.array_split(np.array(sorted(points.items())), POINTS)
    return {float(x): float(y) for x, y in (group.mean(axis=0) for group in groups)}


def legend_columns(labels: Sequence[str], inches: float) -> int:
    """Columns of a legend `inches` wide: one row where all labels fit, else as many as the widest allows."""
    widths = [0.7 + 0.085 * len(label) for label in labels]
    return len(labels) if sum(widths) <= inches else max(1, int(inches / max(widths)))


def dsc_and_loss(rows: Sequence[Row], path: str | os.PathLike) -> bool:
    """Draws mean DSC and reconstruction loss over the steps: mean of the seeds, band from least to largest (Fig. 3).

    Only rows with `dsc` take part; a panel without data is left out.

    Args:
      rows: see Row.
      path: the PNG.

    Returns:
      Whether there was anything to draw; otherwise no file is written.
    """
    rows = [row for row in rows if any(row.dsc)]
    panels = [("Mean DSC", "step", "score", "dsc"), ("Reconstruction loss", "step", "log", "loss")]
    return _draw(rows, panels, path)


def codebook_health(rows: Sequence[Row], path: str | os.PathLike) -> bool:
    """Draws the codebook's perplexity and fraction of isolated codes over the epochs, as `dsc_and_loss` does.

    Only rows with `perplexity` take part.
    """
    rows = [row for row in rows if any(row.perplexity)]
    panels = [
        ("Codebook perplexity", "epoch", "counts", "perplexity"),
        ("Fraction of isolated codes in an epoch", "epoch", "fraction", "dead"),
    ]
    return _draw(rows, panels, path)


def _draw(rows, panels, path):
    panels = [panel for panel in panels if any(any(getattr(row, panel[3])) for row in rows)]
    if not panels:
        return False
    figure = Figure(figsize=(max(5.2 * len(panels), 7.0), 4.2), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    for ax, (title, x_name, scale, key) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for row in rows:
            _line(ax, row, [thinned(points) for points in getattr(row, key) if points], scale)
        _scale(ax, scale)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel(x_name, fontsize=9)
        ax.tick_params(which="both", labelsize=8)
        ax.grid(color="#E5E5E5", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    handles = [Line2D([], [], label=row.name, **_look(row)) for row in rows]
    ncols = legend_columns([row.name for row in rows], figure.get_figwidth())
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
    style.save(figure, path)
    return True


def _look(row):
    return {
        "color": COLOURS[row.place % len(COLOURS)], "marker": MARKERS[row.place % len(MARKERS)], "markersize": 4.5,
        "linewidth": 1.6, "linestyle": "--" if row.dashed else "-",
    }  # fmt: skip


def _line(ax, row, seeds, scale):
    x, mean, least, largest = band(seeds)
    if scale in ("log", "counts"):
        fine = least > 0
        x, mean, least, largest = (values[fine] for values in (x, mean, least, largest))
    if not len(x):
        return
    # A marker at every checkpoint, but at most about 12 on a line of many points.
    ax.plot(x, mean, markevery=max(1, len(x) // 12), label=row.name, **_look(row))
    if len(seeds) > 1:
        ax.fill_between(x, least, largest, color=COLOURS[row.place % len(COLOURS)], alpha=0.18, linewidth=0)


def _scale(ax, scale):
    if scale == "fraction":
        ax.set_ylim(-0.03, 1.03)
    elif scale == "score" and ax.lines:  # not from 0: methods may lie close together
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -0.03), min(max(high, low + 0.1), 1.03))
    elif scale == "log" and ax.lines:
        ax.set_yscale("log")
    elif scale == "counts" and ax.lines:
        values = np.concatenate([line.get_ydata() for line in ax.lines])
        if values.max() > 8 * values.min():  # codebooks of several sizes
            ax.set_yscale("log", base=2)
            ax.yaxis.set_major_formatter(ScalarFormatter())
            ax.yaxis.set_minor_formatter(NullFormatter())
        else:
            ax.set_ylim(bottom=0)
