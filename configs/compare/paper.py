"""The paper's Table 3, row by row, with its data and its settings (BetaSeg, Tables 1 and 2). Needs a GPU.

    his4mae compare --config=compare/paper --workdir=runs/table3_paper \
        --config.data.root=/path/to/BetaSeg

Each row trains 54,687 (700 epochs) or 218,750 steps (2800 epochs) of 256 fields of view, for each of
three seeds: days on one GPU. --config.compare.seeds="(0,)" is the paper's single run. The rows of 700 epochs
are trainings of their own length, with the learning rate's whole schedule.

Cover-stride encodes 40,754 fields of view for each of high_c4's slices, where stride 40 encodes
351. A row of MAESTER with expand-stride beside it costs a segmentation and no training.
"""

import pathlib
import runpy

CONFIGS = pathlib.Path(__file__).parents[1]
MAESTER = ("method=maester", "model.cls_token=True")
CURVE = ("evaluate.curve_box=256",)  # Fig. 3 compares these two over training
ROWS = (
    ("SdAE-recon, 700 epochs", ("method=sdae_recon", "train.epochs=700")),
    ("SdAE-recon, 2800 epochs", ("method=sdae_recon", *CURVE)),
    ("MAESTER, 2800 epochs", (*MAESTER, "segment.inference=cover", "segment.smooth=0")),
    ("MAESTER, 2800 epochs, expand-stride", MAESTER),
    ("HiS4MAE, 700 epochs", ("method=his4mae", "train.epochs=700")),
    ("HiS4MAE, 2800 epochs", ("method=his4mae", *CURVE)),
    ("Vanilla ViT (supervised), 2800 epochs", ("method=vit",)),
    ("Segmenter (supervised), 2800 epochs", ("method=segmenter",)),
)


def get_config():
    c = runpy.run_path(str(CONFIGS / "betaseg.py"))["get_config"]()
    c.evaluate.clusters, c.evaluate.curve_box = (5, 6, 7, 8, 9, 10, 12, 14), 0
    c.compare.rows = ROWS
    c.compare.figures = ("slices", "curves")
    return c
