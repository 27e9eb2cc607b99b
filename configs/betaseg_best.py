"""The paper's training on BetaSeg, segmented in the way that was best where there is ground truth (docs/results.md).

    his4mae fetch --config=betaseg_best
    his4mae all --config=betaseg_best --workdir=runs/betaseg_best

Slices across all three axes in place of z alone, fields of view that reach beyond the border, smoothed tokens, whitened
features. The encoder is that of configs/betaseg.py: with --workdir=runs/betaseg, `his4mae segment` takes the one that
is trained there.
"""

import pathlib
import runpy

HERE = pathlib.Path(__file__).parent


def get_config():
    c = runpy.run_path(str(HERE / "betaseg.py"))["get_config"]()
    c.segment.axes, c.segment.metric, c.segment.smooth, c.segment.overhang = "zyx", "whitened", 0.7, 40
    c.segment.compare_clusters = tuple(range(2, 15))
    return c
