"""Paths in a bucket, with the methods of `pathlib.Path` that workdirs need.

They are no `os.PathLike`: what opens files by itself, on the local disk, refuses them, and makes no folder "s3:" there.
A bucket has objects and no folders: a folder is there while an object is in it, and making one does nothing.
"""

import contextlib
import fnmatch
import functools
import io
import os
import pathlib
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple, Self

from his4mae_jax.bucket import access
from his4mae_jax.bucket.requests import Written, WrittenText, again, asking, version_of
from his4mae_jax.errors import UserError

_URL = re.compile(r"(gs|gcs|s3)://([^/?#]*)(.*)", re.DOTALL)


class Stat(NamedTuple):
    """What a store says of an object: of the result of `os.stat`, the members that it knows."""

    st_size: int
    st_mtime_ns: int


class BucketPath:
    """An object, or a folder of objects, in a bucket.

    Methods raise `FileNotFoundError` where an object is missing, and `UserError` where the store cannot be reached or
    refuses.
    """

    def __init__(self, scheme: str, bucket: str, key: str | pathlib.PurePosixPath = "") -> None:
        self.scheme, self.bucket, self._key = scheme, bucket, pathlib.PurePosixPath(key)
        if scheme == "s3":
            access.sign(bucket)

    @property
    def key(self) -> str:
        """Name of the object in its bucket; empty for the bucket itself."""
        return "" if self._key == pathlib.PurePosixPath() else str(self._key)

    @property
    def name(self) -> str:
        """The last part."""
        return self._key.name or self.bucket

    @property
    def stem(self) -> str:
        """The last part, without its suffix."""
        return self._key.stem

    @property
    def suffix(self) -> str:
        """The suffix of the last part."""
        return self._key.suffix

    @property
    def parent(self) -> Self:
        """The folder that it is in."""
        return self._at(self._key.parent)

    def _at(self, key: str | pathlib.PurePosixPath) -> Self:
        return type(self)(self.scheme, self.bucket, key)

    def __truediv__(self, other: str | pathlib.PurePath) -> Self:
        return self._at(self._key / other)

    def with_name(self, name: str) -> Self:
        """The same with another last part."""
        return self._at(self._key.with_name(name))

    def with_suffix(self, suffix: str) -> Self:
        """The same with another suffix."""
        return self._at(self._key.with_suffix(suffix))

    def relative_to(self, other: "BucketPath") -> pathlib.PurePosixPath:
        """The path from another one, which it is below; `ValueError` where it is not."""
        if (self.scheme, self.bucket) != (other.scheme, other.bucket):
            raise ValueError(f"{self} is not below {other}")
        return self._key.relative_to(other._key)

    def absolute(self) -> Self:
        """Itself."""
        return self

    resolve = expanduser = absolute

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __repr__(self) -> str:
        return f"BucketPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and str(self) == str(other)

    def __lt__(self, other: "BucketPath") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def kvstore(self) -> dict[str, Any]:
        """TensorStore's key-value store specification of this folder."""
        return {**access.array_spec(self.scheme, self.bucket), "path": f"{self.key}/"}

    @property
    def store(self) -> Any:
        """The obstore store of the bucket."""
        return access.store(self.scheme, self.bucket)

    def version(self) -> dict[str, Any] | None:
        """What names the present content of an object (`e_tag`, `version`); None where there is none."""
        try:
            with asking(self):
                found = self.store.head(self.key)
        except FileNotFoundError:
            return None
        return version_of(found)

    def stat(self) -> "Stat":
        """Size and time of the object."""
        with asking(self):
            found = self.store.head(self.key)
        return Stat(found["size"], int(found["last_modified"].timestamp() * 1e9))

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return bool(self.key) and self.version() is not None

    def is_dir(self) -> bool:
        """Whether there are objects in this folder."""
        with asking(self):
            return any(True for part in self.store.list(self.key or None, chunk_size=1) for _ in part)

    def exists(self) -> bool:
        """Whether there is an object of this name, or one in this folder."""
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        """Buckets have no links."""
        return False

    def read_bytes(self) -> bytes:
        """The content of the object."""
        with asking(self):
            return bytes(self.store.get(self.key).bytes())

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The content of the object, as text."""
        return self.read_bytes().decode(encoding, errors)

    def download(self, target: pathlib.Path) -> None:
        """Writes the content of the object to a local file, piece by piece."""

        def get() -> None:
            with open(target, "wb") as file:
                for piece in self.store.get(self.key):
                    file.write(piece)

        again(self, get, attempts=2)

    def put(self, content: bytes | pathlib.Path, mode: str | dict[str, Any] = "overwrite") -> dict[str, Any]:
        """Writes the object whole: a reader finds the old one or the new one.

        Args:
          content: bytes, or a local file.
          mode: "overwrite"; "create": only where there is none; or a `version`: only where the object is that one.

        Returns:
          The new `version`.

        Raises:
          FileExistsError: the condition is not met.
        """
        if mode == "overwrite":
            put = functools.partial(self.store.put, self.key, content)
            return version_of(again(self, put, attempts=2 if isinstance(content, pathlib.Path) else 0))
        put = functools.partial(self.store.put, self.key, content, mode=mode, use_multipart=False)
        return version_of(again(self, put, on_conflict=lambda: self._if_it_is(content)))

    def _if_it_is(self, content: bytes) -> dict[str, Any] | None:
        """The version of the object where it has this content already; None where it has not."""
        with contextlib.suppress(FileNotFoundError):
            if self.read_bytes() == content:
                return self.version()
        return None

    def write_bytes(self, content: bytes) -> int:
        """Writes the object whole."""
        self.put(bytes(content))
        return len(content)

    def write_text(self, text: str, encoding: str = "utf-8", newline: str | None = None) -> int:
        """Writes the object whole, with the text's line endings as they are."""
        return self.write_bytes(text.encode(encoding))

    def open(self, mode: str = "r", encoding: str = "utf-8", newline: str | None = None) -> IO[Any]:
        """The object as a file in memory, which is put when it is closed if `mode` is "w" or "wb"."""
        if "r" in mode:
            stream = io.BytesIO(self.read_bytes())
            return stream if "b" in mode else io.TextIOWrapper(stream, encoding, newline=newline)
        if "w" not in mode:
            raise ValueError(f"mode {mode!r}: objects are read, or written whole")
        written = Written(self.write_bytes)
        return written if "b" in mode else WrittenText(written, encoding, newline=newline)

    def touch(self, exist_ok: bool = True) -> None:
        """Writes an empty object."""
        self.write_bytes(b"")

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there with its first object."""

    def rmdir(self) -> None:
        """Nothing: a folder is gone with its last object."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object."""
        try:
            again(self, functools.partial(self.store.delete, self.key), on_conflict=dict)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def keys(self) -> list[str]:
        """Names of all objects below this folder, relative to it, in order."""
        with asking(self):
            found = [each["path"] for part in self.store.list(self.key or None, chunk_size=1000) for each in part]
        return sorted(key.removeprefix(f"{self.key}/") for key in found)

    def iterdir(self) -> Iterator[Self]:
        """The objects and folders in this folder."""
        with asking(self):
            found = self.store.list_with_delimiter(self.key or None)
        names = {*found["common_prefixes"], *(each["path"] for each in found["objects"])}
        return (self._at(name) for name in sorted(names))

    def glob(self, pattern: str) -> Iterator[Self]:
        """Objects and folders whose path below this one fits a pattern of `/`, `*` and `?`."""
        first, _, rest = pattern.partition("/")
        if not re.search(r"[*?\[]", first):
            found = self / first
            if rest or found.exists():
                yield from found.glob(rest) if rest else [found]
            return
        for path in self.iterdir():
            if fnmatch.fnmatchcase(path.name, first):
                yield from path.glob(rest) if rest else [path]


Place = pathlib.Path | BucketPath
PathLike = str | os.PathLike | BucketPath


def is_bucket(path: Any) -> bool:
    """Whether a path or its text names a place in a bucket."""
    return isinstance(path, BucketPath) or (isinstance(path, str) and bool(_URL.match(path)))


def place(path: PathLike) -> Place:
    """A workdir, or a path in one, from its text: a `pathlib.Path`, or a `BucketPath` for gs:// and s3://.

    Raises:
      UserError: the URL names no bucket and folder, or has options.
    """
    if isinstance(path, BucketPath):
        return path
    if isinstance(path, pathlib.PurePath) and path.parts[:1] in (("gs:",), ("gcs:",), ("s3:",)):
        raise UserError(f"{path}: pathlib has no paths of buckets; give the URL as text")
    match = _URL.fullmatch(path) if isinstance(path, str) else None
    if match is None:
        return pathlib.Path(path)
    scheme, bucket, key = match[1].replace("gcs", "gs"), match[2], match[3].strip("/")
    if not bucket or not key:
        raise UserError(f"{path}: names no folder in a bucket; give {scheme}://BUCKET/FOLDER")
    if re.search(r"[?#]", match[3]):
        raise UserError(
            f"{path}: a workdir in a bucket takes no options; give the address of another server by "
            + (access.S3_ENDPOINTS[0] if scheme == "s3" else access.GCS_ENDPOINT)
        )
    if ".." in key.split("/"):
        raise UserError(f"{path}: .. has no meaning in a bucket; write the path without it")
    return BucketPath(scheme, bucket, key)
