"""A bar chart of scores, one bar for each class and method."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from his4mae_jax.bucket.path import PathLike
from his4mae_jax.figures import style

METHODS = ("#0072B2", "#BDBDBD", "#7F7F7F", "#E69F00", "#CC79A7", "#009E73")  # this run, then the baselines


def dsc_bars(metrics: dict[str, Any], path: PathLike, names: Mapping[int, str] | None = None) -> None:
    """Draws the DSC of every class and their mean as bars, one for each method.

    Bars are one-to-one (the headline); a diamond marks many-to-one, which uses labels to merge
    clusters. An absent class reads "n/a". Without any score no file is written.

    Args:
      metrics: content of metrics.json, see `evaluation.tables`.
      path: the PNG.
      names: of clusters, by id: below each class stand those that were matched to it. None: classes alone.
    """
    blocks = {metrics["method"]: metrics, **(metrics.get("baselines") or {})}
    scores = {name: block["dsc"] for name, block in blocks.items() if block.get("dsc")}
    scored_names = [name for dsc in scores.values() for one in dsc.values() for name in (one or {})]
    classes = [name for name in dict.fromkeys(scored_names) if name != "mean"] + ["mean"]
    if not scored_names:
        return
    ticks = [_tick(name, metrics, names or {}) for name in classes]
    figure = Figure(figsize=(max(6.0, 1.6 + 0.42 * len(classes) * (len(scores) + 1)), 3.8), layout="constrained")
    ax = figure.subplots()
    width = 0.8 / len(scores)
    diamond = {
        "marker": "D", "markersize": 5, "color": "white", "markeredgecolor": "black",
        "linestyle": "",
    }  # fmt: skip
    for i, (method, dsc) in enumerate(scores.items()):
        one, many = dsc.get("one_to_one") or {}, dsc.get("many_to_one") or {}
        for k, name in enumerate(classes):
            centre = k + (i - (len(scores) - 1) / 2) * width
            scored = style.is_number(one.get(name))
            height = one[name] if scored else 0.0
            label = f"{method} (C = {blocks[method]['clusters']})" if k == 0 else None
            ax.bar(centre, height, 0.92 * width, color=METHODS[i % len(METHODS)], label=label)
            if style.is_number(many.get(name)):
                ax.plot(centre, many[name], zorder=3, clip_on=False, **diamond)
                if abs(many[name] - height) < 0.09:  # room for the diamond below the number
                    height = max(height, many[name]) + 0.025
            text = f"{one[name]:.2f}" if scored else "n/a"
            ax.text(centre, height + 0.012, text, ha="center", va="bottom", fontsize=8)
    ax.set_xticks(range(len(classes)), ticks, fontsize=10, parse_math=False)
    ax.set_ylim(0, 1.08)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.set_ylabel("Dice similarity coefficient", fontsize=10)
    ax.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if len(classes) > 2:  # a line separates the mean
        ax.axvline(len(classes) - 1.5, color="#BDBDBD", linewidth=1, linestyle=":")
    handles = ax.get_legend_handles_labels()[0]
    if any(dsc.get("many_to_one") for dsc in scores.values()):
        handles.append(Line2D([], [], label="many-to-one", **diamond))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=min(len(handles), 5), frameon=False,
        fontsize=9,
    )  # fmt: skip
    style.save(figure, path)


def _tick(name: str, metrics: dict[str, Any], names: Mapping[int, str]) -> str:
    """A class, and below it the clusters that stand for it one to one."""
    matching = (metrics.get("matching") or {}).get("one_to_one") or {}
    found = [names[int(cluster)] for cluster, klass in matching.items() if klass == name and int(cluster) in names]
    others = [other for other in dict.fromkeys(found) if other != name]
    return "\n".join([name, *textwrap.wrap(", ".join(others), 18)])
