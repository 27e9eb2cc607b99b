"""Slices of a volume with ground truth and prediction laid over them."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from his4mae_jax import palette
from his4mae_jax.bucket.path import PathLike
from his4mae_jax.data.volumes.blocks import known_value, stored_of, value_beside
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.labels import IGNORE, UNLABELLED
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.figures import style

MAX_SIDE = 800  # a slice is reduced to at most this many pixels on its longer side
STRIP = 1 << 26  # voxels read at a time
PART = 1024  # side in voxels of what is read at a time where it is known which chunks are stored
PANEL = 3.6  # inches, the width of a slice
FILLED, OUTLINED = "filled", "outlined"  # how a label is drawn; outlined ones are only tinted within

Look = tuple[str, str]  # (colour, FILLED or OUTLINED)


def slice_overlays(
    image: VolumeLike,
    clusters: VolumeLike,
    truth: VolumeLike | None,
    assignment: Sequence[int | str | None] | None,
    class_names: Sequence[str],
    path: PathLike,
    *,
    contrast: Contrast,
    title: str = "",
    names: Mapping[int, str] | None = None,
    colours: Mapping[int, str] | None = None,
    hidden: Collection[int] = (),
) -> None:
    """Draws slices with ground truth and prediction laid over them (the paper's Fig. 2).

    Nine rows: slices perpendicular to each axis at 25, 50 and 75 % of its length. Columns: image,
    ground truth, prediction. Only these slices are read, large ones in parts. The most frequent
    label is only a faint tint, so that the image stays visible under it.

    Args:
      image: grey values, (z, y, x); its voxel_size_nm (z, y, x) sets the scale bars and the
        shape of the pixels.
      clusters: label volume of the same shape with cluster ids, `UNLABELLED` where there is none.
      truth: label volume with class ids, `IGNORE` where not annotated (no overlay there). None: no
        such column, and each cluster has a colour of its own.
      assignment: for each cluster its class (`dice.Scores.assignment`), or None for clusters of no
        class, which are outlined.
      class_names: one name for each class id.
      path: the PNG.
      contrast: maps raw values to [0, 1].
      title: above the picture.
      names: of clusters, by id; those with one name are one entry of the key. None: "cluster 1", ...
      colours: of clusters, by id; used where there is no assignment. None: those of the palette.
      hidden: clusters that are not drawn where there is no assignment.
    """
    names, colours = names or {}, colours or {}
    rows = []
    voxels = np.zeros(IGNORE + 1, np.int64)  # of each label id, in the slices shown
    for axis in range(3):
        for fraction in (0.25, 0.5, 0.75):
            index = int(fraction * image.shape[axis])
            grey = read_slice(image, axis, index, contrast.apply, average=True)
            labels = [read_slice(v, axis, index) for v in (truth, clusters) if v is not None]
            voxels += np.bincount(labels[-1].ravel(), minlength=IGNORE + 1)
            rows.append((axis, f"{'zyx'[axis]} = {index}\n{100 * fraction:.0f} %", grey, labels))
    seen = [cluster for cluster in np.flatnonzero(voxels).tolist() if cluster != UNLABELLED]

    class_looks = {i: (colour, FILLED) for i, colour in enumerate(style.colours(len(class_names)))}
    if truth is None or assignment is None:
        looks = {c: (colours.get(c, palette.colour(c)), FILLED) for c in seen if c not in hidden}
        by_name: dict[str, Look] = {}
        for cluster, look in looks.items():
            by_name.setdefault(names.get(cluster, f"cluster {cluster}"), look)
        key = [key_patch(look, name) for name, look in by_name.items()]
    else:
        looks = looks_by_class(assignment, class_names, class_looks)
        key = [key_patch(class_looks[i], name) for i, name in enumerate(class_names)]
        key += [
            key_patch(look, f"{names.get(cluster, f'cluster {cluster}')}: no class")
            for cluster, look in looks.items()
            if look[1] == OUTLINED and cluster in seen
        ]
    faint = looks.get(1 + int(voxels[1:].argmax()), ("", ""))
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
                pixels = [style.DPI * PANEL * high / wide, style.DPI * PANEL]
                own_looks = looks if overlay is labels[-1] else class_looks
                rgba = overlay_rgba(overlay, own_looks, faint, pixels)
                ax.imshow(rgba, interpolation="nearest", **frame)
            ax.set(xticks=[], yticks=[])
        axes[0].set_ylabel(place, rotation=0, ha="right", va="center", fontsize=10)
        scale_bar(axes[0], wide, high)
    for ax, name in zip(grid[0], columns, strict=True):
        ax.set_title(name, fontsize=12)
    if title:
        figure.suptitle(title, fontsize=13)
    if key:
        inches = 0.6 + 0.085 * max(len(patch.get_label()) for patch in key)
        ncols = max(1, min(len(key), int(PANEL * len(columns) / inches)))
        figure.legend(handles=key, loc="outside lower center", ncols=ncols, frameon=False)
    style.save(figure, path)


def looks_by_class(
    assignment: Sequence[int | str | None], class_names: Sequence[str], class_looks: Mapping[int, Look]
) -> dict[int, Look]:
    """The look of each cluster: that of its class, or outlined in a colour that no class has where it has none."""
    looks, left_over = {}, 0
    for cluster, klass in enumerate(assignment, 1):
        if klass is None:
            left_over += 1
            looks[cluster] = palette.colour(len(class_names) + left_over), OUTLINED
        else:
            index = list(class_names).index(klass) if isinstance(klass, str) else int(klass)
            looks[cluster] = class_looks[index]
    return looks


def key_patch(look: Look, label: str) -> Patch:
    """The entry of a key for a look."""
    colour, way = look
    face = (colour, 0.15) if way == OUTLINED else colour
    return Patch(facecolor=face, edgecolor=colour, linewidth=1.5, label=label)


def read_slice(
    volume: VolumeLike,
    axis: int,
    index: int,
    apply: Callable[[np.ndarray], np.ndarray] = np.asarray,
    average: bool = False,
    side: int | None = None,
) -> np.ndarray:
    """Reads one slice, reduced to at most MAX_SIDE pixels a side.

    Args:
      volume: (z, y, x).
      axis: 0 to 2, perpendicular to the slice.
      index: position along that axis.
      apply: maps the values that were read, such as `Contrast.apply`.
      average: reduce by averages (grey values) and not by taking every n-th pixel (labels).
      side: other than MAX_SIDE.

    Returns:
      (rows, columns) in the order of the remaining axes.
    """
    rows, columns = (size for a, size in enumerate(volume.shape) if a != axis)
    step = max(1, math.ceil(max(rows, columns) / (side or MAX_SIDE)))
    stored = stored_of(volume)
    wide = columns if stored is None else step * max(1, PART // step)  # parts of which nothing is stored are not read
    height = max(1, STRIP // (min(wide, columns) * step)) * step
    height = height if stored is None else min(height, wide)

    def reduced(array: np.ndarray) -> np.ndarray:
        part = np.squeeze(np.asarray(apply(array)), axis)
        if not average:
            return part[::step, ::step]
        if step > 1:
            for along in (0, 1):
                starts = np.arange(0, part.shape[along], step)
                counts = np.diff([*starts, part.shape[along]])
                sums = np.add.reduceat(part, starts, axis=along, dtype=np.float32)
                part = sums / np.expand_dims(counts, 1 - along)
        return part

    strips = []
    for top in range(0, rows, height):
        strip = []
        for left in range(0, columns, wide):
            box = [slice(top, min(top + height, rows)), slice(left, min(left + wide, columns))]
            shape = [math.ceil((s.stop - s.start) / step) for s in box]
            box.insert(axis, slice(index, index + 1))
            if known_value(volume, tuple(box)) is None:
                strip.append(reduced(volume.read(tuple(box))))
            else:
                one = apply(value_beside(volume).reshape(1, 1, 1))
                strip.append(np.broadcast_to(np.asarray(one).ravel(), shape))
        strips.append(np.concatenate(strip, axis=1))
    return np.concatenate(strips)


def overlay_rgba(labels: np.ndarray, looks: Mapping[int, Look], faint: Look, pixels: Sequence[float]) -> np.ndarray:
    """The overlay of a slice of labels: a translucent fill, or a thin tint, with an opaque outline.

    Args:
      labels: (rows, columns) of label ids; ids without a look stay transparent.
      looks: of each id.
      faint: the look that is only tinted.
      pixels: size (rows, columns) of the overlay, about.

    Returns:
      float32 RGBA (rows, columns, 4) in [0, 1].
    """
    for side in (0, 1):  # at the resolution of the picture, so that outlines are equally thin on both sides
        labels = labels.repeat(max(1, round(pixels[side] / labels.shape[side])), axis=side)
    outline = np.zeros(labels.shape, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = labels[here] != labels[there]
        outline[here] |= differs
        outline[there] |= differs
    rgba = np.zeros((*labels.shape, 4), np.float32)
    for label, look in looks.items():
        inside = labels == label
        colour, way = look
        rgba[inside, :3] = to_rgb(colour)
        rgba[inside, 3] = 0.1 if way == OUTLINED else 0.16 if look == faint else 0.45
        if look != faint:
            rgba[inside & outline, 3] = 0.95
    return rgba


def scale_bar(ax: Axes, wide: float, high: float) -> None:
    """Draws a bar of 1, 2 or 5 × 10ⁿ nm, at most a quarter of the width, in the lower left corner (sizes in nm)."""
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
