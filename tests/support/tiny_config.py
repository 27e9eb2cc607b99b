"""The settings of a model that compiles in a second."""

from his4mae_jax.config import get_default


def tiny_config():
    """The default configuration with a tiny model, and epochs of four steps."""
    c = get_default()
    c.model.fov, c.model.patch_size, c.model.embed_dim, c.model.depth = 20, 5, 8, 1
    c.model.decoder_dim, c.model.decoder_depth, c.model.decoder_num_heads = 8, 1, 2
    c.codebook.size, c.data.crop_min = 6, 10
    c.train.batch_size, c.train.samples_per_epoch = 4, 16
    return c
