"""What each part of HiS4MAE is worth: one change at a time, on synthetic cells, three seeds each.

    his4mae compare --config=compare/ablations --workdir=runs/ablations

The rows from "teacher encodes" on change how the trained model segments, and share its training.
"""

import pathlib
import runpy

ROWS = (
    ("HiS4MAE", ()),
    ("teacher sees the visible patches", ("teacher.input=visible",)),
    ("no codebook", ("codebook.enabled=False",)),
    ("codebook by running means", ("codebook.learning=ema",)),
    ("isolated codes stay", ("codebook.update_isolated=False",)),
    # Adam moves the codes equally far for any alpha: these rows test beta. By SGD alpha counts as well.
    ("alpha and beta x 10", ("objective.alpha=1e-2", "objective.beta=2.5e-3")),
    ("alpha and beta x 0.1", ("objective.alpha=1e-4", "objective.beta=2.5e-5")),
    ("codes by SGD", ("codebook.optimizer=sgd", "codebook.lr=2e4")),
    ("beta = alpha", ("objective.beta=1e-3",)),
    ("mask ratio 0.25", ("objective.mask_ratio=0.25",)),
    ("mask ratio 0.75", ("objective.mask_ratio=0.75",)),
    ("teacher encodes", ("segment.encoder=teacher",)),
    ("stride 5", ("segment.stride=5",)),
    ("stride 20", ("segment.stride=20",)),
    ("nearest expansion", ("segment.expansion=nearest",)),
    ("clusters of codes", ("segment.centres=codebook",)),
    ("plain k-means", ("segment.metric=euclidean",)),
)


def get_config():
    c = runpy.run_path(str(pathlib.Path(__file__).with_name("table3.py")))["get_config"]()
    c.compare.rows = ROWS
    c.compare.figures = ()
    return c
