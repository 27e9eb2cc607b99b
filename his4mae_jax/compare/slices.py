"""The same slices by several methods, under the image and the ground truth (the paper's Fig. 2)."""

import dataclasses
import os
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from his4mae_jax.compare.curves import legend_columns
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.labels import IGNORE, UNLABELLED
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.figures import slices, style

PANEL = 2.6  # inches, the width of a slice
LABEL = 22  # characters of a row's label on one line


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the picture.

    Attributes:
      name: its label.
      note: a second line below it, such as the score.
      clusters: label volume with cluster ids, `UNLABELLED` where there is none.
      assignment: for each cluster the class id it stands for, or None (`dice.Scores.assignment`).
    """

    name: str
    note: str
    clusters: VolumeLike
    assignment: Sequence[int | None]


def method_slices(
    image: VolumeLike,
    truth: VolumeLike,
    methods: Sequence[Method],
    class_names: Sequence[str],
    path: str | os.PathLike,
    *,
    contrast: Contrast,
    axis: str = "z",
    fractions: Sequence[float] = (0.25, 0.5, 0.75),
    title: str = "",
) -> None:
    """Draws image, ground truth and each method as rows, slices as columns (the paper's Fig. 2).

    Classes have the colours of `slices.slice_overlays`; the most frequent one is only a faint tint, in
    all rows. Methods are shown where there is ground truth, since only there are they scored.

    Args:
      image: grey values, (z, y, x); its voxel_size_nm (z, y, x) sets the scale bar and the shape of
        the pixels.
      truth: label volume of the same shape with class ids, `IGNORE` where not annotated.
      methods: see Method; their volumes have the same shape.
      class_names: one name for each class id.
      path: the PNG.
      contrast: maps raw values to [0, 1].
      axis: "z", "y" or "x", perpendicular to the slices.
      fractions: positions of the slices as fractions of the length of the axis.
      title: above the picture.
    """
    across = "zyx".index(axis)
    places = [int(fraction * image.shape[across]) for fraction in fractions]
    greys = [slices.read_slice(image, across, i, contrast.apply, average=True) for i in places]
    truths = [slices.read_slice(truth, across, i) for i in places]
    class_looks = {i: (colour, slices.FILLED) for i, colour in enumerate(style.colours(len(class_names)))}
    voxels = sum(np.bincount(t.ravel(), minlength=IGNORE + 1)[:IGNORE] for t in truths)
    faint = class_looks[int(np.argmax(voxels))]

    rows, unmatched = [("image", None, {}), ("ground truth", truths, class_looks)], False
    for method in methods:
        labels = [slices.read_slice(method.clusters, across, i) for i in places]
        labels = [np.where(t == IGNORE, UNLABELLED, c).astype(np.uint8) for t, c in zip(truths, labels, strict=True)]
        looks = slices.looks_by_class(method.assignment, class_names, class_looks)
        seen = set(np.unique(np.concatenate([c.ravel() for c in labels])).tolist())
        unmatched |= any(way == slices.OUTLINED and cluster in seen for cluster, (_, way) in looks.items())
        name = textwrap.fill(method.name, LABEL) + (f"\n{method.note}" if method.note else "")
        rows.append((name, labels, looks))

    high, wide = (n * float(s) for a, (n, s) in enumerate(zip(image.shape, image.voxel_size_nm, strict=True))
                  if a != across)  # fmt: skip
    width = max(PANEL * min(1.25 * wide / high, 1), 1.2)
    height = min(width * high / wide, 1.25 * PANEL)
    heights = [max(height, 0.17 * (name.count("\n") + 1)) for name, *_ in rows]  # at least that of the label
    # Rows are packed tightly, unless labels of thin slices would overlap.
    layout = "compressed" if max(heights) == height else "constrained"
    figure = Figure(figsize=(width * len(places) + 1.8, sum(heights) + 1.2), layout=layout)
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.03, wspace=0.0, hspace=0.0)
    grid = figure.subplots(len(rows), len(places), squeeze=False, height_ratios=heights)
    for axes, (name, overlays, looks) in zip(grid, rows, strict=True):
        for ax, grey, overlay in zip(axes, greys, overlays or [None] * len(greys), strict=True):
            frame = {"extent": (0, wide, high, 0), "aspect": "equal"}  # nm
            ax.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="antialiased", **frame)
            if overlay is not None:
                pixels = [style.DPI * height, style.DPI * height * wide / high]
                ax.imshow(slices.overlay_rgba(overlay, looks, faint, pixels), interpolation="nearest", **frame)
            ax.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
    for ax, place, fraction in zip(grid[0], places, fractions, strict=True):
        ax.set_title(f"{axis} = {place} ({100 * fraction:.0f} %)", fontsize=11)
    slices.scale_bar(grid[0, 0], wide, high)
    scale = grid[0, 0].texts[-1]  # on slices this small the text is wider than the bar
    scale.set_horizontalalignment("left")
    scale.xy = float(grid[0, 0].lines[0].get_xdata()[0]), scale.xy[1]
    if title:
        figure.suptitle(title, fontsize=12)
    key = [Patch(color=class_looks[i][0], label=name) for i, name in enumerate(class_names)]
    if unmatched:
        key.append(slices.key_patch(("#7F7F7F", slices.OUTLINED), "cluster of no class"))
    ncols = legend_columns([patch.get_label() for patch in key], figure.get_figwidth())
    figure.legend(handles=key, loc="outside lower center", ncols=ncols, frameon=False)
    style.save(figure, path)
