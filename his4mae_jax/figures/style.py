"""Colours, resolution and writing of all pictures.

They are drawn through matplotlib's object interface alone: no pyplot, no global state, no
display. Classes have the same colour in all of them, that of their labels (`palette`).
"""

import io
import math
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from his4mae_jax import palette
from his4mae_jax.bucket.path import PathLike, place
from his4mae_jax.files import write_bytes

DPI = 120


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; an absent class has NaN, or null in JSON."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def colours(count: int) -> list[str]:
    """Colours of the first `count` classes: those of the labels 1 … count."""
    return [palette.colour(label) for label in range(1, count + 1)]


def save(figure: Figure, path: PathLike) -> None:
    """Writes a PNG, whole or not at all, and makes its folder as needed."""
    path, stream = place(path), io.BytesIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(stream, format="png", dpi=DPI, facecolor="white")
    write_bytes(path, stream.getvalue())
