"""One card for each cluster: typical crops, grey values, how large it is, and which other cluster is nearest."""

import dataclasses
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import ImageColor
from scipy import ndimage

from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.crop import central_box
from his4mae_jax.data.volumes.grid import centres_nm, nearest_to, read_outer
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.report.html import markup
from his4mae_jax.report.html.facts import Facts
from his4mae_jax.report.html.features import Features, typical
from his4mae_jax.report.html.grids import Segmented
from his4mae_jax.report.html.slices import Slice

CROPS, SIDE, SCALE = 6, 64, 3  # crops of a cluster; their side in voxels; pixels of the page for each
BINS = 32  # of a grey histogram
PIECES = 160  # voxels a side of the box in which connected pieces are measured


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Connected pieces of one label in a box.

    Attributes:
      count: of them.
      half_nm3: size of the piece that the middle voxel of the label lies in, by size: half of it lies in larger ones.
      largest_nm3: of the largest.
    """

    count: int
    half_nm3: float
    largest_nm3: float


def section(
    facts: Facts,
    segmented: Segmented,
    labels: VolumeLike,
    centres: Any,
    found: Features | None,
    slices: Sequence[Slice],
    contrast: Contrast,
) -> str:
    """The section of the page.

    Args:
      facts: of the run.
      segmented: the volume.
      labels: label volume on any grid of the same space.
      centres: of the labels.
      found: features of a sample; None: crops are taken around the deepest voxels in the slices.
      slices: the ones that the page shows.
      contrast: of the image.
    """
    near, parts = _nearest(centres, facts), pieces(labels, list(facts.look.names))
    shares = facts.look.fractions or _shares(slices, facts)
    cards = []
    for label, name in facts.look.names.items():
        colour = facts.look.colours[label]
        places = _places(found, centres, label, segmented) if found else _deepest(slices, label, segmented.image)
        crops = "".join(
            f'<img alt="" src="{markup.image_uri(_crop(segmented.image, labels, at, label, colour, contrast), 85)}">'
            for at in places
        )
        grey = np.concatenate([each.grey[each.labels == label] for each in slices])
        rows = [f"{100 * shares.get(label, 0):.1f} % of the volume"]
        if facts.classes:
            rows.append(f"stands for {facts.classes.get(label) or 'no class'}, by ground truth")
        if label in parts:
            p = parts[label]
            count = (
                "1 piece"
                if p.count == 1
                else f"{p.count:,} pieces; half of it in pieces of {_size(p.half_nm3)} or more"
            )
            rows.append(f"{count}, largest {_size(p.largest_nm3)}")
        rows += [f"nearest other cluster: {near[label]}"] if label in near else []
        button = f' <button data-only="{label}">show</button>' * (label not in facts.look.ignored)
        number = "" if name == f"cluster {label}" else f' <span class="number">cluster {label}</span>'
        cards.append(
            f'<div class="card" style="border-color:{escape(colour)}">'
            f"<h3><span>{escape(name)}{number}</span>{button}</h3>"
            f'<div class="crops">{crops or "In no place shown."}</div>{_histogram(grey, colour)}'
            f"<ul>{''.join(f'<li>{escape(row)}</li>' for row in rows)}</ul></div>"
        )
    around = "voxels whose features are nearest to the centre of the cluster" if found else "its deepest voxels"
    side = " x ".join(str(n) for n in central_shape(labels))
    text = (
        f"Crops of {SIDE} x {SIDE} voxels around {around}, its outline in colour. Bars: grey values in the slices, "
        f"black to white. Pieces: connected through faces, in the middle {side} voxels, at whose border they are cut. "
        "σ: the spread of voxels about their centre."
    )
    return markup.section("clusters", "Clusters", markup.note(text) + f'<div class="cards">{"".join(cards)}</div>')


def central_shape(labels: VolumeLike) -> tuple[int, ...]:
    """Shape of the box in which pieces are measured."""
    return tuple(s.stop - s.start for s in central_box(labels.shape, PIECES))


def pieces(labels: VolumeLike, ids: Sequence[int]) -> dict[int, Pieces]:
    """The connected pieces of each label in the middle of a volume; labels that are not there are left out.

    Args:
      labels: label volume (z, y, x), of which a box of at most `PIECES` voxels a side is read.
      ids: the labels.
    """
    block = labels.read(central_box(labels.shape, PIECES))
    voxel = float(np.prod(labels.voxel_size_nm))
    out = {}
    for label in ids:
        numbers, count = ndimage.label(block == label)
        if count:
            sizes = np.sort(np.bincount(numbers.ravel())[1:])[::-1]
            half = sizes[np.searchsorted(np.cumsum(sizes), sizes.sum() / 2)]
            out[label] = Pieces(int(count), float(half) * voxel, float(sizes[0]) * voxel)
    return out


def _size(nm3: float) -> str:
    return f"{nm3 / 1e9:.3g} µm³" if nm3 >= 1e6 else f"{nm3:,.0f} nm³"


def _shares(slices, facts) -> dict[int, float]:
    counts = sum(np.bincount(each.labels.ravel(), minlength=256) for each in slices)
    return {label: counts[label] / max(1, counts[1:].sum()) for label in facts.look.names}


def _nearest(centres, facts) -> dict[int, str]:
    """For each label the one whose centre is nearest, and how near: σ is the spread of voxels about their centre."""
    if not isinstance(centres, centre_files.Centres) or centres.group_C is not None or facts.labels < 2:
        return {}
    distances = np.linalg.norm(centres.centres_CxM[:, None] - centres.centres_CxM[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    spread = max(float(centres.variance * centres.centres_CxM.shape[1]) ** 0.5, 1e-9)
    names = {i: f"cluster {i}" if i in facts.look.ignored else name for i, name in facts.look.names.items()}
    return {i: f"{names[int(r.argmin()) + 1]}, at {r.min() / spread:.1f} σ" for i, r in enumerate(distances, 1)}


def _places(found, centres, label, segmented) -> list[tuple[int, ...]]:
    """Voxels of the shown image."""
    at = typical(found, centres, label, CROPS, SIDE)
    own = [nearest_to(segmented.image, a, centres_nm(segmented.encoded, a, at[:, a])) for a in range(3)]
    return list(zip(*(i.tolist() for i in own), strict=True))


def _deepest(slices, label, image) -> list[tuple[int, ...]]:
    """Voxels in the middle of the largest patches of a label, of different z slices."""
    places = []
    for each in slices:
        inside = each.labels == label
        if each.axis == 0 and inside.any():
            depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            scale = [n / m for n, m in zip(image.shape[1:], inside.shape, strict=True)]
            places.append((depth.max(), (each.index, int((row + 0.5) * scale[0]), int((column + 0.5) * scale[1]))))
    return [at for _, at in sorted(places, key=lambda found: -found[0])[:CROPS]]


def _crop(
    image: VolumeLike, labels: VolumeLike, at: Sequence[int], label: int, colour: str, contrast: Contrast
) -> np.ndarray:
    """RGB of the z slice around a voxel, with the outline of the label."""
    index = [np.array([at[0]])]
    for place, n in zip(at[1:], image.shape[1:], strict=True):
        side = min(SIDE, n)
        start = max(0, min(place - side // 2, n - side))
        index.append(np.arange(start, start + side))
    grey = contrast.apply(read_outer(image, index))[0]
    own = [nearest_to(labels, a, centres_nm(image, a, i)) for a, i in enumerate(index)]
    inside = (read_outer(labels, own)[0] == label).repeat(SCALE, 0).repeat(SCALE, 1)
    rgb = np.repeat(grey.repeat(SCALE, 0).repeat(SCALE, 1)[..., None], 3, axis=2)
    edge = inside & ~ndimage.binary_erosion(inside, iterations=2, border_value=1)
    rgb[edge] = np.array(ImageColor.getrgb(colour)) / 255
    return rgb


def _histogram(grey: np.ndarray, colour: str) -> str:
    counts = np.histogram(grey, BINS, (0, 1))[0]
    heights = 40 * counts / max(1, counts.max())
    bars = "".join(f'<rect x="{6 * i}" y="{40 - h:.1f}" width="5" height="{h:.1f}"/>' for i, h in enumerate(heights))
    view = f'viewBox="0 0 {6 * BINS} 40" preserveAspectRatio="none"'
    return f'<svg {view} class="histogram" fill="{escape(colour)}">{bars}</svg><div class="ramp"></div>'
