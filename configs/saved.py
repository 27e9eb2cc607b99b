"""A config that a run saved, read back.

    his4mae all --config=saved:runs/demo/config.json --workdir=runs/demo_again

What the file does not say has its default; other settings are overridden as always.
"""

import json

import ml_collections

from his4mae_jax.bucket.path import place
from his4mae_jax.config import get_default
from his4mae_jax.errors import UserError
from his4mae_jax.settings import unknown_key


def get_config(path=""):
    """The default config with the settings of the JSON file `path`; `UserError` naming what is wrong with it."""
    if not path:
        raise UserError("configs/saved.py: give a saved config after a colon, as in saved:runs/demo/config.json")
    try:
        saved = json.loads(place(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a saved config ({error}); give the config.json of a run") from error
    config = get_default()
    _update(config, saved, path, "")
    return config


def _update(section, saved, path, prefix):
    if not isinstance(saved, dict):
        where = f"config key {prefix.rstrip('.')}" if prefix else "the file"
        raise UserError(f"{path}: {where} holds no settings by name; give the config.json of a run")
    for key, value in saved.items():
        if key not in section:
            raise UserError(f"{path}: {unknown_key(prefix + key)}")
        if isinstance(section[key], ml_collections.ConfigDict):
            _update(section[key], value, path, f"{prefix}{key}.")
            continue
        try:
            section[key] = _as_tuple(value) if isinstance(section[key], tuple) else value
        except TypeError as error:
            raise UserError(f"{path}: config key {prefix}{key} cannot be {value!r} ({error})") from error


def _tuples(value):
    """Lists as tuples, those inside of them too: JSON has no tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _as_tuple(value):
    """The value of a setting that is a tuple; earlier versions saved one path as a text, and none as an empty one."""
    return ((value,) if value else ()) if isinstance(value, str) else _tuples(value)
