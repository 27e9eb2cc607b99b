"""What stored numbers stand for, where metadata say that it is not the numbers themselves.

CF attributes of HDF5, netCDF-4, zarr and N5: `_Unsigned`, `scale_factor`, `add_offset`. TIFF and MRC have other ways to
say the same.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from his4mae_jax.data.stores.virtual_chunked import virtual_array
from his4mae_jax.errors import UserError

CF_KEYS = ("_Unsigned", "scale_factor", "add_offset")
_IMAGE, _LABELS = ("uint8", "int16", "uint16"), ("uint8", "int16", "uint16", "int32", "uint32", "int64")


@dataclasses.dataclass(frozen=True)
class Meaning:
    """A map from stored numbers to those that are meant.

    Attributes:
      dtype: of the result.
      apply: from an array of stored numbers to a new array; None: they are what is meant.
    """

    dtype: np.dtype
    apply: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, array: np.ndarray) -> np.ndarray:
        return array if self.apply is None else self.apply(array)


def linear(dtype: np.dtype, scale: float, offset: float, image: bool, name: str) -> Meaning:
    """Returns the map to `scale * stored + offset`: to integers where they are exact, else float32.

    Args:
      dtype: of the stored numbers.
      scale: not 0.
      offset: in units of the result.
      image: whether they are grey levels; labels stay integers.
      name: of the volume, for messages.

    Raises:
      UserError: labels that would be no integers, or numbers that are not finite.
    """
    dtype = np.dtype(dtype)
    if not (math.isfinite(scale) and math.isfinite(offset) and scale):
        raise UserError(f"{name}: its metadata scale values by {scale:g} and add {offset:g}; correct them")
    if scale == 1 and offset == 0:
        return Meaning(dtype)
    if dtype.kind in "iu" and dtype.itemsize <= 4 and abs(scale) == 1 and offset == int(offset):
        info = np.iinfo(dtype)
        ends = sorted(int(scale) * v + int(offset) for v in (int(info.min), int(info.max)))
        kinds = map(np.dtype, _IMAGE if image else _LABELS)
        own = next((k for k in kinds if np.iinfo(k).min <= ends[0] and ends[1] <= np.iinfo(k).max), None)
        if own is not None:
            return Meaning(own, lambda stored: (stored.astype(np.int64) * int(scale) + int(offset)).astype(own))
    if not image:
        raise UserError(
            f"{name}: its metadata scale values by {scale:g} and add {offset:g}, so they are no label ids; save the "
            "labels as plain integers"
        )
    return Meaning(np.dtype(np.float32), lambda stored: (stored * np.float64(scale) + offset).astype(np.float32))


def meaning_of(attributes: Mapping[str, Any], dtype: np.dtype, image: bool, name: str) -> Meaning:
    """Returns the map that the CF attributes of an array describe.

    Args:
      attributes: of the array, in plain Python values.
      dtype: of the stored numbers.
      image: see `linear`.
      name: of the volume, for messages.

    Raises:
      UserError: see `linear`.
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    as_unsigned = dtype.kind == "i" and str(attributes.get("_Unsigned")).lower() == "true"
    own = np.dtype(f"u{dtype.itemsize}") if as_unsigned else dtype
    scale, offset = (_number(attributes.get(k), d) for k, d in (("scale_factor", 1.0), ("add_offset", 0.0)))
    scaled = linear(own, scale, offset, image, name)
    if not as_unsigned:
        return scaled
    return Meaning(scaled.dtype, lambda stored: scaled(stored.astype(own)))


def meant(array: ts.TensorStore, meaning: Meaning, cache_bytes: int) -> ts.TensorStore:
    """Returns the array of what is meant, computed when it is read; indices start at 0.

    Args:
      array: of stored numbers.
      meaning: of them.
      cache_bytes: limit of decoded chunks kept in memory.
    """
    if meaning.apply is None:
        return array
    array = array[ts.d[:].translate_to[0]]

    def read(box: tuple[slice, ...]) -> np.ndarray:
        return meaning(array[box].read().result())

    chunks = array.chunk_layout.read_chunk.shape or array.shape
    chunks = [c or n for c, n in zip(chunks, array.shape, strict=True)]
    return virtual_array(read, array.shape, meaning.dtype, chunks, cache_bytes, reads_tensorstore=True)


def _number(value: Any, default: float) -> float:
    """An attribute that is one number; anything else belongs to another convention."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
