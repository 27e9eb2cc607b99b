"""The table of all settings, what it says of each, and configurations by dotted keys."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from his4mae_jax.errors import UserError
from his4mae_jax.settings import data, stages, training
from his4mae_jax.settings.methods import SUPERVISED
from his4mae_jax.settings.setting import Scope, Setting, short

TABLE: Mapping[str, Setting] = {s.key: s for s in (*data.SETTINGS, *training.SETTINGS, *stages.SETTINGS)}


def fixed_by_training(key: str, method: str) -> bool:
    """Whether the checkpoints of a training by `method` depend on the setting.

    A workdir belongs to one value of it, and runs that differ in it cannot share a training.
    """
    scope = TABLE[key].scope
    return scope is Scope.TRAINING or (scope is Scope.LABELS and method in SUPERVISED)


def affects_scores(key: str) -> bool:
    """Whether the scores of a run depend on the setting; those of a comparison as a whole are no run's."""
    return TABLE[key].scope not in (Scope.FREE, Scope.NAME, Scope.PROBE, Scope.VIEW, Scope.EXPORT, Scope.COMPARE)


def flat_keys(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[str]:
    """All leaf keys of a configuration in dotted form."""
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from flat_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def flat_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """`{dotted key: value}` of the settings that a run saved as JSON, or of their dict; lists for tuples.

    A key that they lack was added after they were saved: it has its default, with which the run would be the same.
    """
    return {key: _lists(_saved(saved, key)) for key in TABLE}


def is_saved(value: Any) -> bool:
    """Whether a JSON value has the shape of the settings that a run saves: groups are objects, a method is named."""
    groups = {key.rpartition(".")[0] for key in TABLE}
    whole = all(isinstance(_group(value, group), Mapping) for group in groups if group)
    return isinstance(value, Mapping) and isinstance(value.get("method"), str) and whole


def _group(tree: Any, name: str) -> Any:
    """A group of settings; empty where it was added after they were saved."""
    for part in name.split("."):
        tree = tree.get(part, {}) if isinstance(tree, Mapping) else None
    return tree


def _saved(tree: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return TABLE[key].default
        tree = tree[part]
    return tree


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, (tuple, list)) else value


def value_of(config: ml_collections.ConfigDict, key: str) -> Any:
    """The value of a setting. Raises `UserError` where the configuration lacks it."""
    value, path = config, ""
    for part in key.split("."):
        if not isinstance(value, ml_collections.ConfigDict):
            raise UserError(f"config section {path} is {short(value)}, but must hold the settings {path}.*")
        if part not in value:
            raise UserError(f"config key {key} is missing: begin with get_default() or get_small()")
        value, path = value[part], f"{path}.{part}" if path else part
    return value


def names_in(section: str) -> set[str]:
    """The names of the settings and sections in a section."""
    prefix = f"{section}." if section else ""
    return {key.removeprefix(prefix).split(".")[0] for key in TABLE if key.startswith(prefix)}


def nearest_key(key: str, config: ml_collections.ConfigDict | None = None) -> str | None:
    """The existing dotted key most like `key`, or None. `config` limits the search to its keys."""
    keys = list(TABLE if config is None else flat_keys(config))
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.4)
    if not close:  # a bare name without its section
        tails = {k.rsplit(".", 1)[-1]: k for k in keys}
        close = [tails[t] for t in difflib.get_close_matches(key.rsplit(".", 1)[-1], tails, n=1)]
    return close[0] if close else None


def unknown_key(key: str) -> str:
    """The message for a key that does not exist, with the nearest that does: a setting, or a section."""
    section, _, name = key.rpartition(".")
    close = difflib.get_close_matches(name, names_in(section), n=1)
    nearest = f"{section}.{close[0]}".removeprefix(".") if close else nearest_key(key)
    hint = f"did you mean {nearest}?" if nearest else "his4mae settings lists all keys"
    return f"there is no config key {key}; {hint}"
