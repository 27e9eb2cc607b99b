"""Downloads against real servers on loopback: whole or not at all, and on from where they stopped."""

import contextlib
import hashlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import pytest

from his4mae_jax.data.known import download as downloads
from his4mae_jax.data.known.download import download
from his4mae_jax.errors import UserError

BODY = bytes(range(251)) * 2000
SHA = hashlib.sha256(BODY).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Sends `server.body`, its ranges too if `server.ranges`; `server.faults` come first, one a request."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        server, sent = self.server, self.headers.get("Range")
        server.requests.append(sent)
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", sent)[1]) if sent and server.ranges else 0
        if self.headers.get("If-Range", server.etag) != server.etag:
            start = 0
        if start >= len(server.body) > 0 and sent and server.ranges:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.end_headers()
            return
        rest = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        self.send_header("Content-Length", str(len(rest)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        if fault == "cut":
            rest = rest[: len(rest) // 2]
        with contextlib.suppress(ConnectionError):
            for i in range(0, len(rest), server.piece):
                self.wfile.write(rest[i : i + server.piece])
                time.sleep(server.pause)
                if fault == "hang" and i > len(rest) // 3:
                    server.released.wait(20)
                    return


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.body, server.ranges, server.etag, server.faults, server.requests = BODY, True, '"one"', [], []
    server.piece, server.pause, server.released = 50_000, 0, threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/file.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _get(server, folder, **more):
    lines = []
    path = download(server.url, folder / "file.zip", lines.append, **more)
    assert path.read_bytes() == server.body
    assert os.listdir(folder) == ["file.zip"]
    return lines


def test_whole_and_then_left_alone(server, tmp_path):
    _get(server, tmp_path / "new", sha256=SHA)
    _get(server, tmp_path / "new", sha256=SHA)
    assert server.requests == [None]


def test_a_connection_that_breaks_is_taken_up_again(server, tmp_path):
    server.faults = ["cut", 503, "cut"]
    lines = _get(server, tmp_path, sha256=SHA)
    half, rest = len(BODY) // 2, len(BODY) - len(BODY) // 2
    assert server.requests == [None, f"bytes={half}-", f"bytes={half}-", f"bytes={half + rest // 2}-"]
    assert any("503" in line for line in lines)


def test_a_server_that_falls_silent(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT_S", 0.3)
    server.faults = ["hang"]
    _get(server, tmp_path, sha256=SHA)
    assert len(server.requests) == 2 and server.requests[1] is not None


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.ranges, server.faults = False, ["cut"]
    lines = _get(server, tmp_path, sha256=SHA)
    assert any("no range requests" in line for line in lines)


def test_a_file_that_changed_begins_anew(server, tmp_path):
    server.faults = ["cut", 404]
    with pytest.raises(UserError, match="404"):
        _get(server, tmp_path)
    server.body, server.etag = BODY[::-1], '"two"'
    _get(server, tmp_path)
    assert server.requests[-1] is not None  # the rest was requested, and the new file was sent


def test_all_but_the_last_step_was_done(server, tmp_path):
    server.faults = ["cut", 404]
    with pytest.raises(UserError):
        _get(server, tmp_path)
    (tmp_path / "partial.file.zip").write_bytes(BODY)
    _get(server, tmp_path, sha256=SHA)


def test_what_is_longer_than_the_file_is_not_kept(server, tmp_path):
    server.faults = ["cut", 404]
    with pytest.raises(UserError):
        _get(server, tmp_path)
    (tmp_path / "partial.file.zip").write_bytes(BODY + b"more")
    _get(server, tmp_path, sha256=SHA)


def test_a_wrong_hash_is_kept_aside(server, tmp_path):
    with pytest.raises(UserError, match=r"wrong\.file\.zip.*sha256 " + SHA):
        download(server.url, tmp_path / "file.zip", print, sha256="0" * 64)
    assert os.listdir(tmp_path) == ["wrong.file.zip"]


@pytest.mark.parametrize("status, hint", [(404, "not there"), (403, "account")])
def test_refused(server, tmp_path, status, hint):
    server.faults = [status]
    with pytest.raises(UserError, match=f"{server.url}.*{status}.*{hint}"):
        download(server.url, tmp_path / "file.zip", print)
    assert len(server.requests) == 1 and not (tmp_path / "file.zip").exists()


def test_gives_up_after_some_tries(server, tmp_path):
    server.faults = [500] * 50
    with pytest.raises(UserError, match="500.*times in a row.*partial.file.zip"):
        download(server.url, tmp_path / "file.zip", print)
    assert len(server.requests) == downloads.TRIES


def test_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE_S", 0.0)
    with pytest.raises(UserError, match="refused.*check the network"):
        download("http://127.0.0.1:9/file.zip", tmp_path / "file.zip", print)


def test_the_disk_is_checked_first(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "total used free")(1e9, 1e9, 1000))
    with pytest.raises(UserError, match=r"0\.00 GB are free.*data\.root"):
        download(server.url, tmp_path / "file.zip", print)
    assert os.path.getsize(tmp_path / "partial.file.zip") == 0


def test_another_process_at_it(server, tmp_path):
    import fcntl

    with open(tmp_path / "partial.file.zip", "ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            download(server.url, tmp_path / "file.zip", print)


def test_killed_and_run_again(server, tmp_path):
    server.piece, server.pause = 20_000, 0.05
    code = f"from his4mae_jax.data.known.download import download; download({server.url!r}, 'file.zip', print)"
    part = tmp_path / "partial.file.zip"
    path = [p for p in (os.environ.get("PYTHONPATH"), os.getcwd()) if p]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env) as process:
        while process.poll() is None and not (part.exists() and part.stat().st_size > 40_000):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    server.pause = 0
    _get(server, tmp_path, sha256=SHA)
    assert re.fullmatch(r"bytes=[1-9]\d+-", server.requests[-1])
