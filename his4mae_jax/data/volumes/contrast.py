"""Map grey levels to [0, 1], and find where a volume's content ends and its padding begins."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from his4mae_jax.data.volumes.blocks import PendingRead, read_async
from his4mae_jax.data.volumes.padding import without_padding
from his4mae_jax.data.volumes.volume import Box, View, VolumeLike
from his4mae_jax.errors import UserError

if TYPE_CHECKING:
    import jax

_BLOCK = 64  # side in voxels of a sampled block
_TRIES = 4  # at most so many times the blocks are drawn, to replace those that are all padding
_SLAB = 16  # planes searched for padding at once
_TILE = 256  # side in voxels of the part of those planes read at once

_Array = TypeVar("_Array", np.ndarray, "jax.Array")


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A linear window of grey levels.

    Attributes:
      low: grey level that becomes 0.
      high: grey level that becomes 1.
      invert: True swaps black and white after the window.
    """

    low: float
    high: float
    invert: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.high > self.low):
            raise UserError(
                f"contrast: low {self.low} and high {self.high} are not a window of "
                "grey levels; give finite numbers with high above low"
            )

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Returns the grey values (`apply_window`) of an array of any shape."""
        return apply_window(np.asarray(array), *self.window)

    @property
    def window(self) -> tuple[np.float32, np.float32, np.bool_]:
        """(low, high - low, invert), the arguments of `apply_window` behind the array."""
        return np.float32(self.low), np.float32(self.high - self.low), np.bool_(self.invert)

    def to_json(self) -> dict[str, Any]:
        """Returns a dict that `from_json` reads."""
        return {"low": float(self.low), "high": float(self.high), "invert": bool(self.invert)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Contrast":
        """Creates the Contrast from the result of `to_json`."""
        return cls(float(value["low"]), float(value["high"]), bool(value["invert"]))


def apply_window(array: _Array, low: _Array | float, width: _Array | float, invert: _Array | bool) -> _Array:
    """Maps grey levels to [0, 1]: clip((array - low) / width, 0, 1), or 1 minus that where `invert` is True.

    Args:
      array: NumPy or JAX (traced ones too), of any shape and dtype.
      low: grey level that becomes 0; float32, one number or an array that broadcasts, as do the others.
      width: grey levels from 0 to 1.
      invert: swaps black and white.

    Returns:
      float32 of the shape of `array`.
    """
    xp = array.__array_namespace__()
    grey = xp.clip((array.astype(xp.float32) - low) / width, 0.0, 1.0)
    return xp.where(invert, 1.0 - grey, grey)


@dataclasses.dataclass(frozen=True)
class Windowed(View):
    """A volume with a contrast of its own, which `estimate_contrast` returns in place of an estimate."""

    contrast: Contrast

    def read(self, slices: Box) -> np.ndarray:
        return self.source.read(slices)

    def read_async(self, slices: Box) -> PendingRead:
        return read_async(self.source, slices)


def with_window(volume: VolumeLike, window: Sequence[float] | None, invert: bool) -> VolumeLike:
    """The volume with these grey levels (low, high) as its contrast; the volume itself without any."""
    return Windowed(volume, Contrast(*window, invert)) if window else volume


def estimate_contrast(
    volume: VolumeLike,
    *,
    percentiles: tuple[float, float] = (0.1, 99.9),
    invert: bool = False,
    seed: int = 0,
    blocks: int = 64,
) -> Contrast:
    """Finds the window of grey levels from a sample of the volume's content (`sample_content`).

    The contrast of a `Windowed` volume overrides percentiles and `invert`.

    Args:
      volume: anything with the interface of Volume.
      percentiles: percentiles of the sampled grey levels that become low and high.
      invert: passed on to the Contrast.
      seed: of the sample.
      blocks: number of blocks in the sample.

    Returns:
      The Contrast; the sample's full range if the percentiles coincide (few grey levels).

    Raises:
      UserError: NaN or infinite values, or a constant volume.
    """
    own = getattr(volume, "contrast", None)
    if own is not None and volume.dtype.kind != "f":  # floats are checked for NaN nevertheless
        return own
    values = sample_content(volume, seed=seed, blocks=blocks)
    return own or contrast_between(volume, values, percentiles, invert)


def contrast_between(
    volume: VolumeLike, values: np.ndarray, percentiles: tuple[float, float], invert: bool = False
) -> Contrast:
    """Returns the contrast between two percentiles of grey levels.

    Args:
      volume: named in the error.
      values: grey levels of the volume, of any shape.
      percentiles: shown as 0 and 1.
      invert: passed on to the Contrast.

    Raises:
      UserError: all values are equal.
    """
    low, high = (float(v) for v in np.percentile(values, percentiles))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    if not high > low:
        raise _constant(volume, low)
    return Contrast(low, high, invert)


def sample_content(volume: VolumeLike, *, seed: int = 0, blocks: int = 64) -> np.ndarray:
    """Reads a sample of the volume's grey levels.

    A volume no larger than the sample is used whole; of a larger one, blocks of 64^3 voxels at random positions.
    Padding is left out: constant planes at the borders (`content_box`), and constant blocks at the corners of a rotated
    volume (`padding.without_padding`).

    Args:
      volume: anything with the interface of Volume.
      seed: of the random positions.
      blocks: number of blocks.

    Returns:
      1D array in the volume's dtype.

    Raises:
      UserError: NaN or infinite values in the sample, or a constant volume.
    """
    box = content_box(volume)
    sizes = [s.stop - s.start for s in box]
    if math.prod(sizes) <= blocks * _BLOCK**3:
        sample = [volume.read(box)]
    else:
        rng = np.random.default_rng(seed)
        sample = []
        for tried in range(_TRIES * blocks):
            block = volume.read(_random_block(box, rng))
            # A block that is all padding is drawn again while enough draws remain for the others.
            if block.min() != block.max() or _TRIES * blocks - tried <= blocks - len(sample):
                sample.append(block)
            if len(sample) == blocks:
                break
    if sample[0].dtype.kind == "f" and not all(np.isfinite(block).all() for block in sample):
        raise UserError(
            f"{volume.name}: holds NaN or infinite values; replace them, for example "
            "by 0 (numpy.nan_to_num), and save the volume again"
        )
    return without_padding(sample)


def content_box(volume: VolumeLike) -> Box:
    """Finds the box that remains when planes of one constant value are cut off at the borders.

    Each of the six faces loses its outermost planes as long as they hold a single value, that of the face's corner
    (often 0). Planes are read from the faces inwards in small tiles, up to the first voxel that differs, so that a
    volume without padding takes next to no time and memory stays bounded.

    Args:
      volume: anything with the interface of Volume.

    Returns:
      (z, y, x) slices; the full extent if there is no padding.

    Raises:
      UserError: the whole volume is one value.
    """
    box = [[0, n] for n in volume.shape]
    faces = [(axis, side) for axis in range(3) for side in (0, 1)]
    # Cutting one face can uncover padding of another value on another face, so the round is repeated. A face is cut
    # only once: a constant plane of real content behind the padding would be lost as well.
    while True:
        cut = [face for face in faces if _peel(volume, box, *face)]
        faces = [face for face in faces if face not in cut]
        if not cut:
            return tuple(slice(low, high) for low, high in box)


def _peel(volume: VolumeLike, box: list[list[int]], axis: int, side: int) -> bool:
    """Moves one face of `box` (in place) past its constant planes; returns whether it moved."""
    corner = [low for low, _ in box]
    if side:
        corner[axis] = box[axis][1] - 1
    value = volume.read(tuple(slice(c, c + 1) for c in corner)).item()
    moved, slab = False, 1  # one plane first: most faces have no padding
    while box[axis][0] < box[axis][1]:
        low, high = box[axis]
        thick, slab = min(slab, high - low), _SLAB
        run = _constant_planes(volume, box, axis, side, thick, value)
        box[axis][side] += -run if side else run
        moved = moved or run > 0
        if run < thick:
            return moved
    raise _constant(volume, value)


def _constant_planes(volume: VolumeLike, box: list[list[int]], axis: int, side: int, thick: int, value: float) -> int:
    """Counts how many of the `thick` outermost planes of a face hold only `value`."""
    run = thick
    across, down = (a for a in range(3) if a != axis)
    for i in range(*box[across], _TILE):
        for j in range(*box[down], _TILE):
            tile = [slice(0)] * 3
            edge = box[axis][side]
            tile[axis] = slice(edge - run, edge) if side else slice(edge, edge + run)
            tile[across] = slice(i, min(i + _TILE, box[across][1]))
            tile[down] = slice(j, min(j + _TILE, box[down][1]))
            same = (volume.read(tuple(tile)) == value).all(axis=(across, down))
            same = same[::-1] if side else same
            run = run if same.all() else int(np.argmin(same))
            if run == 0:
                return 0
    return run


def _random_block(box: Box, rng: np.random.Generator) -> Box:
    """Returns a random block inside the box, 64 voxels a side or the width of the box if that is less."""
    block = []
    for s in box:
        side = min(_BLOCK, s.stop - s.start)
        start = s.start + int(rng.integers(s.stop - s.start - side + 1))
        block.append(slice(start, start + side))
    return tuple(block)


def _constant(volume: VolumeLike, value: float) -> UserError:
    return UserError(
        f"{volume.name}: every voxel read is {value}; there is nothing to "
        "segment, check that this is the image volume and not an empty export"
    )
