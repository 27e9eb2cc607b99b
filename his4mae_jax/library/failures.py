"""Errors of the library are one family, `his4mae_jax.Error`."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from his4mae_jax.errors import UserError, friendly_memory_error

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


def one_family(function: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Decorates a public function: a device that is out of memory raises `his4mae_jax.Error` too."""

    @functools.wraps(function)
    def wrapped(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            message = friendly_memory_error(error)
            if message is None or isinstance(error, UserError):
                raise
            raise UserError(message) from error

    return wrapped
