"""Map grey levels to [0, 1], and find where a volume's content ends and its padding begins."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.volumes.blocks import PendingRead, known_value, read_async, stored_of
from his4mae_jax.data.volumes.outlying import find_outlying
from his4mae_jax.data.volumes.padding import constant_volume, content_box, without_padding
from his4mae_jax.data.volumes.volume import Box, View, VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.progress import say_once

if TYPE_CHECKING:
    import jax

_BLOCK = 64  # side in voxels of a sampled block
_TRIES = 4  # at most so many times the blocks are drawn, to replace those that are all padding

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

    @property
    def stored(self) -> Stored | None:
        return stored_of(self.source)

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
        raise constant_volume(volume, low)
    return Contrast(low, high, invert)


def sample_content(volume: VolumeLike, *, seed: int = 0, blocks: int = 64) -> np.ndarray:
    """Reads a sample of the volume's grey levels.

    A volume no larger than the sample is used whole; of a larger one, blocks of 64^3 voxels at random positions.
    Padding is left out: constant planes at the borders (`content_box`), and constant blocks at the corners of a rotated
    volume (`padding.without_padding`). So are sections that were lost or saturated (`outlying`), which is said once.

    Args:
      volume: anything with the interface of Volume.
      seed: of the random positions.
      blocks: number of blocks.

    Returns:
      1D array in the volume's dtype.

    Raises:
      UserError: NaN or infinite values in the sample, or a constant volume.
    """
    sample = read_sample(volume, seed=seed, blocks=blocks)
    if sample.left_out:
        say_once(f"{volume.name}: left out of the window of grey levels: {sample.left_out}")
    return sample.values


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sample of a volume's grey levels.

    Attributes:
      values: 1D, in the volume's dtype.
      left_out: planes that were lost or saturated, see `outlying.Outlying.text`; empty: none.
      planes: the same, see `outlying.Outlying.planes`.
    """

    values: np.ndarray
    left_out: str = ""
    planes: tuple[tuple[int, int], ...] = ()


def read_sample(volume: VolumeLike, *, seed: int = 0, blocks: int = 64) -> Sample:
    """Reads what `sample_content` returns, with what was left out of it; arguments and errors are the same."""
    box = content_box(volume)
    sizes = [s.stop - s.start for s in box]
    if math.prod(sizes) <= blocks * _BLOCK**3:
        sample, boxes = [volume.read(box)], [box]
    else:
        sample, boxes = _random_sample(volume, box, np.random.default_rng(seed), blocks)
    if sample[0].dtype.kind == "f" and not all(np.isfinite(block).all() for block in sample):
        raise UserError(
            f"{volume.name}: holds NaN or infinite values; replace them, for example "
            "by 0 (numpy.nan_to_num), and save the volume again"
        )
    outlying = find_outlying(sample, boxes, box)
    return Sample(without_padding(sample, outlying.masks), outlying.text, outlying.planes)


def _random_sample(
    volume: VolumeLike, box: Box, rng: np.random.Generator, blocks: int
) -> tuple[list[np.ndarray], list[Box]]:
    """Reads random blocks inside the box, and returns them with their boxes.

    A block that is all padding is drawn again while enough draws remain for the others. Where nearly all is padding,
    the draws that remain are of blocks of which something is stored, if that is known.
    """
    sample, boxes, padded = [], [], False

    def take(drawn: Box, *, always: bool) -> None:
        nonlocal padded
        block = volume.read(drawn)
        if always or block.min() != block.max():
            sample.append(block)
            boxes.append(drawn)
        else:
            padded = True

    for left in range(_TRIES * blocks, 0, -1):
        last = left <= blocks - len(sample)
        if len(sample) == blocks or (last and stored_of(volume) is not None):
            break
        drawn = _random_block(box, rng)
        if last or not padded or known_value(volume, drawn) is None:
            take(drawn, always=last)
    for _ in range(_TRIES * blocks if len(sample) < blocks else 0):
        take(_stored_block(stored_of(volume), box, rng), always=False)
        if len(sample) == blocks:
            break
    if not sample:
        take(_random_block(box, rng), always=True)
    return sample, boxes


def _stored_block(stored: Stored, box: Box, rng: np.random.Generator) -> Box:
    """As `_random_block`, around a random voxel of which something is stored."""
    cells = stored.cells(box)
    filled = np.argwhere(stored.filled[cells]) + [s.start for s in cells]
    block = []
    for i, edges, s in zip(filled[rng.integers(len(filled))], stored.edges, box, strict=True):
        side = min(_BLOCK, s.stop - s.start)
        low, high = max(int(edges[i]), s.start), min(int(edges[i + 1]), s.stop)
        centre = int(rng.integers(low, max(high, low + 1)))
        start = min(max(centre - side // 2, s.start), s.stop - side)
        block.append(slice(start, start + side))
    return tuple(block)


def _random_block(box: Box, rng: np.random.Generator) -> Box:
    """Returns a random block inside the box, 64 voxels a side or the width of the box if that is less."""
    block = []
    for s in box:
        side = min(_BLOCK, s.stop - s.start)
        start = s.start + int(rng.integers(s.stop - s.start - side + 1))
        block.append(slice(start, start + side))
    return tuple(block)
