"""Download a file so that it is there whole or not at all, and goes on where it stopped."""

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

from his4mae_jax.errors import UserError
from his4mae_jax.files import write_json, writing

TRIES = 6  # in a row without a byte received
PAUSE_S = 1.0  # before the second try, doubled before each further one
TIMEOUT_S = 60.0  # without an answer or a byte
_CHUNK = 1 << 20
_TELL_EVERY_S = 10.0
_PASSING = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError)
_HOPELESS = {400, 401, 403, 404, 405, 410, 451}  # statuses that another try does not change


def need_space(folder: str | os.PathLike, n_bytes: int, what: str) -> None:
    """Raises `UserError` unless the disk of `folder` (or of the nearest parent there is) has `n_bytes` free."""
    there = pathlib.Path(folder).absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < n_bytes:
        raise UserError(
            f"{folder}: {what} needs {n_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; free some space, or set "
            "--config.data.root to a folder on another disk"
        )


def download(url: str, path: str | os.PathLike, log, *, sha256: str | None = None) -> pathlib.Path:
    """Downloads `url` to `path`, unless it is there already.

    What arrives is kept in `partial.<name>` beside it. A download that was cut short goes on from there when the
    server can send a part of a file and the file is still the same one (ETag or date); else it begins anew.

    Args:
      path: the file to make; its folder is made as needed.
      log: told what happens, and every few seconds how far it is.
      sha256: of the file, in hexadecimal; None: the length alone is checked.

    Returns:
      The path, of a file that is complete and has that hash.

    Raises:
      UserError: the server refuses or stays silent, the disk is too small, another process downloads the same
        file, or the hash is wrong; then the file is kept as `wrong.<name>`.
    """
    path = pathlib.Path(path)
    if path.exists():
        return path
    part = path.with_name(f"partial.{path.name}")
    facts = part.with_name(f"{part.name}.json")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"{part}: another process is downloading this file; wait for it to end") from error
            _fill(url, stream, facts, log)
            stream.flush()
            os.fsync(stream.fileno())
            if sha256:
                log(f"fetch: checking the sha256 of {path.name}")
                _check_hash(part, path.with_name(f"wrong.{path.name}"), sha256, url, facts)
            os.replace(part, path)
        facts.unlink(missing_ok=True)
    return path


def _check_hash(part: pathlib.Path, aside: pathlib.Path, sha256: str, url: str, facts: pathlib.Path) -> None:
    with open(part, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256.lower():
        os.replace(part, aside)
        facts.unlink(missing_ok=True)
        raise UserError(
            f"{aside}: what {url} sent has the sha256 {found}, not {sha256}; it is kept under this name and not used. "
            "Run the same command to download it again; if that ends the same, the file was changed at its source"
        )


def _fill(url: str, stream, facts: pathlib.Path, log) -> None:
    """Appends to `stream` what is missing of `url`, over as many connections as that takes."""
    part = facts.with_suffix("")
    failures, most = 0, stream.tell()
    while True:
        try:
            with _connect(url, stream, facts, log) as answer:
                total = _receive(answer, stream, part, log) if answer else None
            if total is None or stream.tell() >= total:
                return
            problem = f"the connection ended after {stream.tell():,} of {total:,} bytes"
        except urllib.error.HTTPError as error:
            if error.code in _HOPELESS:
                hint = "the file is not there" if error.code in (404, 410) else "it may need an account"
                raise UserError(
                    f"{url}: the server answers {error.code} {error.reason} ({hint}); check the address in a browser"
                ) from error
            problem = f"the server answers {error.code} {error.reason}"
        except _PASSING as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        failures = 1 if stream.tell() > most else failures + 1
        most = max(most, stream.tell())
        if failures >= TRIES:
            raise UserError(
                f"{url}: {problem}, {TRIES} times in a row; check the network and run the same command to go on "
                f"(what arrived is kept in {part})"
            )
        log(f"fetch: {problem}; trying again")
        time.sleep(PAUSE_S * 2 ** (failures - 1))


def _receive(answer, stream, part: pathlib.Path, log) -> int | None:
    """Appends what the server sends until it ends; returns the length of the whole file when known."""
    total, told = _total(answer), time.monotonic()
    of_total = f" of {total / 1e6:,.1f}" if total else ""
    if total:
        need_space(part.parent, total - stream.tell(), f"downloading {part.name.removeprefix('partial.')}")
    while chunk := answer.read1(_CHUNK):  # what has come: nothing is lost when the server falls silent
        stream.write(chunk)
        if time.monotonic() - told > _TELL_EVERY_S:
            told = time.monotonic()
            log(f"fetch: {part.name.removeprefix('partial.')}: {stream.tell() / 1e6:,.1f}{of_total} MB")
    return total


@contextlib.contextmanager
def _connect(url: str, stream, facts: pathlib.Path, log):
    """The server's answer, with `stream` cut to where it begins; None where nothing is missing."""
    known = _read(facts)
    done = stream.seek(0, os.SEEK_END)
    if done and known.get("url") != url:  # of another file
        done = stream.truncate(0)
    headers = {"User-Agent": "his4mae_jax", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if known.get("version"):
            headers["If-Range"] = known["version"]
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        with error:  # the range lies beyond the end: all of it is here, or what is here is of another file
            end = error.headers.get("Content-Range", "").rpartition("/")[2]
        if end == str(done):
            yield None
            return
        stream.truncate(0)
        raise urllib.error.URLError("what was downloaded is longer than the file") from error
    with answer:
        if done and answer.status == 206:
            start = answer.headers.get("Content-Range", "").partition(" ")[2].partition("-")[0]
            if start != str(done):
                raise urllib.error.URLError(f"asked for byte {done}, the server sent from {start or 'nowhere'}")
            log(f"fetch: going on with {url} from {done / 1e6:,.1f} MB")
        else:
            if done:
                log(f"fetch: {url}: the file is new, or its server cannot go on within one")
            log(f"fetch: downloading {url}")
            stream.truncate(0)
            stream.seek(0)
            version = answer.headers.get("ETag", "")
            if not version or version.startswith("W/"):  # a weak tag is no proof of equal bytes
                version = answer.headers.get("Last-Modified", "")
            write_json(facts, {"url": url, "version": version})
        yield answer


def _read(facts: pathlib.Path) -> dict:
    try:
        return json.loads(facts.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _total(answer) -> int | None:
    """Bytes of the whole file, when the server says."""
    if answer.status == 206:
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None
