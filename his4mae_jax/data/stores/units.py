"""Voxel sizes and their units, and library errors in one line."""

import math
import re
from collections.abc import Sequence

import numpy as np

from his4mae_jax.errors import UserError

Triple = tuple[float, float, float]

# Length of a unit in nm, by its lower-case name in OME-Zarr, OME-XML or ImageJ.
NM = {
    "picometer": 1e-3, "angstrom": 0.1, "nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6, "centimeter": 1e7,
    "meter": 1e9, "inch": 2.54e7, "pm": 1e-3, "å": 0.1, "nm": 1.0, "um": 1e3, "µm": 1e3, "\u03bcm": 1e3,
    "\\u00b5m": 1e3, "micron": 1e3, "microns": 1e3, "mm": 1e6, "cm": 1e7, "m": 1e9,
    "nanometers": 1.0, "micrometers": 1e3, "nanometre": 1.0, "micrometre": 1e3, "angstroms": 0.1,
}  # fmt: skip


def triple(value: float | Sequence[float], name: str) -> Triple:
    """Returns a voxel size as three numbers.

    Args:
      value: one number, or (z, y, x).
      name: of the volume, for messages.

    Raises:
      UserError: not one or three positive, finite numbers.
    """
    try:
        size = tuple(float(v) for v in np.broadcast_to(np.asarray(value, float), (3,)))
    except (TypeError, ValueError):
        size = (0.0,)
    if not all(0 < v < math.inf for v in size):
        raise UserError(
            f"{name}: voxel size {value!r} is not one positive number in nm or three "
            "(z, y, x); correct data.file_voxel_size_nm or the file's metadata"
        )
    return size


def numbers(value: object) -> list[float] | None:
    """Returns a list of three numbers or more, from metadata that anybody may have written; None for anything else."""
    try:
        listed = [float(v) for v in np.asarray(value, float).tolist()]
    except (TypeError, ValueError):
        return None
    return listed if len(listed) >= 3 else None


def brief(error: Exception) -> str:
    """Shortens a library's error message to one line, without TensorStore's spec, path and status."""
    whole = str(error)
    text = re.sub(r'Error reading local file "[^"]*": ', "", whole.split(" [")[0])
    code = re.search(r"\[HTTP code (\d+)\]", whole)
    text = " ".join(re.sub(r"^[A-Z_]+: ", "", text).split())[:200] or type(error).__name__
    return f"{text} (HTTP {code.group(1)})" if code else text
