"""What a store can do, tried before a run: some stores take no notice of the condition of a put."""

import uuid
from collections.abc import Callable

from his4mae_jax.bucket.path import BucketPath
from his4mae_jax.errors import UserError

_conditional: dict[tuple[str, str], bool] = {}


def is_conditional(folder: BucketPath) -> bool:
    """Whether a put into this bucket with the condition that there is no such object fails where there is one.

    An object is written to the folder and removed again, once for each bucket and process.

    Raises:
      UserError: the bucket cannot be reached, is not there, or may not be written to.
    """
    name = folder.scheme, folder.bucket
    if name not in _conditional:
        path = folder / f".probe-{uuid.uuid4().hex}"
        try:
            path.put(b"first", "create")
        except FileNotFoundError as error:
            raise UserError(f"{folder}: there is no bucket {folder.bucket}; create it, or correct the name") from error
        except FileExistsError as error:  # a store that refuses all conditions
            raise UserError(f"{folder}: the store refuses conditional puts ({error}); use another one") from error
        try:
            path.put(b"second", "create")
            _conditional[name] = False
        except FileExistsError:
            _conditional[name] = True
        finally:
            path.unlink(missing_ok=True)
    return _conditional[name]


def check(folder: BucketPath, log: Callable[[str], object]) -> None:
    """Tries the store, and says it where nothing keeps two runs apart.

    Raises:
      UserError: as `is_conditional`.
    """
    if not is_conditional(folder):
        log(
            f"warning: {folder}: the store takes no notice of the condition of a put, so that nothing keeps a second "
            "run out of this workdir; see to it that only one runs"
        )
