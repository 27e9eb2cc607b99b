"""What all pictures share: colours, resolution, and how a picture is written.

They are drawn through matplotlib's object interface alone: no pyplot, no global state, no
display. Classes have the same colour in all of them, that of their labels (`palette`).
"""

import math
import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from his4mae_jax import palette

DPI = 120


def is_number(value) -> bool:
    """True for a finite number: NaN stands for an absent class, and so does JSON's null."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def colours(count: int) -> list[str]:
    """Colours of the first `count` classes: those of the labels 1 … count."""
    return [palette.colour(label) for label in range(1, count + 1)]


def save(figure: Figure, path) -> None:
    """Writes a PNG, whole or not at all, and makes its folder as needed."""
    # Written aside and renamed: a page that is open never shows half a picture.
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        FigureCanvasAgg(figure)
        figure.savefig(aside, format="png", dpi=DPI, facecolor="white")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
