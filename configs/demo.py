"""Synthetic beta cells and a small model: minutes on two CPU cores.

    python -m his4mae_jax.main --config=configs/demo.py --workdir=runs/demo
"""

from his4mae_jax.config import get_default


def get_config():
    c = get_default()
    c.data.source = "phantom"
    c.model.embed_dim, c.model.depth = 96, 6
    c.model.decoder_dim, c.model.decoder_depth, c.model.decoder_num_heads = 64, 2, 2
    c.codebook.size = 64
    c.train.steps, c.train.batch_size, c.train.samples_per_epoch = 300, 64, 6400
    return c
