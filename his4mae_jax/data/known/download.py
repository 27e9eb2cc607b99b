"""Download a file: it appears only when it is complete, and an interrupted download is resumed."""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import pathlib
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO

from his4mae_jax.data.known.redirects import open_url
from his4mae_jax.errors import UserError
from his4mae_jax.files import write_json, writing
from his4mae_jax.progress import Log, progress

TRIES = 6  # in a row without a byte received
PAUSE_S = 1.0  # before the second try, doubled before each further one
TIMEOUT_S = 60.0  # without an answer or a byte
_CHUNK = 1 << 20
_TRANSIENT = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError)
_PERMANENT = {400, 401, 403, 404, 405, 410, 451}  # HTTP statuses that another try does not change


def need_space(folder: str | os.PathLike, n_bytes: int, task: str) -> None:
    """Raises `UserError` unless the disk of `folder` (or of its nearest existing parent) has `n_bytes` free.

    Args:
      folder: where `n_bytes` will be written.
      task: what the space is for, such as "copying cell.tif".
    """
    existing = pathlib.Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < n_bytes:
        raise UserError(
            f"{folder}: {task} needs {n_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; free some space, or set "
            "data.root to a folder on another disk"
        )


def download(url: str, path: str | os.PathLike, log: Log, *, sha256: str | None = None) -> pathlib.Path:
    """Downloads `url` to `path`, unless that file exists.

    Received bytes are kept in `partial.<name>` beside it. An interrupted download continues from there when the server
    supports range requests and the file is still the same (ETag or date); otherwise it starts again.

    Args:
      url: http:// or https://.
      path: the file to make; its folder is made as needed.
      log: prints a line for each connection, and with progress.
      sha256: of the file, in hexadecimal; None: only the length is checked.

    Returns:
      The path of the file, which is complete and has that hash.

    Raises:
      UserError: the server refuses or stays silent, the disk is too small, another process downloads the same
        file, or the hash is wrong; then the file is kept as `wrong.<name>`.
    """
    path = pathlib.Path(path)
    if path.exists():
        return path
    part = path.with_name(f"partial.{path.name}")
    record = part.with_name(f"{part.name}.json")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{part}: another process is downloading this file; wait for it to end") from error
            _fill(url, stream, record, log)
            stream.flush()
            os.fsync(stream.fileno())
            if sha256:
                with progress(f"fetch: checking the sha256 of {path.name}", log=log):
                    _check_hash(part, path.with_name(f"wrong.{path.name}"), sha256, url, record)
            os.replace(part, path)
        record.unlink(missing_ok=True)
    return path


def _check_hash(part: pathlib.Path, aside: pathlib.Path, sha256: str, url: str, record: pathlib.Path) -> None:
    with open(part, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != sha256.lower():
        os.replace(part, aside)
        record.unlink(missing_ok=True)
        raise UserError(
            f"{aside}: the file that {url} sent has the sha256 {digest}, not {sha256}; it is kept under this "
            "name and not used. Run the same command to download it again; if that ends the same, the file has "
            "changed at its source"
        )


def _fill(url: str, stream: BinaryIO, record: pathlib.Path, log: Log) -> None:
    """Appends the missing bytes of `url` to `stream`, over as many connections as that takes."""
    part = record.with_suffix("")
    failures, most = 0, stream.tell()
    while True:
        try:
            with _connect(url, stream, record, log) as answer:
                total = _receive(answer, stream, part, log) if answer else None
            if total is None or stream.tell() >= total:
                return
            problem = f"the connection ended after {stream.tell():,} of {total:,} bytes"
        except urllib.error.HTTPError as error:
            if error.code in _PERMANENT:
                hint = "the file is not there" if error.code in (404, 410) else "it may need an account"
                raise UserError(
                    f"{url}: the server answers {error.code} {error.reason} ({hint}); check the address in a browser"
                ) from error
            problem = f"the server answers {error.code} {error.reason}"
        except _TRANSIENT as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 1 if stream.tell() > most else failures + 1
        most = max(most, stream.tell())
        if failures >= TRIES:
            raise UserError(
                f"{url}: {problem}, {TRIES} times in a row; check the network and run the same command to continue "
                f"(the bytes received are kept in {part})"
            )
        log(f"fetch: {problem}; trying again")
        time.sleep(PAUSE_S * 2 ** (failures - 1))


def _receive(answer: http.client.HTTPResponse, stream: BinaryIO, part: pathlib.Path, log: Log) -> int | None:
    """Appends the server's bytes until they end; returns the length of the whole file when known."""
    total, name = _total(answer), part.name.removeprefix("partial.")
    if total:
        need_space(part.parent, total - stream.tell(), f"downloading {name}")
    left = (total - stream.tell()) / 1e6 if total else None
    with progress(f"fetch: {name}", left, unit="MB", log=log) as bar:
        while chunk := answer.read1(_CHUNK):  # what is buffered: nothing is lost when the server falls silent
            stream.write(chunk)
            bar.advance(len(chunk) / 1e6)
    return total


@contextlib.contextmanager
def _connect(url: str, stream: BinaryIO, record: pathlib.Path, log: Log) -> Iterator[http.client.HTTPResponse | None]:
    """The server's answer, with `stream` cut to where it starts; None where no byte is missing."""
    known = _read(record)
    done = stream.seek(0, os.SEEK_END)
    if done and known.get("url") != url:  # of another file
        done = stream.truncate(0)
    headers = {"User-Agent": "his4mae_jax", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if known.get("version"):
            headers["If-Range"] = known["version"]
    try:
        answer = open_url(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        with error:  # the range starts beyond the end: the file is complete, or these bytes are of another file
            end = error.headers.get("Content-Range", "").rpartition("/")[2]
        if end == str(done):
            yield None
            return
        stream.truncate(0)
        raise urllib.error.URLError("more bytes were received than the file has") from error
    with answer:
        if done and answer.status == 206:
            start = answer.headers.get("Content-Range", "").partition(" ")[2].partition("-")[0]
            if start != str(done):
                raise urllib.error.URLError(f"byte {done} was requested, the server sent from {start or 'nowhere'}")
            log(f"fetch: continuing {url} from {done / 1e6:,.1f} MB")
        else:
            if done:
                log(f"fetch: {url}: starting again (the file has changed, or its server has no range requests)")
            log(f"fetch: downloading {url}")
            stream.truncate(0)
            stream.seek(0)
            version = answer.headers.get("ETag", "")
            if not version or version.startswith("W/"):  # a weak tag does not prove equal bytes
                version = answer.headers.get("Last-Modified", "")
            write_json(record, {"url": url, "version": version})
        yield answer


def _read(record: pathlib.Path) -> dict:
    try:
        return json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _total(answer: http.client.HTTPResponse) -> int | None:
    """Bytes of the whole file; None when the server does not give them."""
    if answer.status == 206:
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None
