"""Colours of labels: those of the palette, then others, never one twice."""

import re

from his4mae_jax import palette


def test_every_label_of_a_volume_has_a_colour_of_its_own():
    colours = [palette.colour(label) for label in range(1, 256)]
    assert len(set(colours)) == 255 and all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)
    assert tuple(colours[: len(palette.COLOURS)]) == palette.COLOURS
    assert palette.rgb(1) == (0x56, 0xB4, 0xE9)
