"""The colours of labels, the same in label volumes, figures and viewers.

Okabe and Ito's palette, which readers with any common colour vision tell apart, then tints of Paul Tol's where there
are more labels than it has colours.
"""

COLOURS = (
    "#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2",
    "#882255", "#44AA99", "#999933", "#AA4499", "#332288", "#DDCC77", "#88CCEE",
)  # fmt: skip


def colour(label: int) -> str:
    """Returns the colour of a label (1, 2, ...) as "#RRGGBB"; the palette begins anew where there are more."""
    return COLOURS[(label - 1) % len(COLOURS)]


def rgb(label: int) -> tuple[int, int, int]:
    """Returns the colour of a label as red, green and blue, 0 to 255 each."""
    return tuple(bytes.fromhex(colour(label)[1:]))
