"""Files of centres as they are on disk: opened, and told apart, without a model or JAX."""

import contextlib
import hashlib
import json
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from his4mae_jax.bucket.path import PathLike, place
from his4mae_jax.errors import UserError


def digest_of(path: PathLike, labels: int) -> str:
    """A hash of what so many labels stand for, from a centres file: of the centres of clusters.

    Classes of a probe are hashed by their names alone: they mean the same whichever labels the probe was fitted on.

    Raises:
      UserError: there is no such file, or it lacks them.
    """
    digest = hashlib.sha256()
    with reading(path) as data:
        classes = json.loads(str(data["facts"])).get("class_names", ())
        if len(classes) == labels:
            digest.update(json.dumps(["classes", *classes]).encode())
        else:
            for key in (f"centres_{labels}", f"projection_{labels}", f"group_{labels}"):
                if key in data.files or not key.startswith("group"):
                    array = np.ascontiguousarray(data[key])
                    digest.update(f"{key} {array.dtype.str} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


_FAULTS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, IndexError, OverflowError, RecursionError,
    NotImplementedError, SyntaxError, MemoryError, struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@contextlib.contextmanager
def reading(path: PathLike) -> Iterator[Any]:
    """Opens a centres file, as `np.load` does; whatever is wrong with it is a UserError that names the file."""
    try:
        # np.load leaves a path open that it cannot read
        with place(path).open("rb") as stream, np.load(stream) as data:
            yield data
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such centres file; correct segment.centres_file, or segment (again) to write it"
        ) from error
    except _FAULTS as error:
        problem = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(
            f"{path}: damaged, or not a centres file ({problem}); where segment.centres_file names it give another, "
            "else delete it and segment again"
        ) from error
