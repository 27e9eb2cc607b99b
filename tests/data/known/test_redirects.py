"""Redirects while downloading: other servers are followed, files and this network are not."""

import http.server
import threading

import pytest

from his4mae_jax.data.known import redirects
from his4mae_jax.data.known.download import download
from his4mae_jax.errors import UserError


@pytest.fixture
def server():
    """A server on loopback that redirects /to/URL there, and serves /file; yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"data")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:,x"])
def test_no_other_scheme_is_followed(server, tmp_path, target):
    with pytest.raises(UserError, match=f"redirects to {target}, which is no web address"):
        download(f"{server}/to/{target}", tmp_path / "a", print)
    assert not (tmp_path / "a").exists()


def test_a_public_server_does_not_lead_into_this_network(server, tmp_path, monkeypatch):
    address = server.replace("127.0.0.1", "localhost")
    assert download(f"{server}/to/{address}/file", tmp_path / "a", print).read_bytes() == b"data"  # from here to here
    own = redirects.is_own
    monkeypatch.setattr(redirects, "is_own", lambda host: host != "127.0.0.1" and own(host))  # the first is public
    with pytest.raises(UserError, match="an address of this network; not followed"):
        download(f"{server}/to/{address}/file", tmp_path / "b", print)
    assert download(f"{server}/to/{server}/file", tmp_path / "c", print).read_bytes() == b"data"


@pytest.mark.parametrize(("host", "own"), [
    ("127.0.0.1", True), ("localhost", True), ("::1", True), ("10.0.0.1", True), ("169.254.169.254", True),
    ("::ffff:127.0.0.1", True), ("0.0.0.0", True), ("8.8.8.8", False), ("no such host", False),
])  # fmt: skip
def test_addresses_of_this_network(host, own):
    assert redirects.is_own(host) == own
