"""What follows from several settings: counts, and what encodes."""

import pathlib

import ml_collections


def steps_per_epoch(config: ml_collections.ConfigDict) -> int:
    """Optimiser steps of an epoch of `train.samples_per_epoch`, at least 1."""
    return max(1, config.train.samples_per_epoch // config.train.batch_size)


def total_steps(config: ml_collections.ConfigDict) -> int:
    """Optimiser steps of the whole run."""
    if config.train.steps:
        return config.train.steps
    return config.train.epochs * config.train.samples_per_epoch // config.train.batch_size


def num_tokens(config: ml_collections.ConfigDict) -> int:
    """Tokens of a field of view."""
    return (config.model.fov // config.model.patch_size) ** 2


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """How many of `num_patches` stay visible: `floor(N * (1 - ratio))`, as in MAE."""
    # 1e-9: 256 * (1 - 0.9) must not become 25.599999 because of the float literal 0.9.
    return int(num_patches * (1.0 - mask_ratio) + 1e-9)


def encoder_name(config: ml_collections.ConfigDict) -> str:
    """What the labels are by: the method that trained the encoder, or the name of a frozen one's file."""
    return pathlib.PurePath(config.segment.get("encoder_file", "")).stem or config.method
