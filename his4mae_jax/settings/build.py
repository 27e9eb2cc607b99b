"""The configuration: a locked `ConfigDict` made from the table, with a preset for small runs, and its validation."""

import functools
from collections.abc import Mapping
from typing import Any

import ml_collections

from his4mae_jax.errors import UserError
from his4mae_jax.settings.constraints import broken
from his4mae_jax.settings.setting import refusal
from his4mae_jax.settings.table import TABLE, flat_keys, flat_settings, unknown_key, value_of

# The preset for a small model, for volumes of about 15 nm a voxel. What differs from the paper's settings makes up for
# a run far shorter than the paper's; each choice was measured (docs/results.md).
SMALL = {
    # A field of view of an organelle's size: a short run learns what is in view long before it learns what is at
    # each token of a large one.
    "model.fov": 20,
    "model.patch_size": 4,
    "data.crop_min": 20,
    # A small model takes many more steps in the same time.
    "model.embed_dim": 64,
    "model.depth": 4,
    "model.decoder_dim": 48,
    "model.decoder_depth": 1,
    "model.decoder_num_heads": 1,
    "model.decoder_mimetic": 1.0,
    "codebook.size": 64,
    "codebook.start": 0.5,
    "train.lr": 2e-3,
    "train.batch_size": 64,
    "train.samples_per_epoch": 25_600,
    # About two minutes: two CPU cores take 4,900 to 6,500 images a second, 75 to 100 steps of 64. On the synthetic
    # cells of configs/demo.py the mean DSC no longer rises after 8,800 steps (0.792, and 0.793 at 17,600).
    "train.steps": 10_000,
    "train.keep_checkpoints": 3,
    "segment.axes": "zyx",
    "segment.compare_clusters": tuple(range(2, 13)),
    "segment.stride": 8,
    "segment.smooth": 0.7,
    "segment.metric": "whitened",
    "segment.overhang": 16,
}


def get_default() -> ml_collections.ConfigDict:
    """The full configuration with the paper's settings, a locked `ConfigDict`."""
    tree: dict[str, Any] = {}
    for setting in TABLE.values():
        section = tree
        for part in setting.key.split(".")[:-1]:
            section = section.setdefault(part, {})
        section[setting.name] = setting.default
    return ml_collections.ConfigDict(tree).lock()


def get_small() -> ml_collections.ConfigDict:
    """The defaults with a model that trains in minutes on a CPU, a locked `ConfigDict`."""
    config = get_default()
    config.update_from_flattened_dict(SMALL)
    return config


def validate(config: ml_collections.ConfigDict) -> None:
    """Check every setting by itself, then the constraints between them.

    Raises:
      UserError: one line that names the first setting that cannot work, its value and what is allowed.
    """
    for setting in TABLE.values():
        setting.check(value_of(config, setting.key))
    unknown = next((key for key in flat_keys(config) if key not in TABLE), None)
    if unknown is not None:  # as only an unlocked configuration can have
        raise UserError(unknown_key(unknown))
    for key, rule in broken(config):
        raise refusal(key, value_of(config, key), rule)


def from_saved(saved: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The settings that a run saved as JSON; those that it does not name have their default."""
    config = get_default()
    with config.ignore_type():
        for key, value in flat_settings(saved).items():
            *sections, name = key.split(".")
            functools.reduce(lambda part, section: part[section], sections, config)[name] = _tuples(value)
    return config


def _tuples(value: Any) -> Any:
    """Lists as tuples, those inside of them too: JSON has no tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
