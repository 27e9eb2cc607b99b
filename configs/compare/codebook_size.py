"""Fig. 4 in small: DSC by the size k of the codebook, on synthetic cells, three seeds each.

    his4mae compare --config=compare/codebook_size --workdir=runs/codebook_size

The paper's own, on BetaSeg, is this with configs/betaseg.py in place of table3.py.
"""

import pathlib
import runpy


def get_config():
    c = runpy.run_path(str(pathlib.Path(__file__).with_name("table3.py")))["get_config"]()
    c.compare.rows = tuple((f"k = {size}", (f"codebook.size={size}",)) for size in (16, 32, 64, 128, 256, 512))
    c.compare.figures = ("codebook",)
    return c
