"""The paper's Table 3, row by row, with its data and its settings (BetaSeg, Tables 1 and 2). Needs a GPU.

    his4mae compare --config=compare/paper --workdir=runs/table3_paper \
        --config.data.root=/path/to/BetaSeg

Each training takes 218,750 steps (2800 epochs) of 256 fields of view, for each of
three seeds: days on one GPU. --config.compare.seeds="(0,)" is the paper's single run. The rows of 700 epochs
are the checkpoints of the long runs at that epoch, as in the paper's Fig. 3.

SdAE-recon's teacher follows SdAE's release: it moves once an epoch, with a momentum from 0.96 to 0.99.

Cover-stride encodes 40,754 fields of view for each of high_c4's slices, where stride 40 encodes
351. A row of MAESTER with expand-stride beside it costs a segmentation and no training.
"""

import pathlib
import runpy

CONFIGS = pathlib.Path(__file__).parents[1]
MAESTER = ("method=maester", "model.cls_token=True")
CURVE = ("evaluate.curve_box=256",)  # Fig. 3 compares these two over training
SDAE_RECON = ("method=sdae_recon", "teacher.moves=epoch", "teacher.momentum=0.96", "teacher.momentum_end=0.99")
EVERY = 10_938  # steps between checkpoints: 140 epochs
AT_700 = f"segment.checkpoint={5 * EVERY}"
ROWS = (
    ("SdAE-recon, 700 epochs", (*SDAE_RECON, AT_700)),
    ("SdAE-recon, 2800 epochs", (*SDAE_RECON, *CURVE)),
    ("MAESTER, 2800 epochs", (*MAESTER, "segment.inference=cover", "segment.smooth=0")),
    ("MAESTER, 2800 epochs, expand-stride", MAESTER),
    ("HiS4MAE, 700 epochs", ("method=his4mae", AT_700)),
    ("HiS4MAE, 2800 epochs", ("method=his4mae", *CURVE)),
    ("HiS4MAE, 2800 epochs, clustered in and around the cell", ("method=his4mae", "segment.within_mask=False")),
    ("Vanilla ViT (supervised), 2800 epochs", ("method=vit",)),
    ("Segmenter (supervised), 2800 epochs", ("method=segmenter",)),
)


def get_config():
    c = runpy.run_path(str(CONFIGS / "betaseg.py"))["get_config"]()
    c.train.checkpoint_every, c.train.keep_checkpoints = EVERY, 20
    c.evaluate.clusters, c.evaluate.curve_box = (5, 6, 7, 8, 9, 10, 12, 14), 0
    c.compare.rows = ROWS
    c.compare.figures = ("slices", "curves")
    return c
