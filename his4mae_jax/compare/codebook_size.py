"""DSC over the size of the codebook (the paper's Fig. 4)."""

import dataclasses
import os
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from his4mae_jax.compare.curves import COLOURS, MARKERS
from his4mae_jax.compare.tables import spread
from his4mae_jax.figures import style

LEAST_DSC = 0.1  # smallest range of the axis of the mean
BESIDE = 2**0.07  # factor by which the dots of the seeds are moved right of the error bar


@dataclasses.dataclass(frozen=True)
class Line:
    """Runs that differ only in the size of the codebook.

    Attributes:
      name: in the legend, which is drawn for several lines only.
      scores: codebook size -> for each seed `{class: DSC}`, "mean" among the classes.
    """

    name: str
    scores: dict[int, Sequence[dict[str, float | None]]]


def codebook_sizes(lines: Sequence[Line], class_names: Sequence[str], path: str | os.PathLike) -> None:
    """Draws the mean DSC over codebook sizes: mean of the seeds, its standard deviation, and each seed as a dot.

    A single line has a second panel with the DSC of each class, mean over the seeds.

    Args:
      lines: see Line.
      class_names: all classes by their ids, for their colours.
      path: the PNG.
    """
    sizes = sorted({size for line in lines for size in line.scores})
    alone = len(lines) == 1
    figure = Figure(figsize=(9.6 if alone else 6.4, 4.0), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    axes = figure.subplots(1, 2 if alone else 1, squeeze=False)[0]
    for i, line in enumerate(lines):
        _line(axes[0], line, "mean", COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], line.name, seeds=True)
    if alone:
        for name, colour in zip(class_names, style.colours(len(class_names)), strict=True):
            _line(axes[1], lines[0], name, colour, "o", name, seeds=False)
        axes[1].set_ylim(-0.03, 1.03)
    seeds = max(len(scores) for line in lines for scores in line.scores.values())
    titles = [f"Mean DSC ± standard deviation over {seeds} seeds" if seeds > 1 else "Mean DSC, one seed", "Each class"]
    for ax, title in zip(axes, titles, strict=False):
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(sizes))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(lambda size, _: f"{size:g}")
        ax.margins(0.06, 0.1)
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("codebook size K", fontsize=9)
        ax.tick_params(labelsize=8)
        ax.grid(color="#E5E5E5", linewidth=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    low, high = axes[0].get_ylim()
    if high - low < LEAST_DSC:  # so that negligible differences do not look large
        axes[0].set_ylim((low + high - LEAST_DSC) / 2, (low + high + LEAST_DSC) / 2)
    for ax in axes:
        if len(ax.get_legend_handles_labels()[0]) > 1:
            ax.legend(frameon=False, fontsize=8, ncols=2)
    style.save(figure, path)


def _line(ax, line, name, colour, marker, label, seeds):
    stats = {size: spread([dsc.get(name) for dsc in scores]) for size, scores in sorted(line.scores.items())}
    stats = {size: stat for size, stat in stats.items() if stat["mean"] is not None}  # an absent class has none
    if not stats:
        return
    errors = [stat["std"] or 0.0 for stat in stats.values()] if seeds else None
    ax.errorbar(
        list(stats), [stat["mean"] for stat in stats.values()], yerr=errors, color=colour, marker=marker, markersize=5,
        linewidth=1.6, capsize=4, label=label,
    )  # fmt: skip
    if seeds:
        dots = [(size, v) for size, stat in stats.items() for v in stat["values"] if v is not None]
        x, y = zip(*[(size * BESIDE, value) for size, value in dots], strict=True)
        ax.plot(x, y, "o", color=colour, alpha=0.5, markersize=4, markeredgewidth=0)
