"""Requests to a store: their errors, the version of an object, and a file that is put when it is closed."""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

from his4mae_jax.bucket import access
from his4mae_jax.errors import UserError


@contextlib.contextmanager
def asking(name: object) -> Iterator[None]:
    """Turns the errors of a request of obstore into those of `BucketPath`.

    Args:
      name: of the object, for messages.
    """
    errors = access.obstore().exceptions
    try:
        yield
    except (FileNotFoundError, errors.NotFoundError) as error:
        raise FileNotFoundError(str(name)) from error
    except (errors.AlreadyExistsError, errors.PreconditionError, FileExistsError) as error:
        raise FileExistsError(str(name)) from error
    except UserError:
        raise
    except (errors.PermissionDeniedError, errors.UnauthenticatedError, PermissionError) as error:
        raise UserError(
            f"{name}: access refused ({_brief(error)}); check the credentials and what they may do in this bucket"
        ) from error
    except (errors.BaseError, OSError, ValueError) as error:
        raise UserError(
            f"{name}: the store cannot be reached, or failed ({_brief(error)}); check the address and the network, "
            "and run the same command again"
        ) from error


def version_of(found: Any) -> dict[str, Any]:
    """The `version` in an answer of obstore."""
    return {key: found[key] for key in ("e_tag", "version") if found[key] is not None}


class Written(io.BytesIO):
    """A file in memory that becomes an object when it is closed, unless an error ended its `with` block."""

    def __init__(self, put: Callable[[bytes], object]) -> None:
        super().__init__()
        self._put, self._failed = put, False

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._failed = kind is not None
        super().__exit__(kind, error, trace)

    def close(self) -> None:
        if not self.closed and not self._failed:
            content, self._failed = self.getvalue(), True
            self._put(content)
        super().close()


def _brief(error: BaseException) -> str:
    """The cause in the long, nested text of an error of obstore."""
    text = " ".join(str(error).split("\n\nDebug source")[0].split())
    return text[:300] or type(error).__name__
