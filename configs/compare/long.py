"""The paper's claims at the paper's number of images: the small model on 14 million fields of view (its 700 epochs).

    his4mae compare --config=compare/long --workdir=runs/long
    his4mae compare --config=compare/long:epfl --workdir=runs/long_epfl

The first on synthetic cells (two to train on, one to score), the second on EPFL's hippocampus (trained on one half,
scored on the other). About an hour for each row and seed on two CPU cores; a run that is stopped goes on. The last
checkpoint counts; ten on the way give the curves of Fig. 3. --config.train.steps=875000 are the paper's 2,800 epochs.
"""

import pathlib
import runpy

HERE = pathlib.Path(__file__).parent
SDAE_RECON = ("method=sdae_recon", "teacher.moves=epoch", "teacher.momentum=0.96", "teacher.momentum_end=0.99")
ROWS = (
    ("HiS4MAE", ("method=his4mae",)),
    ("HiS4MAE, no codebook", ("method=his4mae", "codebook.enabled=False")),
    ("SdAE-recon", SDAE_RECON),
    ("MAESTER, expand-stride", ("method=maester", "model.cls_token=True")),
)


def get_config(data="phantom"):
    name = {"phantom": "demo.py", "epfl": "epfl_hippocampus.py"}[data]
    c = runpy.run_path(str(HERE.parent / name))["get_config"]()
    if data == "epfl":
        c.data.test = c.data.test_labels = "epfl:testing"
        c.evaluate.clusters = (4, 6)
    else:
        c.data.phantom.size, c.data.phantom.cells = 128, 2
        c.evaluate.clusters = (5, 6, 8, 10)
    c.train.steps, c.train.samples_per_epoch, c.train.keep_checkpoints = 218_750, 20_000, 10
    c.codebook.start = 0.05
    c.evaluate.curve_box = 128
    c.compare.rows, c.compare.seeds = ROWS, (0, 1)
    c.compare.figures = ("slices", "curves")
    return c
