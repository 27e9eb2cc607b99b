"""One setting: its key, default, allowed values, meaning and scope."""

import dataclasses
import enum
import reprlib
from typing import Any

from his4mae_jax.errors import UserError
from his4mae_jax.settings.kinds import Choice, Kind


class Scope(enum.Enum):
    """When a setting may change, and which stage reads it. The value is the text for readers."""

    TRAINING = "fixed by the training"
    LABELS = "fixed by the training of a supervised method, free for any other"
    FREE = "free at any time: it changes no result but by rounding"
    SEGMENT = "segmentation"
    EVALUATE = "evaluation"
    EXPORT = "export"
    PROBE = "few labels"
    COMPARE = "comparison"
    NAME = "naming"
    VIEW = "viewing"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
      key: its dotted name in the configuration, such as "train.lr".
      default: its value in `get_default()`.
      kind: the values that it allows.
      help: its meaning, in a sentence or two.
      scope: when it may change.
    """

    key: str
    default: Any
    kind: Kind
    help: str
    scope: Scope

    @property
    def section(self) -> str:
        """The key without its last part; empty at the top."""
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    def check(self, value: Any) -> None:
        """Raise `UserError`, one line with the key, the value and what is allowed, unless `value` is allowed."""
        if self.kind.allows(value):
            return
        if isinstance(self.kind, Choice):
            choices = ", ".join(map(repr, self.kind.options))
            raise UserError(f"config key {self.key} is {short(value)}: choose one of {choices}")
        raise refusal(self.key, value, self.kind.rule)


def refusal(key: str, value: Any, rule: str) -> UserError:
    """The error for a value that a setting cannot have."""
    return UserError(f"config key {key} is {short(value)}, but must be {rule}")


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxtuple = self.maxlist = self.maxdict = 4

    def repr_int(self, x: int, level: int) -> str:
        return "an enormous number" if abs(x) >= 10**40 else super().repr_int(x, level)


def short(value: Any) -> str:
    """The `repr` of a value, shortened to fit in a message."""
    return _Short().repr(value)
