"""Table 3's methods on the EPFL hippocampus volumes: trained on one half, scored on the other.

    his4mae compare --config=compare/epfl --workdir=runs/epfl_table

Needs training.tif, training_groundtruth.tif, testing.tif and testing_groundtruth.tif in data/:
`his4mae fetch --config=compare/epfl` downloads them. Only the two supervised rows read training_groundtruth.tif.
"""

import pathlib
import runpy

HERE = pathlib.Path(__file__).parent


def get_config():
    c = runpy.run_path(str(HERE.parent / "epfl_hippocampus.py"))["get_config"]()
    c.data.train_labels = ("epfl:training",)
    c.data.test = c.data.test_labels = "epfl:testing"
    c.model.patch_size, c.segment.stride, c.segment.overhang = 5, 10, 10  # as in table3.py
    c.train.steps, c.codebook.start = 2000, 0.5
    c.segment.grid = "model"  # all methods are scored at 15 nm, the size that they work at (docs/results.md)
    c.evaluate.clusters, c.evaluate.curve_box = (4, 5, 6, 7, 8, 9), 0
    c.compare.rows = runpy.run_path(str(HERE / "table3.py"))["ROWS"]
    c.compare.figures = ("slices", "curves")
    return c
