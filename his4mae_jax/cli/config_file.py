"""Configs of the command line: files (`library.config_files`), and single settings that override them."""

import functools
import operator
import re
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from his4mae_jax import config as configs
from his4mae_jax.errors import UserError
from his4mae_jax.library.config_files import SHIPPED, find, load, shipped

__all__ = ("SHIPPED", "find", "load", "override", "shipped", "split_overrides", "value")


def _suggestion(key: str, prefix: str = "") -> str:
    nearest = configs.nearest_key(key, configs.get_default())
    return f"did you mean {prefix}{nearest}?" if nearest else "`his4mae settings` lists all of them"


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take the single settings out of a command line.

    Args:
      argv: words of a command line, without the program.

    Returns:
      (the other words, those of `--config.KEY=VALUE` and `--config.KEY VALUE`).

    Raises:
      UserError: there is no such setting.
    """
    default = configs.get_default()
    known = set(configs.flat_keys(default))
    rest, overrides, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        match = re.match(r"--?(?:no)?config\.([^=]*)(=?)", word)
        if match is None:
            rest.append(word)
            continue
        key, equals = match.groups()
        if key not in known:
            raise UserError(f"--config.{key}: there is no such setting; {_suggestion(key, '--config.')}")
        overrides.append(word)
        if not equals and words and not isinstance(value(default, key), bool):
            overrides.append(words.pop(0))
    return rest, overrides


def value(config: ml_collections.ConfigDict, key: str) -> object:
    """The value of a dotted key."""
    return functools.reduce(operator.getitem, key.split("."), config)


def override(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> None:
    """Set single settings of a config, as `split_overrides` gives them.

    Raises:
      UserError: a value of the wrong type.
    """
    argv, values = ["his4mae", *overrides], flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from error
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise UserError(f"--config.KEY=VALUE: a setting cannot be overridden ({error})") from error
