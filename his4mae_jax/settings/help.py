"""The text of each setting for readers, and why a configuration file fails."""

import traceback
from collections.abc import Iterable

import ml_collections

from his4mae_jax.errors import UserError
from his4mae_jax.settings.build import SMALL
from his4mae_jax.settings.setting import Setting, refusal
from his4mae_jax.settings.table import TABLE, names_in, nearest_key, unknown_key


def explain_unknown_key(error: BaseException) -> str | None:
    """One line for the error that a misspelt key, or a value of the wrong type, raises in a configuration file.

    The line names the file and line, the key with its section, and the nearest key that exists, or what the key
    allows.

    Args:
      error: as raised, with its traceback.

    Returns:
      The line; None for any other error.
    """
    if not isinstance(error, (AttributeError, KeyError, TypeError, OverflowError)):
        return None
    section, names = None, {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, ml_collections.ConfigDict):
            section, names = owner, {**names, **frame.f_locals}
    name = names.get("key", names.get("attribute"))
    if section is None or not isinstance(name, str):
        return None
    key = f"{_section_with(section.keys())}.{name}".removeprefix(".")
    if isinstance(error, (AttributeError, KeyError)):
        return f"{_place(error)}{unknown_key(key)}"
    if key not in TABLE or TABLE[key].kind.allows(names.get("value")):
        return None
    return f"{_place(error)}{refusal(key, names['value'], TABLE[key].kind.rule)}"


def _section_with(names: Iterable[str]) -> str:
    """The section that has these keys."""
    names = set(names)
    sections = {setting.section for setting in TABLE.values()}
    return max(sections, key=lambda section: len(names & names_in(section)) - len(names ^ names_in(section)))


def _place(error: BaseException) -> str:
    """The last file and line of the traceback that is not of ml_collections."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "ml_collections" not in frame.filename]
    return f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""


def describe(word: str | None = None) -> str:
    """The settings as text for a terminal: default, meaning, allowed values and scope of each.

    Args:
      word: only settings whose key or meaning holds this word, whatever its case; None: all.

    Raises:
      UserError: no setting holds the word.
    """
    chosen = [s for s in TABLE.values() if word is None or word.lower() in f"{s.key} {s.help}".lower()]
    if not chosen:
        nearest = nearest_key(word)
        hint = f"; the key most like it is {nearest}" if nearest else ""
        raise UserError(f"no setting has {word!r} in its key or meaning{hint}")
    return "\n".join(_paragraph(s) for s in chosen)


def _paragraph(setting: Setting) -> str:
    small = f" (small: {SMALL[setting.key]!r})" if setting.key in SMALL else ""
    return (
        f"{setting.key} = {setting.default!r}{small}\n    {setting.help}\n"
        f"    Allowed: {setting.kind.rule}. Scope: {setting.scope.value}.\n"
    )
