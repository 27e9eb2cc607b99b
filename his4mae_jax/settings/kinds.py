"""Kinds of values: which values a setting allows, and the words that say so."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol


class Kind(Protocol):
    """What values a setting may have.

    Attributes:
      rule: the allowed values in words, to follow "must be".
    """

    @property
    def rule(self) -> str: ...

    def allows(self, value: Any) -> bool: ...


def is_whole(value: Any) -> bool:
    """Whether `value` is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether `value` is an int or a float, and not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_several(value: Any) -> bool:
    """Whether `value` is a tuple, or a list, as which JSON keeps one."""
    return isinstance(value, (tuple, list))


def _or_special(rule: str, special: Any, meaning: str) -> str:
    return f"{rule}, or {special!r} for {meaning}" if meaning else rule


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`, or `special`, which has a meaning of its own."""

    low: int
    high: int
    unit: str = ""
    special: int | None = None
    meaning: str = ""

    @property
    def rule(self) -> str:
        unit = f" of {self.unit}" if self.unit else ""
        return _or_special(f"a whole number{unit} from {self.low:,} to {self.high:,}", self.special, self.meaning)

    def allows(self, value: Any) -> bool:
        return is_whole(value) and (self.low <= value <= self.high or (bool(self.meaning) and value == self.special))


@dataclasses.dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`, without `low` or `high` itself where that is open; or `special`."""

    low: float
    high: float
    unit: str = ""
    low_open: bool = False
    high_open: bool = False
    special: float | None = None
    meaning: str = ""

    @property
    def rule(self) -> str:
        unit = f" of {self.unit}" if self.unit else ""
        if self.low_open or self.high_open:
            low = f"above {self.low:g}" if self.low_open else f"at least {self.low:g}"
            high = f"below {self.high:g}" if self.high_open else f"at most {self.high:g}"
            return _or_special(f"a number{unit} {low} and {high}", self.special, self.meaning)
        return _or_special(f"a number{unit} from {self.low:g} to {self.high:g}", self.special, self.meaning)

    def allows(self, value: Any) -> bool:
        if not is_number(value):
            return False
        if self.meaning and value == self.special:
            return True
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)


@dataclasses.dataclass(frozen=True)
class Flag:
    """True or False."""

    rule: str = "True or False"

    def allows(self, value: Any) -> bool:
        return isinstance(value, bool)


class Choice:
    """One of some values."""

    def __init__(self, *options: Any) -> None:
        self.options = options

    @property
    def rule(self) -> str:
        return "one of " + ", ".join(map(repr, self.options))

    def allows(self, value: Any) -> bool:
        # By type as well: True is no 1, and 2.0 no 2.
        return any(type(value) is type(option) and value == option for option in self.options)


@dataclasses.dataclass(frozen=True)
class Text:
    """A text, such as a path; `empty` says what no text means, where it may be empty."""

    content: str
    empty: str = ""

    @property
    def rule(self) -> str:
        return _or_special(self.content, "", self.empty)

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and "\0" not in value and bool(value.strip() or (self.empty and not value))


@dataclasses.dataclass(frozen=True)
class Letters:
    """Some letters of `alphabet`, each at most once, in one text."""

    alphabet: str

    @property
    def rule(self) -> str:
        return f"some of the letters {', '.join(self.alphabet)}, each at most once"

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and bool(value) and set(value) <= set(self.alphabet) and _differ(value)


def _differ(values: Sequence[Any]) -> bool:
    return all(value not in values[:i] for i, value in enumerate(values))


@dataclasses.dataclass(frozen=True)
class Several:
    """A tuple of values of one kind; a list will do.

    Attributes:
      words: the rule for the whole tuple.
      each: the kind of its entries.
      lengths: the numbers of entries allowed; None: any.
      distinct: no two entries are equal.
      rising: every entry is larger than the one before it.
      alone: a bare text will do for a tuple of that one text.
    """

    words: str
    each: Kind
    lengths: tuple[int, ...] | range | None = None
    distinct: bool = False
    rising: bool = False
    alone: bool = False

    @property
    def rule(self) -> str:
        return self.words

    def allows(self, value: Any) -> bool:
        if self.alone and isinstance(value, str):
            return self.each.allows(value)
        if not is_several(value) or not all(map(self.each.allows, value)):
            return False
        if self.lengths is not None and len(value) not in self.lengths:
            return False
        if self.distinct and not _differ(value):
            return False
        return not self.rising or all(a < b for a, b in zip(value[:-1], value[1:], strict=True))


@dataclasses.dataclass(frozen=True)
class Either:
    """A value that one of two kinds allows."""

    first: Kind
    second: Kind

    @property
    def rule(self) -> str:
        return f"{self.first.rule}, or {self.second.rule}"

    def allows(self, value: Any) -> bool:
        return self.first.allows(value) or self.second.allows(value)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a comparison: a pair of its name and its changes, "key=value" each."""

    rule: str = "a pair of a name and ('key=value', ...)"

    def allows(self, value: Any) -> bool:
        if not is_several(value) or len(value) != 2 or not isinstance(value[0], str):
            return False
        changes = value[1]
        return isinstance(changes, str) or (is_several(changes) and all(isinstance(text, str) for text in changes))
