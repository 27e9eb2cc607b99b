"""Sections that were lost or saturated, whole or in part: they would squeeze the window of grey levels.

A black section of a hundred is 1 % of the voxels, ten times what the lowest percentile leaves out. Such sections differ
from content in that they begin and end at once, and nearly all their voxels lie beyond those of the other sections. All
three axes are looked at, since a saturated row of the detector is a plane too.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.volumes.volume import Box

_LONGEST = 3  # whole planes in a row that count as outlying; more are content, such as tissue in resin
_LONGEST_LOST = 7  # planes in a row with a part of one value; thicker parts are padding
_MOST = 0.1  # fraction of the planes: more of them are content
_FEWEST_PLANES, _FEWEST_VOXELS = 10, 64  # of a block, and of a plane, that can be judged
_JUMP = 0.5  # from the planes beside it, in widths of the range of content
_TILE = 8  # side in voxels of the smallest part of one value
_PART = 0.1  # fraction of a plane that is lost, at least, and of its voxels that may have that value beside it
_ACROSS = 64  # rows and columns of a plane that its percentiles are taken of


@dataclasses.dataclass(frozen=True)
class Outlying:
    """What is left out of a sample.

    Attributes:
      masks: for each block a boolean array of its shape, True for what is left out; None: nothing.
      text: what that is, such as "z 12, 40; parts of z 7"; empty: nothing.
      planes: (axis, index) of each plane of which all or a part is left out, in voxels of the volume.
    """

    masks: list[np.ndarray | None]
    text: str = ""
    planes: tuple[tuple[int, int], ...] = ()


def find_outlying(blocks: Sequence[np.ndarray], boxes: Sequence[Box], content: Box) -> Outlying:
    """Finds outlying planes in a sample of blocks.

    Args:
      blocks: grey levels (z, y, x).
      boxes: of the blocks, in voxels of the volume.
      content: box that the blocks were drawn from: only at its faces may an outlying plane be the last of a block.
    """
    low, high = _range(blocks)
    ends = {min(b.min() for b in blocks).item(), max(b.max() for b in blocks).item()}
    masks: list[np.ndarray | None] = [None] * len(blocks)
    wholes, parts, found = [], [], []
    for axis in range(3):
        views = [
            (i, np.moveaxis(block, axis, 0), box[axis])
            for i, (block, box) in enumerate(zip(blocks, boxes, strict=True))
            if block.shape[axis] >= _FEWEST_PLANES and block.size >= _FEWEST_VOXELS * block.shape[axis]
        ]
        whole, part, partly = set(), {}, set()
        for _, planes, span in views:
            free = (span.start == content[axis].start, span.stop == content[axis].stop)
            own = {span.start + k for k in _whole(planes, low, high, free)}
            lost = {span.start + k: v for v in ends for k in _in_part(planes, v, _JUMP * (high - low), free)}
            whole, part, partly = whole | own, part | lost, partly | set(lost) - own
        most = _MOST * len(set().union(*(range(s.start, s.stop) for _, _, s in views)))
        whole, part = whole if len(whole) <= most else set(), part if len(part) <= most else {}
        # A plane that was found in one block is left out of all, also where it is the last one of a block.
        for i, planes, span in views:
            for k in sorted((whole | set(part)) & set(range(span.start, span.stop))):
                plane = planes[k - span.start]
                out = plane == part[k] if k in part else np.zeros(plane.shape, bool)
                if k in whole and _beyond(plane[None], low, high)[0]:
                    out[...] = True
                if out.any():
                    masks[i] = np.zeros(blocks[i].shape, bool) if masks[i] is None else masks[i]
                    np.moveaxis(masks[i], axis, 0)[k - span.start] |= out
        found += [(axis, k) for k in sorted(whole | set(part))]
        wholes += _listed(axis, (whole | set(part)) - partly)
        parts += _listed(axis, partly & set(part))
    return Outlying(masks, "; ".join([*wholes, *(f"parts of {text}" for text in parts)]), tuple(found))


def _listed(axis: int, indices: set[int]) -> list[str]:
    more = f" and {len(indices) - 8} more" if len(indices) > 8 else ""
    return [f"{'zyx'[axis]} {', '.join(map(str, sorted(indices)[:8]))}{more}"] if indices else []


def _percentiles(planes: np.ndarray, of: Sequence[float]) -> np.ndarray:
    """Percentiles (len(of), planes) of each plane, of `_ACROSS` of its rows and columns at most."""
    rng = np.random.default_rng(0)  # at random: steps could fall on a pattern of the detector
    for axis in (1, 2):
        n = planes.shape[axis]
        if n > _ACROSS:
            planes = planes.take(np.sort(rng.choice(n, _ACROSS, replace=False)), axis)
    return np.percentile(planes.reshape(len(planes), -1), of, axis=1)


def _range(blocks: Sequence[np.ndarray]) -> tuple[float, float]:
    """Grey levels between which most voxels of most sections lie."""
    ends = np.concatenate([_percentiles(block, (5, 95)) for block in blocks], axis=1)
    return float(np.quantile(ends[0], _MOST)), float(np.quantile(ends[1], 1 - _MOST))


def _beyond(planes: np.ndarray, low: float, high: float) -> np.ndarray:
    """Whether nearly all voxels of each plane lie beyond the range."""
    dark, bright = _percentiles(planes, (10, 90))
    return (bright < low) | (dark > high)


def _whole(planes: np.ndarray, low: float, high: float, free: tuple[bool, bool]) -> list[int]:
    """Indices of planes beyond the range, far from the planes beside them."""
    found = []
    for start, stop in _runs(_beyond(planes, low, high), _LONGEST, free):
        (middle,) = _percentiles(planes[max(start - 1, 0) : stop + 1], (50,))
        own = middle[start > 0 :][: stop - start]
        beside = [*middle[: start > 0], *middle[(start > 0) + stop - start :]]
        if all(np.abs(own - m).min() > _JUMP * (high - low) for m in beside):
            found += range(start, stop)
    return found


def _in_part(planes: np.ndarray, value: float, jump: float, free: tuple[bool, bool]) -> list[int]:
    """Indices of planes of which a part has one value, while the planes beside them have other values there."""
    flat = planes == value
    for axis in (1, 2):
        n = planes.shape[axis]
        flat = np.logical_and.reduceat(flat, np.arange(0, max(n - _TILE + 1, 1), _TILE), axis)
    found = []
    for start, stop in _runs(flat.mean(axis=(1, 2)) >= _PART, _LONGEST_LOST, free):
        beside = [
            (planes[k], planes[inner] == value)
            for k, inner in ((start - 1, start), (stop, stop - 1))
            if 0 <= k < len(planes)
        ]
        if all((p[m] == value).mean() <= _PART and abs(np.median(p[m]) - value) > jump for p, m in beside):
            found += range(start, stop)
    return found


def _runs(found: np.ndarray, longest: int, free: tuple[bool, bool]) -> list[tuple[int, int]]:
    """(start, stop) of the runs of True up to a length; one at an end counts where that end is free."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], found, [False]]).astype(np.int8)))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [
        (a, b) for a, b in runs if b - a <= longest and (a or free[0]) and (b < len(found) or free[1])
    ]  # fmt: skip
