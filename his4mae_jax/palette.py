"""The colours of labels, the same in label volumes, figures and viewers.

Okabe and Ito's palette, which readers with any common colour vision tell apart, then tints of Paul Tol's where there
are more labels than it has colours. Of more labels than both have, neighbours are told apart, not all.
"""

import colorsys
import functools

COLOURS = (
    "#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2",
    "#882255", "#44AA99", "#999933", "#AA4499", "#332288", "#DDCC77", "#88CCEE",
)  # fmt: skip


@functools.cache
def colour(label: int) -> str:
    """Returns the colour of a label (1, 2, ...) as "#RRGGBB": another one for each of 255, the first of `COLOURS`.

    Behind those hues go round by the golden angle, so that neighbours differ, in three lightnesses and saturations.
    """
    number = label - 1 - len(COLOURS)
    if number < 0:
        return COLOURS[label - 1]
    hue = (0.5 + number * 0.61803398875) % 1
    lightness, saturation = ((0.42, 0.75), (0.68, 0.60), (0.30, 0.55))[number % 3]
    return "#" + "".join(f"{round(255 * part):02X}" for part in colorsys.hls_to_rgb(hue, lightness, saturation))


def rgb(label: int) -> tuple[int, int, int]:
    """Returns the colour of a label as red, green and blue, 0 to 255 each."""
    return tuple(bytes.fromhex(colour(label)[1:]))
