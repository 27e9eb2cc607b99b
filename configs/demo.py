"""Synthetic beta cells and a small model: minutes on two CPU cores.

his4mae all --config=demo --workdir=runs/demo
"""

from his4mae_jax.config import get_small


def get_config():
    c = get_small()
    c.data.source = "phantom"
    c.train.steps = 16_000  # fewer than a longer run would still learn from: the demo is to end in five minutes
    c.codebook.start = 0.75  # no earlier: the teacher's forward pass is a quarter of a step
    c.train.log_every = 500
    c.evaluate.clusters, c.evaluate.curve_box = (6,), 128
    return c
