"""Synthetic beta cells and a small model: minutes on two CPU cores.

    python -m his4mae_jax.main --config=configs/demo.py --workdir=runs/demo

What differs from the paper's settings makes up for a run far shorter than the paper's; each
choice was measured (docs/results.md).
"""

from his4mae_jax.config import get_default


def get_config():
    c = get_default()
    c.data.source = "phantom"
    # A field of view of an organelle's size: a short run learns what is in view long before
    # it learns what is at each token of a large one.
    c.model.fov, c.model.patch_size, c.data.crop_min = 20, 4, 20
    # A tenth of the arithmetic of the next size up, and so ten times the steps.
    c.model.embed_dim, c.model.depth = 64, 4
    c.model.decoder_dim, c.model.decoder_depth, c.model.decoder_num_heads = 48, 1, 1
    c.model.decoder_mimetic = 1.0
    c.codebook.size = 64
    c.codebook.start = 0.3
    c.train.lr, c.train.steps, c.train.batch_size, c.train.samples_per_epoch = 2e-3, 17_000, 64, 25_600
    c.train.log_every = 500
    c.train.keep_checkpoints = 3
    c.segment.axes, c.segment.stride, c.segment.smooth, c.segment.metric = "zyx", 8, 0.5, "whitened"
    c.segment.batch_fovs = 512
    c.evaluate.clusters = (6,)
    return c
