"""Atomic JSON and text files, YAML of users, names for files, and one-line errors of disks that refuse a write."""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping
from typing import IO, Any

import yaml

from his4mae_jax.bucket import transfer
from his4mae_jax.bucket.path import BucketPath, PathLike, Place, is_bucket
from his4mae_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_REMEDIES = (
    ((errno.ENOSPC, errno.EDQUOT), "no space left on the device or quota used up; free some space or write elsewhere"),
    (
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "no permission to write there; change the access rights or write elsewhere",
    ),
    ((errno.ENOTDIR, errno.EEXIST), "a file stands where a folder is needed; write elsewhere"),
    ((errno.EISDIR,), "a folder stands where a file is needed; move it, or write elsewhere"),
    ((errno.EFBIG,), "a file would be larger than the disk or a limit allows; raise `ulimit -f`, or write elsewhere"),
    ((errno.ENAMETOOLONG,), "the path, or a name in it, is too long for the disk; choose shorter ones"),
)


def slug(name: str, separator: str = "-") -> str:
    """Reduces a name to the letters a to z and digits, for the name of a file or folder.

    Args:
      name: any text; accents are dropped, "Élan" becomes "elan".
      separator: replaces every run of other characters between letters or digits.

    Returns:
      The reduced name; empty if nothing is left.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return separator.join(re.findall(r"[a-z0-9]+", plain))


def slugs(names: Mapping[int, str]) -> dict[int, str]:
    """Reduces the names of labels to parts of file names, no two alike.

    They have no underscore, which separates the parts of CellSketch's `<prefix>_<name>_mask.tif`. Of names that would
    become equal, all but the first get their id; a name without any plain letter or digit becomes `class<id>`.

    Args:
      names: by label id.
    """
    parts: dict[int, str] = {}
    for label, name in names.items():
        part = slug(str(name), separator="") or f"class{label}"
        while part in parts.values():
            part += f"id{label}"
        parts[label] = part
    return parts


def csv_cell(value: Any) -> Any:
    """A value as a cell of a CSV file: text that a spreadsheet would take for a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def write_json(file: Place, value: Any) -> None:
    """Writes JSON atomically: a reader finds the old file or the new one, never a part.

    Args:
      file: to create or replace, in an existing folder, or in a bucket.
      value: what `json.dump` accepts.
    """
    write_text(file, json.dumps(value, indent=2))


def write_text(file: Place, text: str) -> None:
    """Writes a text file atomically, with its line endings as they are; see `write_json`."""
    write_bytes(file, text.encode("utf-8"))


def write_bytes(file: Place, content: bytes) -> None:
    """Writes a file atomically; see `write_json`."""
    if isinstance(file, BucketPath):
        file.write_bytes(content)
        return
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove(path: Place) -> None:
    """Removes a file, a folder with all in it, or a link; does nothing where there is none."""
    if isinstance(path, BucketPath):
        transfer.remove(path)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def lock_file(path: pathlib.Path, *, wait: bool = True) -> IO[str] | None:
    """Opens a file, made where it is missing, and locks it.

    The lock is the operating system's (flock): it ends with the process that holds it, however that ends. On a file
    system without locks the file is open and nothing is locked.

    Args:
      path: of the file.
      wait: whether to wait for another process that holds it.

    Returns:
      The open file, which holds the lock until it is closed; None where another process has it and `wait` is False.
    """
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            pass  # a file system without locks
    return file


def parse_json(content: bytes) -> Any:
    """Parses JSON in UTF-8.

    Raises:
      ValueError: it is none; brackets that are nested too deeply are damage as any other.
    """
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


class _Loader(yaml.SafeLoader):
    """YAML without tags of Python, in which a key that stands twice in an entry is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for i, (key, _) in enumerate(node.value):
            if key.value in keys[:i]:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Place, *, missing: str, remedy: str) -> Any:
    """Reads a YAML file that a user writes; a key that stands twice in an entry is an error.

    Args:
      path: of the file.
      missing: what to do where there is none, to follow "not there; ".
      remedy: what to do where it is no YAML.

    Raises:
      UserError: one line that names the file, and the line of it where there is one.
    """
    try:
        return yaml.load(path.read_text("utf-8"), _Loader)
    except FileNotFoundError as error:
        raise UserError(f"{path}: not there; {missing}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); make it a readable UTF-8 text file") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or type(error).__name__).split())
        raise UserError(f"{path}: {where}not YAML ({problem}); {remedy}") from error


def friendly_io_error(error: BaseException, path: PathLike) -> UserError | None:
    """Turns a full disk, missing access rights or a bucket that fails into one clear line.

    TensorStore raises a ValueError or RuntimeError with the system's error number, or what a bucket answered, in its
    text.

    Args:
      error: any exception.
      path: that was written to.

    Returns:
      A UserError naming `path` and the remedy; None if the error is something else.
    """
    if is_bucket(path):
        told = _bucket_error(error, path)
        if told is not None:
            return told
        path = getattr(error, "filename", None) or tempfile.gettempdir()  # what is written there before it is sent
    number = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if number is None:
        match = re.search(r"os_error_code='(\d+)'", str(error))
        number = int(match.group(1)) if match else None
    for numbers, remedy in _REMEDIES:
        if number in numbers or (number is None and any(os.strerror(n) in str(error) for n in numbers)):
            return UserError(f"{os.fspath(path)}: {remedy}")
    return None


def _bucket_error(error: BaseException, path: str | BucketPath) -> UserError | None:
    text = " ".join(str(error).split())
    if text.startswith(("PERMISSION_DENIED", "UNAUTHENTICATED")):
        return UserError(f"{path}: access refused ({text[:200]}); check the credentials, and what they may do there")
    if isinstance(error, FileNotFoundError) and is_bucket(text):
        return UserError(f"{text}: gone from the bucket while this run needed it; run the same command again")
    if text.startswith(("UNAVAILABLE", "ABORTED", "UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "NOT_FOUND")):
        return UserError(
            f"{path}: the store cannot be reached, or failed ({text[:200]}); run the same command again: what is done "
            "is kept"
        )
    return None


@contextlib.contextmanager
def writing(path: PathLike) -> Iterator[None]:
    """Wraps writes to `path`: errors that `friendly_io_error` knows are raised as its UserError."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        friendly = friendly_io_error(error, path)
        if friendly is None:
            raise
        raise friendly from error
