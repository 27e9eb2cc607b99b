"""A page of volumes: three planes of each as the model sees them, grey levels with their window, ground truth."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from his4mae_jax import palette
from his4mae_jax.bucket.path import PathLike
from his4mae_jax.data.label_check import LabelReport, percent
from his4mae_jax.data.volumes.anisotropy import in_plane_nm
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.crop import Crop
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.figures import style
from his4mae_jax.figures.slices import FILLED, overlay_rgba, read_slice, scale_bar

SHOWN = 1024  # voxels a side at most of the part shown, so that a plane of terabytes is not read
ROWS = 8  # volumes a page
LISTED = 12  # label ids in a row of the page
_WIDE = 2.6  # inches, of a panel
_LOST = {"color": "#D55E00", "linewidth": 0.8, "linestyle": (0, (4, 3))}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of the page.

    Attributes:
      title: what the volume is.
      volume: at the voxel size it is trained on or segmented at.
      box: where its content is.
      axes: letters of the axes across which slices are taken.
      contrast: the window of grey levels.
      edges, counts: of a histogram of grey levels.
      labels: ground truth on the grid of the volume; it is drawn over the planes, and its ids take the histogram's
        place.
      report: of those labels.
      left_out: (axis, index) of lost or saturated planes, which do not count for the window of grey levels.
    """

    title: str
    volume: VolumeLike
    box: Box
    axes: str
    contrast: Contrast
    edges: np.ndarray
    counts: np.ndarray
    labels: VolumeLike | None = None
    report: LabelReport | None = None
    left_out: Sequence[tuple[int, int]] = ()


def contact_sheet(entries: list[Entry], fov: int, patch: int, path: PathLike) -> None:
    """Draws one row per entry: the planes across z, y and x in the middle of its content, and its histogram or labels.

    Only those planes are read, and of large ones the middle. Squares show the field of view (`fov` pixels) and a patch
    (`patch` pixels) in the planes that slices are taken in: what the model sees at once, and what it sees as one token.
    Dashed lines show lost or saturated planes.
    """
    heights = [_WIDE * min(max(_shape(entry, axis) for axis in range(3)), 1.2) + 0.7 for entry in entries]
    heights = [max(height, 2.2) for height in heights]
    figure = Figure(figsize=(4 * _WIDE + 1.0, sum(heights)), layout="constrained")
    rows = figure.subfigures(len(entries), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, entry in zip(rows, entries, strict=True):
        lost = "; dashed: lost or saturated" if entry.left_out else ""
        row.suptitle(f"{entry.title}; {spans_text(entry.volume, fov, patch)}{lost}", fontsize=9, x=0.01, ha="left")
        panels = row.subplots(1, 4, width_ratios=[1, 1, 1, 1.15])
        for axis in range(3):
            _plane(panels[axis], entry, axis, (fov, patch))
        if entry.report is None:
            _histogram(panels[3], entry)
        else:
            _label_list(panels[3], entry.report)
    style.save(figure, path)


def _shape(entry: Entry, axis: int) -> float:
    """Height over width of the plane across one axis, as shown."""
    high, wide = (
        (_middle(s).stop - _middle(s).start) * size
        for i, (s, size) in enumerate(zip(entry.box, entry.volume.voxel_size_nm, strict=True))
        if i != axis
    )
    return high / wide


def _plane(ax, entry: Entry, axis: int, squares: tuple[int, int]) -> None:
    """The middle of the plane across one axis, with a scale bar, a field of view and a patch (`squares`, in pixels)."""
    part = [_middle(s) for s in entry.box]
    index = (entry.box[axis].start + entry.box[axis].stop) // 2
    sides = [i for i in range(3) if i != axis]
    size_nm = [entry.volume.voxel_size_nm[i] for i in sides]
    high, wide = ((part[i].stop - part[i].start) * s for i, s in zip(sides, size_nm, strict=True))
    part[axis] = slice(index, index + 1)
    grey = read_slice(Crop(entry.volume, tuple(part)), axis, 0, entry.contrast.apply, average=True)
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="antialiased", extent=(0, wide, high, 0), aspect="equal")
    if entry.labels is not None:
        labels = read_slice(Crop(entry.labels, tuple(part)), axis, 0)
        pixels = [style.DPI * _WIDE * high / wide, style.DPI * _WIDE]
        looks = {row.id: (palette.colour(row.id + 1), FILLED) for row in entry.report.rows if row.id != IGNORE}
        rgba = overlay_rgba(labels, looks, looks.get(_most(entry.report)), pixels)
        ax.imshow(rgba, interpolation="nearest", extent=(0, wide, high, 0), aspect="equal")
    used = "zyx"[axis] in entry.axes
    for side in squares if used else ():
        tall, broad = (side * nm for nm in size_nm)
        if tall <= high and broad <= wide:
            corner = (wide - broad) / 2, (high - tall) / 2
            for colour, width in (("black", 2.2), ("#F0E442", 1.1)):
                ax.add_patch(Rectangle(corner, broad, tall, fill=False, edgecolor=colour, linewidth=width))
    for across, k in entry.left_out:
        if across != axis and part[across].start <= k < part[across].stop:
            line = ax.axhline if across == sides[0] else ax.axvline
            line((k - part[across].start + 0.5) * entry.volume.voxel_size_nm[across], **_LOST)
    cut = any(part[i] != entry.box[i] for i in sides)
    ax.set_title(
        f"{'zyx'[axis]} = {index}" + (f", middle {SHOWN} voxels" if cut else "") + ("" if used else ", not sliced"),
        fontsize=8,
    )
    ax.set(xticks=[], yticks=[], anchor="C")
    for spine in ax.spines.values():
        spine.set_visible(False)
    scale_bar(ax, wide, high)


def spans_text(volume: VolumeLike, fov: int, patch: int) -> str:
    """What the squares are, with their sides in nm."""
    nm = in_plane_nm(volume)
    return f"squares: field of view {fov * nm:,.0f} nm, patch {patch * nm:,.0f} nm"


def _most(report: LabelReport) -> int | None:
    """The id of most voxels, which is drawn as a faint tint so that the image stays visible."""
    return max((row for row in report.rows if row.id != IGNORE), key=lambda row: row.voxels).id if report.rows else None


def _label_list(ax, report: LabelReport) -> None:
    """Ids with their colours, names, fractions of the voxels and mean grey values; what is wrong with them in red."""
    ax.axis("off")
    for i, row in enumerate(report.rows[:LISTED]):
        y = 0.96 - i / (LISTED + 2)
        if row.id != IGNORE:
            ax.add_patch(
                Rectangle((0, y - 0.025), 0.05, 0.05, color=palette.colour(row.id + 1), transform=ax.transAxes)
            )
        grey = "" if row.mean_grey is None else f", grey {row.mean_grey:.4g}"
        text = f"{row.id} {row.name or 'without a name'}: {percent(row.fraction)}{grey}"
        wrong = row.name is None or not row.voxels
        ax.text(
            0.08, y, text, fontsize=7, va="center", color="#D55E00" if wrong else "black", transform=ax.transAxes,
            parse_math=False,
        )  # fmt: skip
    if len(report.rows) > LISTED:
        ax.text(0.08, 0.02, f"and {len(report.rows) - LISTED} more ids", fontsize=7, transform=ax.transAxes)


def _middle(s: slice) -> slice:
    side = min(SHOWN, s.stop - s.start)
    start = s.start + (s.stop - s.start - side) // 2
    return slice(start, start + side)


def _histogram(ax, entry: Entry) -> None:
    """Grey levels on a logarithmic scale, with the window that is mapped to black and white."""
    low, high = entry.contrast.low, entry.contrast.high
    share = entry.counts / max(entry.counts.sum(), 1)
    middles = (entry.edges[:-1] + entry.edges[1:]) / 2
    ax.stairs(share, entry.edges, fill=True, color="#B8B8B8")
    ax.stairs(np.where((middles >= low) & (middles <= high), share, 0), entry.edges, fill=True, color=palette.colour(1))
    for level in (low, high):
        ax.axvline(level, color="#404040", linewidth=0.8)
    first, last = min(low, entry.edges[0]), max(high, entry.edges[-1])
    margin = 0.03 * (last - first)
    ax.set(yscale="log", xlim=(first - margin, last + margin))
    ax.set_title(f"window {low:g} to {high:g}" + (", inverted" if entry.contrast.invert else ""), fontsize=8)
    ax.set_xlabel("grey level", fontsize=8)
    ax.set_ylabel("fraction of voxels", fontsize=8)
    ax.tick_params(labelsize=7)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
