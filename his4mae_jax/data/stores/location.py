"""Read chunked volumes from a local folder, a web server, or an S3 or Google Cloud bucket.

A request with a transient failure (no connection, a time-out, HTTP status 408, 429, 500 to 504) is tried `ATTEMPTS`
times. If it still fails, or is refused, that is an error, never a block of zeros. Only "not found" (status 404, no such
file) counts as an absent chunk.

Environment variables:

- `HIS4MAE_S3_ENDPOINT` (or `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`): an S3 server other than Amazon's;
- `AWS_REGION`;
- `HIS4MAE_S3_CREDENTIALS`: "anonymous" (default, but for the bucket of a workdir), or "default", "environment" or
  "profile" to sign requests with your AWS credentials;
- `HIS4MAE_STALL_SECONDS` (30): a transfer without a byte for so long has failed.
"""

import collections
import dataclasses
import functools
import os
import pathlib
import re
from typing import Any

import tensorstore as ts

from his4mae_jax.data.stores.units import brief
from his4mae_jax.errors import UserError
from his4mae_jax.files import parse_json

ATTEMPTS = 5  # per request
FIRST_DELAY, LONGEST_DELAY = "0.5s", "8s"  # between attempts; doubles each time
# Time limit of a read, beyond the stall limit: for servers that send a few bytes now and then.
READ_SECONDS, READ_BYTES_PER_SECOND = 600.0, 1e6
# TensorStore hands the exceptions of its threads on, but now and then says no more than this of one.
_UNTOLD, _raised = "Python error", collections.deque(maxlen=64)


@dataclasses.dataclass(frozen=True)
class Location:
    """A folder in one of TensorStore's key-value stores.

    Attributes:
      name: path or URL, for messages.
      store: TensorStore's key-value store specification, without a path.
      path: of the folder in the store; empty or ending in "/".
      remote: whether it is on another machine.
    """

    name: str
    store: dict[str, Any]
    path: str
    remote: bool

    @property
    def zipped(self) -> bool:
        """Whether it lies in a zip file."""
        return self.store["driver"] == "zip"

    def entries(self) -> list[str]:
        """Paths of the files below this folder of a zip file.

        Raises:
          UserError: the file cannot be read, or is none.
        """
        try:
            store = ts.KvStore.open(self.spec(), context=context(0)).result(timeout=READ_SECONDS)
            return sorted(key.decode("utf-8", "replace") for key in store.list().result(timeout=READ_SECONDS))
        except (ValueError, OSError, NotImplementedError) as error:
            raise explain(self.name, error, remote=self.remote) from error

    @property
    def on_disk(self) -> bool:
        """Whether it is a folder of a local disk, whose path is `path`."""
        return self.store["driver"] == "file"

    def child(self, path: str) -> "Location":
        """Returns the folder `path` inside this one."""
        path = path.strip("/")
        if not path:
            return self
        base, _, query = self.name.partition("?")
        name = f"{base.rstrip('/')}/{path}" + (f"?{query}" if query else "")
        return dataclasses.replace(self, name=name, path=f"{self.path}{path}/")

    def parent(self) -> tuple["Location", str] | None:
        """Returns (the parent folder, this folder's name in it); None at the root."""
        path = self.path.rstrip("/")
        if self.on_disk:
            path = str(pathlib.Path(path).resolve())
        head, _, tail = path.rpartition("/")
        if not tail or (self.on_disk and not head):
            return None
        name = self.name.partition("?")[0].rstrip("/").rpartition("/")[0] or self.name
        head = f"{head}/" if head or self.on_disk else ""
        return dataclasses.replace(self, name=head.rstrip("/") if self.on_disk else name, path=head), tail

    def spec(self) -> dict[str, Any]:
        """Returns TensorStore's key-value store specification of this folder."""
        return {**self.store, "path": self.path}

    def read(self, *keys: str) -> dict[str, bytes]:
        """Reads files of this folder concurrently.

        Args:
          keys: paths relative to this folder.

        Returns:
          The contents of those files that exist.

        Raises:
          UserError: the store cannot be reached, or refuses every file.
        """
        try:
            store = ts.KvStore.open(self.spec(), context=context(0)).result(timeout=READ_SECONDS)
            pending = {key: store.read(key) for key in keys}
        except (ValueError, OSError, NotImplementedError) as error:
            raise explain(self.name, error, remote=self.remote) from error
        contents, refused = {}, None
        for key, future in pending.items():
            try:
                answer = future.result(timeout=READ_SECONDS)
            except (ValueError, OSError) as error:
                # Buckets without permission to list answer 403 for a missing file.
                if not self.remote or "PERMISSION_DENIED" not in str(error):
                    raise explain(self.name, error, remote=self.remote) from error
                refused = error
            else:
                if answer.state == "value":
                    contents[key] = bytes(answer.value)
        if refused and not contents:
            raise explain(self.name, refused, remote=True) from refused
        return contents

    def read_json(self, *keys: str) -> dict[str, dict[str, Any]]:
        """Like `read`, for files that each hold a JSON object; UserError if one does not."""
        return {key: self.json_object(key, value) for key, value in self.read(*keys).items()}

    def json_object(self, key: str, value: bytes) -> dict[str, Any]:
        """Parses `value`, the content of the file `key` of this folder, as a JSON object; UserError if it is none."""
        try:
            content = parse_json(value)
        except ValueError as error:
            raise UserError(
                f"{self.child(key).name}: damaged metadata, not JSON ({brief(error)}); copy or write the volume again"
            ) from error
        if not isinstance(content, dict):
            raise UserError(f"{self.child(key).name}: damaged metadata, not a JSON object; write the volume again")
        return content


@functools.cache
def _limit_stalls() -> None:
    """Sets TensorStore's stall limits; it reads them once, at its first request."""
    seconds = os.environ.get("HIS4MAE_STALL_SECONDS", "30")
    os.environ.setdefault("TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS", seconds)
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", seconds)
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")


def context(cache_bytes: int, threads: int | None = None) -> ts.Context:
    """Returns a new TensorStore context with retries, a cache of `cache_bytes`, and threads of its own if need be.

    Each array has its own: a shared cache would return stale chunks of a path that was rewritten.
    """
    _limit_stalls()
    retries = {"max_retries": ATTEMPTS, "initial_delay": FIRST_DELAY, "max_delay": LONGEST_DELAY}
    kinds = ("http_request_retries", "s3_request_retries", "gcs_request_retries")
    own = {"data_copy_concurrency": {"limit": threads}} if threads else {}
    return ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}, **own, **{kind: retries for kind in kinds}})


class UnsupportedMetadata(UserError):
    """TensorStore does not read the metadata of an array."""


def open_array(
    driver: str,
    location: Location,
    missing_chunks: str,
    cache_bytes: int,
    *,
    overlay: dict[str, bytes] | None = None,
    **more: Any,
) -> ts.TensorStore:
    """Opens a chunked array for reading.

    Args:
      driver: name of the TensorStore driver.
      location: folder of the array.
      missing_chunks: "fill" or "error", see `OpenOptions`.
      cache_bytes: limit of decoded chunks kept in memory.
      overlay: contents of files that are read in place of the stored ones.
      more: further members of the TensorStore specification.

    Raises:
      UserError: the store cannot be read; `UnsupportedMetadata` where the metadata are damaged or not supported.
    """
    own, store = context(cache_bytes), location.spec()
    if overlay:
        memory = ts.KvStore.open({"driver": "memory"}, context=own).result()
        for file, content in overlay.items():
            memory.write(file, content).result()
        layers = [{"base": {"driver": "memory", "path": file}, "exact": file} for file in overlay]
        store = {"driver": "kvstack", "layers": [{"base": store}, *layers]}
    spec = {
        "driver": driver,
        "kvstore": store,
        "recheck_cached_data": False,
        "fill_missing_data_reads": missing_chunks == "fill",
        **more,
    }
    try:
        return ts.open(spec, context=own, open=True, read=True).result(timeout=READ_SECONDS)
    except (ValueError, OSError, NotImplementedError) as error:
        if _failed_to_reach(error):
            raise explain(location.name, error, remote=location.remote) from error
        raise UnsupportedMetadata(
            f"{location.name}: damaged or unsupported {driver} metadata ({brief(error)}); "
            "copy or write the volume again"
        ) from error


def read_seconds(n_bytes: int, remote: bool) -> float | None:
    """Returns the time limit of a read in seconds; None (no limit) for a local disk."""
    return READ_SECONDS + n_bytes / READ_BYTES_PER_SECOND if remote else None


def _failed_to_reach(error: Exception) -> bool:
    kinds = ("PERMISSION_DENIED", "ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNKNOWN")
    return isinstance(error, TimeoutError | PermissionError) or str(error).startswith(kinds)


def note(error: Exception) -> None:
    """Notes an error that is raised in a thread of TensorStore, for `explain`."""
    if isinstance(error, UserError):
        _raised.append(error)


def explain(name: str, error: Exception, *, remote: bool) -> UserError:
    """Turns a failed read into one line with the cause and the remedy.

    Args:
      name: of the volume.
      error: raised by TensorStore.
      remote: whether the volume is on another machine.
    """
    text, cause = str(error), brief(error)
    if _UNTOLD in text and (told := next((e for e in reversed(_raised) if name in str(e)), None)):
        return told
    file = re.search(r'Error reading local file "([^"]*)"', text)
    if file:
        cause = f"{file.group(1).removeprefix(name.rstrip('/') + '/')}: {cause}"
    if isinstance(error, TimeoutError) or "Timeout was reached" in text or text.startswith("DEADLINE_EXCEEDED"):
        return UserError(f"{name}: time-out, no answer ({cause}); check the network and the server, then run again")
    if isinstance(error, PermissionError) or text.startswith("PERMISSION_DENIED"):
        if not remote:
            return UserError(f"{name}: no permission to read it; check its access rights")
        return UserError(
            f"{name}: access refused ({cause}); check the address and that it is public, for S3 set "
            "HIS4MAE_S3_CREDENTIALS=default to sign requests; a bucket that may not be listed also refuses what it "
            "does not hold"
        )
    if remote and "Requested byte range" in text:
        return UserError(
            f"{name}: the server sends no parts of files, in which zip files and shards are read; copy it to a disk"
        )
    if text.startswith("NOT_FOUND: chunk") or " is missing" in text:
        return UserError(
            f"{name}: a chunk is missing ({cause}); copy the volume again, or set data.missing_chunks to 'fill' if its "
            "writer left out empty chunks"
        )
    if remote and text.startswith(("ABORTED", "UNAVAILABLE", "UNKNOWN", "NOT_FOUND")):
        return UserError(f"{name}: the server failed ({cause}); check the address and the network, then run again")
    return UserError(f"{name}: cannot read the data ({cause}); copy the volume again from its source")
