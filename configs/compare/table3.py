"""The paper's Table 3 in small: every method on synthetic cells, three seeds each, without a GPU.

    his4mae compare --config=compare/table3 --workdir=runs/table3

Two cells to train on and one to score, the same for all rows and seeds. `--config.compare.seeds="(0,)"` takes one
seed, and `--config.compare.rows` other rows. With data of your own: a config whose
get_config() fills `data`, and these ROWS.
"""

import pathlib
import runpy

MAESTER = ("method=maester", "model.cls_token=True")
# Across z alone, as MAESTER segments: three axes would encode millions of fields of view.
COVER_STRIDE = ("segment.inference=cover", "segment.smooth=0", "segment.axes=z")
UNMASKED = ("HiS4MAE, clustered in and around the cell", ("method=his4mae", "segment.within_mask=False"))
CURVE = ("evaluate.curve_box=128",)  # Fig. 3 compares these two over training
ROWS = (
    ("HiS4MAE", ("method=his4mae", *CURVE)),
    # Their teachers move each step, as HiS4MAE's: in 2,000 steps, 25 epochs, a teacher that moves once an epoch
    # (teacher.moves, as in SdAE's release) would stay near its random start.
    ("SdAE-recon", ("method=sdae_recon", *CURVE)),
    ("SdAE", ("method=sdae",)),
    ("MAESTER", (*MAESTER, *COVER_STRIDE)),
    ("MAESTER, expand-stride", MAESTER),
    ("VAE", ("method=vae", "vae.width=8")),  # convolutions of the default 32 take ten times as long on a CPU
    ("Vanilla ViT (supervised)", ("method=vit",)),
    ("Segmenter (supervised)", ("method=segmenter",)),
)


def get_config():
    c = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "demo.py"))["get_config"]()
    c.data.phantom.size, c.data.phantom.cells = 128, 2
    # Four patches a side: two of them are central, so that cover-stride encodes a quarter of what five would.
    c.model.patch_size, c.segment.stride, c.segment.overhang = 5, 10, 10
    c.train.steps, c.codebook.start = 2000, 0.5
    c.evaluate.clusters, c.evaluate.curve_box = (5, 6, 7, 8, 9, 10), 0
    c.compare.rows = (ROWS[0], UNMASKED, *ROWS[1:])
    c.compare.figures = ("slices", "curves")
    return c
