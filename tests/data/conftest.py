"""How a bad volume is refused, and a web server that serves a folder, well or badly."""

import functools
import http.server
import os
import pathlib
import threading
import time

import pytest

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

os.environ["HIS4MAE_STALL_SECONDS"] = "1"  # before the first request of this process


@pytest.fixture
def refusal():
    """Function that opens a bad volume and returns the one line, which names its path."""

    def refusal(path, *args, **kwargs):
        with pytest.raises(UserError) as caught:
            open_volume(path, *args, **kwargs)
        message = str(caught.value)
        assert "\n" not in message and os.fspath(path) in message
        return message

    return refusal


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; those whose path contains a key of `faults` fail as its value says."""

    def __init__(self, *args, faults, requests, **kwargs):
        self.faults, self.requests = faults, requests
        super().__init__(*args, **kwargs)

    def log_message(self, *args):
        pass

    def end_headers(self):
        self.send_header("ETag", '"1"')  # TensorStore wants one of S3
        super().end_headers()

    def _send_range(self):
        content = pathlib.Path(self.translate_path(self.path)).read_bytes()
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        low = int(first) if first else max(0, len(content) - int(last))
        high = min(int(last) + 1, len(content)) if first and last else len(content)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {low}-{high - 1}/{len(content)}")
        self.send_header("Content-Length", str(high - low))
        self.end_headers()
        self.wfile.write(content[low:high])

    def do_GET(self):
        self.requests.append(self.path)
        fault = next((fault for part, fault in self.faults.items() if part in self.path), None)
        if isinstance(fault, list):  # one after the other
            fault = fault.pop(0) if fault else None
        if fault is None and "Range" in self.headers:
            self._send_range()
        elif fault is None:
            super().do_GET()
        elif isinstance(fault, int):
            self.send_error(fault)
        elif fault == "hang":
            time.sleep(3)
        elif fault == "cut":  # the server dies in the middle of an answer
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"some bytes")
            self.wfile.flush()
            self.close_connection = True
        else:  # other content than is stored there
            self.send_response(200)
            self.send_header("Content-Length", str(len(fault)))
            self.end_headers()
            self.wfile.write(fault)


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # all chunks of a read at once: one turned away tries again after a second


class _Server:
    """A server of `folder` on loopback: `url`, `faults` by part of a path, `requests` so far, `stop()`."""

    def __init__(self, folder):
        self.faults, self.requests = {}, []
        handler = functools.partial(_Handler, directory=folder, faults=self.faults, requests=self.requests)
        self._server = _Listener(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def stop(self):
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@pytest.fixture
def web(tmp_path):
    """A web server of `tmp_path`."""
    server = _Server(tmp_path)
    yield server
    server.stop()
