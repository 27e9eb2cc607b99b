"""A signed URL of a volume: what is kept of a segmentation has no signature in it, and another signature goes on."""

import functools
import http.server
import threading

import numpy as np
import pytest

from his4mae_jax.data.ome_zarr import write as ome_zarr


@pytest.fixture
def server(tmp_path):
    """A server of a folder with the volume signed.zarr; yields its address."""
    values = np.random.default_rng(0).integers(1, 255, (24, 40, 36), dtype=np.uint8)
    ome_zarr.create(tmp_path / "signed.zarr", values.shape, np.uint8, 8.0, chunks=(24, 40, 36)).write(values).result()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}/signed.zarr"
        found.shutdown()
        thread.join()


def test_signatures_are_not_kept(runs, server, capsys):
    workdir = runs.copy("half")
    volume = {"segment__volume": (f"{server}?sig=s3cret",), "segment__keep_features": True}
    assert runs.run(workdir, "segment", **volume) is None
    (folder,) = (workdir / "volumes").glob("signed*")
    kept = {p for p in folder.rglob("*") if p.is_file() and b"s3cret" in p.read_bytes()}
    assert kept <= {folder / "volume.json"}  # which says where to read it again
    assert f"{server}?sig=***" in (folder / "segment.json").read_text()
    capsys.readouterr()
    assert runs.run(workdir, "segment", segment__volume=(f"{server}?sig=another",), segment__keep_features=True) is None
    said = capsys.readouterr().err
    assert "is there, of this checkpoint" in said and "another" not in said
    assert [p.name for p in (workdir / "volumes").glob("signed*")] == [folder.name]


def test_the_error_of_a_server_has_no_signature(runs, server):
    error = runs.run(runs.copy("half"), "segment", segment__volume=(f"{server}.none?sig=s3cret",))
    assert "signed.zarr.none?sig=***" in error
