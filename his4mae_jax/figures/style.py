"""What all pictures share: colours, resolution, and how a picture is written.

They are drawn through matplotlib's object interface alone: no pyplot, no global state, no
display. Classes have the same colour in all of them, from Okabe and Ito's palette, which readers
with any common colour vision tell apart.
"""

import math
import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PALETTE = (  # Okabe and Ito's seven, then tints of Paul Tol's for the odd picture that has more
    "#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2",
    "#882255", "#44AA99", "#999933", "#AA4499", "#332288", "#DDCC77", "#88CCEE",
)  # fmt: skip
DPI = 120


def is_number(value) -> bool:
    """True for a finite number: NaN stands for an absent class, and so does JSON's null."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def colours(count: int) -> list[str]:
    """Colours of ids 0 … count − 1; the palette begins anew where there are more."""
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


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
