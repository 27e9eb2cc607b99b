"""The paper's run: BetaSeg, train on high_c1 to high_c3, test on high_c4 (Tables 1 and 2).

    his4mae fetch --config=betaseg
    his4mae all --config=betaseg --workdir=runs/betaseg

The first downloads the cells to data.root and converts them. Where the BetaSeg zip is unpacked already, set
data.root to that folder: it holds download/{cell}/{cell}_{part}.tif.
"""

from his4mae_jax.config import get_default


def get_config():
    c = get_default()
    c.data.source = "betaseg"
    c.data.root = "data/betaseg"
    c.data.train = ("high_c1", "high_c2", "high_c3")
    c.data.test = "high_c4"
    # Table 1.
    c.objective.alpha = 1e-3
    c.objective.beta = 2.5e-4
    c.codebook.gamma = 0.8
    c.codebook.size = 512
    c.model.embed_dim = 192
    # Table 2.
    c.train.lr = 5e-4
    c.train.min_lr = 8e-7
    c.train.epochs = 2800
    c.train.batch_size = 256
    c.train.samples_per_epoch = 20_000
    c.model.dtype = "bfloat16"  # parameters, losses and the optimiser are float32
    # The paper's sample: a thousandth of the voxels, from wherever the cell lies.
    c.segment.fit_tiles, c.segment.fit_voxels = 1000, 700_000
    c.evaluate.clusters = (6, 8, 10, 12, 14)
    return c
