"""Requests to a store: their errors, the version of an object, and a file that is put when it is closed."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

from his4mae_jax.bucket import access
from his4mae_jax.errors import UserError

PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between attempts


class RefusedError(UserError):
    """A store that does not allow a request; another attempt would be refused, too."""


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
        raise RefusedError(
            f"{name}: access refused ({_brief(error)}); check the credentials and what they may do in this bucket"
        ) from error
    except (errors.BaseError, OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None:  # of the local disk
            raise
        raise UserError(
            f"{name}: the store cannot be reached, or failed ({_brief(error)}); check the address and the network, "
            "and run the same command again"
        ) from error


def again(
    name: object,
    request: Callable[[], Any],
    attempts: int | None = None,
    on_conflict: Callable[[], Any] = lambda: None,
) -> Any:
    """Sends a request that obstore does not send again by itself, as one that failed may have been carried out.

    Args:
      name: of the object, for messages.
      request: sends it, and returns the answer.
      attempts: after the first; None: one after each of `PAUSES`.
      on_conflict: called where a later attempt finds what the first may have done; returns the answer that was lost,
        or None where another one did it.
    """
    attempts = len(PAUSES) if attempts is None else attempts
    for attempt in range(attempts + 1):
        try:
            with asking(name):
                return request()
        except (FileExistsError, FileNotFoundError):
            answer = on_conflict() if attempt else None
            if answer is None:
                raise
            return answer
        except RefusedError:
            raise
        except UserError:
            if attempt == attempts:
                raise
        time.sleep(PAUSES[attempt])
    raise AssertionError


def version_of(found: Any) -> dict[str, Any]:
    """The `version` in an answer of obstore."""
    return {key: found[key] for key in ("e_tag", "version") if found.get(key) is not None}


class Written(io.BytesIO):
    """A file in memory that becomes an object when it is closed, unless `failed` is set before."""

    def __init__(self, put: Callable[[bytes], object]) -> None:
        super().__init__()
        self._put, self.failed = put, False

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.failed = kind is not None
        super().__exit__(kind, error, trace)

    def close(self) -> None:
        if not self.closed and not self.failed:
            self.failed = True  # an error of the put is raised once
            self._put(self.getvalue())
        super().close()


class WrittenText(io.TextIOWrapper):
    """The same for text."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.buffer.failed = kind is not None
        super().__exit__(kind, error, trace)


def _brief(error: BaseException) -> str:
    """The cause in the long, nested text of an error of obstore."""
    text = " ".join(str(error).split("\n\nDebug source")[0].split())
    return text[:300] or type(error).__name__
