"""Vanilla ViT of Table 3: MAESTER's encoder and a linear layer, trained with labels (`pretext.supervised`)."""

import ml_collections

from his4mae_jax.models.segmenter import VanillaViT
from his4mae_jax.pretext.maester import make_encoder
from his4mae_jax.pretext.supervised import Models, Settings, init_params, loss, num_classes, prepare, settings

__all__ = ("Models", "Settings", "build", "init_params", "loss", "prepare", "settings")


def build(config: ml_collections.ConfigDict) -> Models:
    """Return the network of `config.model` and `config.supervised.classes`; `UserError` without classes."""
    return Models(VanillaViT(make_encoder(config.model), num_classes(config)), config.model.patch_size)
