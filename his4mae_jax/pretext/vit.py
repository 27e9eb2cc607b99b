"""Vanilla ViT of Table 3: MAESTER's encoder and a Linear, trained with labels."""

from his4mae_jax.models.segmenter import VanillaViT
from his4mae_jax.pretext.maester import make_encoder
from his4mae_jax.pretext.supervised import Models, init_params, loss, num_classes, prepare, settings

__all__ = ("Models", "build", "init_params", "loss", "prepare", "settings")


def build(config):
    """`Models` of `config.model` and `config.supervised.classes`; `UserError` without classes."""
    return Models(VanillaViT(make_encoder(config.model), num_classes(config)), config.model.patch_size)
