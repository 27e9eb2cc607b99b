"""Which numbers a volume may hold, and what other grey levels are read as."""

import numpy as np

from his4mae_jax.errors import UserError
from his4mae_jax.progress import say_once

IMAGE_DTYPES = ("uint8", "uint16", "int16", "float32")
# What other grey levels are read as, and how precisely.
_DIGITS = "to 7 digits"
_READ_AS = {
    "int8": ("int16", "exactly"),
    "float16": ("float32", "exactly"),
    "float64": ("float32", _DIGITS),
} | {kind: ("float32", f"exactly to 16777216, {_DIGITS} beyond") for kind in ("int32", "uint32", "int64", "uint64")}


def dtype_read(dtype: np.dtype, image: bool, name: str) -> np.dtype:
    """Returns the dtype that a volume is read as; where that differs from the stored one, says so once.

    Args:
      dtype: as it is stored.
      image: True: one of `IMAGE_DTYPES` is returned. False (labels): any integer or bool dtype is read as it is.
      name: of the volume, for messages.

    Raises:
      UserError: values that can be no grey levels, or no labels.
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    if not image:
        if dtype.kind not in "iub":
            raise UserError(f"{name}: dtype {dtype} cannot hold labels; convert it to an integer type")
        return dtype
    if dtype.name in IMAGE_DTYPES:
        return dtype
    if dtype.name not in _READ_AS:
        raise UserError(
            f"{name}: dtype {dtype} is not supported for images; convert it to one of {', '.join(IMAGE_DTYPES)}"
        )
    other, precision = _READ_AS[dtype.name]
    say_once(f"{name}: its {dtype} grey levels are read as {other}, {precision}")
    return np.dtype(other)
