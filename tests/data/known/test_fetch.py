"""Known data sets: their names as paths, and fetching them from a server on loopback."""

import contextlib
import functools
import hashlib
import http.server
import io
import os
import threading
import zipfile

import numpy as np
import pytest
import tifffile

from his4mae_jax.data import datasets
from his4mae_jax.data.known import betaseg as betaseg_set
from his4mae_jax.data.known import download, epfl, fetch, names, openorganelle
from his4mae_jax.data.known.source import Name
from his4mae_jax.data.ome_zarr.write import create
from his4mae_jax.data.volumes.contrast import Contrast, estimate_contrast
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.errors import UserError

SHAPE = (20, 30, 34)
WHOLE = (slice(None),) * 3


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Python's file server, without range requests; it records the requests."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.requests.append(self.path)
        super().do_GET()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder and the requests to its server; all known data sets come from there."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(betaseg_set, "URL", f"{url}/betaseg.zip")
    monkeypatch.setattr(epfl, "URL", f"{url}/epfl")
    monkeypatch.setattr(openorganelle, "BUCKET", url)
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    with contextlib.closing(server.socket):
        yield folder, server.requests
        server.shutdown()
        thread.join()


def _tiff(array):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, photometric="minisblack")
    return stream.getvalue()


def _cell(seed):
    """Parts of one cell."""
    rng = np.random.default_rng(seed)
    parts = {"source": rng.integers(1, 250, SHAPE, np.uint8)}
    masks = {name: np.zeros(SHAPE, np.uint8) for name in betaseg_set.MASKS}
    masks["nucleus_mask"][:4] = 255
    masks["mitochondria_mask"][8:12, :, 4:] = 1
    masks["granules"] = masks["granules"].astype(np.uint16)
    masks["granules"][14, :, 3:6] = 700
    masks["membrane_full_mask"][:, 1:] = 1
    return {**parts, **masks, "golgi_corrected": masks["nucleus_mask"]}


@pytest.fixture
def betaseg(served, monkeypatch):
    """Puts a tiny BetaSeg zip on the server; returns a function that changes its members."""
    folder, _ = served

    def put(**more):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("../../evil.tif", b"x")
            for seed, cell in enumerate(("high_c1", "high_c4")):
                for part, array in _cell(seed).items():
                    zipped.writestr(f"download/{cell}/{cell}_{part}.tif", more.get(part) or _tiff(array))
        (folder / "betaseg.zip").write_bytes(stream.getvalue())
        monkeypatch.setattr(betaseg_set, "SHA256", hashlib.sha256(stream.getvalue()).hexdigest())

    put()
    return put


def test_names():
    assert names.parse("betaseg:high_c4") == Name("betaseg", "high_c4", "")
    assert names.parse("epfl:training[0:5, :, 2:9]") == Name("epfl", "training", "[0:5, :, 2:9]")
    for path in ("data/cell.tif", "s3://bucket/x", "betaseg", "gs:x", "cell.h5:/raw", "epfl://host/x", "/a/epfl:b"):
        assert names.parse(path) is None, path


def test_betaseg(served, betaseg, tmp_path, tiny):
    root, lines = tmp_path / "data", []
    tiny.data.source, tiny.data.root = "betaseg", str(root)
    tiny.data.train, tiny.data.test = ("high_c1",), "high_c4"
    with pytest.raises(UserError, match="high_c1_source.tif.*his4mae fetch"):
        datasets.training_volumes(tiny, None)
    fetch.fetch(tiny, lines.append)
    assert sorted(os.listdir(root)) == ["betaseg.zip", "high_c1", "high_c4"]
    assert sorted(os.listdir(root / "high_c4")) == sorted(
        f"high_c4_{part}.ome.zarr" for part in ("source", *betaseg_set.MASKS)
    )
    assert not list(tmp_path.rglob("evil*"))
    (volume,) = datasets.training_volumes(tiny, None)
    np.testing.assert_array_equal(volume.read(WHOLE), _cell(0)["source"])
    assert volume.voxel_size_nm == (16, 16, 16)
    target = datasets.target(tiny, None, need_labels=True)
    np.testing.assert_array_equal(target.image.read(WHOLE), _cell(1)["source"])
    labels = target.labels.read(WHOLE)
    assert (labels[:, 0] == IGNORE).all() and (labels[:4, 1:] == 1).all() and (labels[14, 1:, 3:6] == 3).all()
    # As names among files, with a crop; and fetching again asks the server for nothing.
    tiny.data.source, tiny.data.train, tiny.data.test = "files", ("betaseg:high_c1",), "betaseg:high_c4[2:12, :, 3:20]"
    tiny.data.test_labels = tiny.data.test
    again = datasets.target(tiny, None, need_labels=True)
    assert again.class_names == betaseg_set.CLASSES and again.image.shape == (10, 30, 17)
    np.testing.assert_array_equal(again.labels.read(WHOLE), labels[2:12, :, 3:20])
    requests = list(served[1])
    fetch.fetch(tiny, lines.append)
    assert served[1] == requests == ["/betaseg.zip"] and "there already" in lines[-2]


def test_betaseg_as_tiffs_beside_converted_cells(served, betaseg, tmp_path, tiny):
    """A cell unpacked by hand is used as it is, and not fetched."""
    root = tmp_path / "data"
    (root / "download" / "high_c1").mkdir(parents=True)
    for part, array in _cell(5).items():
        (root / "download" / "high_c1" / f"high_c1_{part}.tif").write_bytes(_tiff(array))
    tiny.data.source, tiny.data.root, tiny.data.train = "betaseg", str(root), ("high_c1", "high_c4")
    fetch.fetch(tiny, print)
    one, four = datasets.training_volumes(tiny, None)
    np.testing.assert_array_equal(one.read(WHOLE), _cell(5)["source"])
    np.testing.assert_array_equal(four.read(WHOLE), _cell(1)["source"])
    assert not (root / "high_c1").exists()


def test_a_stopped_unpacking_goes_on(served, betaseg, tmp_path, tiny, monkeypatch):
    tiny.data.source, tiny.data.root, tiny.data.train = "betaseg", str(tmp_path / "data"), ("high_c4",)
    real, calls = betaseg_set.to_ome_zarr, []

    def stopped(*args, **more):
        calls.append(args[1].name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(betaseg_set, "to_ome_zarr", stopped)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(tiny, print)
    with pytest.raises(UserError, match="no such file"):
        datasets.training_volumes(tiny, None)
    fetch.fetch(tiny, print)
    assert served[1] == ["/betaseg.zip"]
    assert len(calls) == 3 + 3  # the third again, and the two that were left
    assert not list((tmp_path / "data" / "high_c4").glob("*.tif"))
    np.testing.assert_array_equal(datasets.training_volumes(tiny, None)[0].read(WHOLE), _cell(1)["source"])


def test_betaseg_that_is_not_what_it_should_be(served, betaseg, tmp_path, tiny, monkeypatch):
    root = tmp_path / "data"
    tiny.data.source, tiny.data.root, tiny.data.train = "betaseg", str(root), ("high_c9",)
    with pytest.raises(UserError, match="high_c9"):
        fetch.fetch(tiny, print)
    assert not served[1]
    tiny.data.train = ("high_c1", "low_c1")  # not in this zip
    with pytest.raises(UserError, match="betaseg.zip.*0 files low_c1/low_c1_source.tif"):
        fetch.fetch(tiny, print)
    (root / "betaseg.zip").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match="betaseg.zip: damaged zip.*delete it"):
        fetch.fetch(tiny, print)
    os.remove(root / "betaseg.zip")
    monkeypatch.setattr(betaseg_set, "SHA256", "0" * 64)
    with pytest.raises(UserError, match="wrong.betaseg.zip.*sha256"):
        fetch.fetch(tiny, print)
    betaseg(nucleus_mask=b"no TIFF")
    with pytest.raises(UserError, match="high_c1_nucleus_mask.tif: not a TIFF"):
        tiny.data.train = ("high_c1",)
        tiny.data.root = str(tmp_path / "other")
        fetch.fetch(tiny, print)


def test_epfl(served, tmp_path, tiny):
    folder, requests = served
    (folder / "epfl").mkdir()
    rng = np.random.default_rng(0)
    image, mask = rng.integers(1, 250, SHAPE, np.uint8), 255 * rng.integers(0, 2, SHAPE, np.uint8)
    (folder / "epfl" / "training.tif").write_bytes(_tiff(image))
    (folder / "epfl" / "training_groundtruth.tif").write_bytes(_tiff(mask))
    tiny.data.root, tiny.data.test, tiny.data.test_labels = str(tmp_path / "data"), "epfl:training", "epfl:training"
    with pytest.raises(UserError, match="training.tif.*his4mae fetch"):
        datasets.target(tiny, None, need_labels=True)
    fetch.fetch(tiny, print)
    target = datasets.target(tiny, None, need_labels=True)
    np.testing.assert_array_equal(target.image.read(WHOLE), image)
    np.testing.assert_array_equal(target.labels.read(WHOLE), mask > 0)
    assert target.image.voxel_size_nm == (5, 5, 5) and target.class_names == epfl.CLASSES
    assert datasets.class_names(tiny) == epfl.CLASSES
    fetch.fetch(tiny, print)
    assert len(requests) == 2
    tiny.data.test = "epfl:testing"
    with pytest.raises(UserError, match="testing.tif.*404"):
        fetch.fetch(tiny, print)
    tiny.data.test = "epfl:third"
    with pytest.raises(UserError, match="third.*training, testing"):
        datasets.target(tiny, None, need_labels=True)
    (folder / "epfl" / "testing.tif").write_text("<html>sign in</html>")
    tiny.data.test = "epfl:testing"
    with pytest.raises(UserError, match="testing.tif: not a TIFF"):
        fetch.fetch(tiny, print)
    assert "wrong.testing.tif" in os.listdir(tmp_path / "data" / "epfl")


@pytest.fixture
def pancreas(served):
    """A volume of the bucket, at 8 nm."""
    data = np.random.default_rng(0).integers(600, 1000, (40, 44, 48)).astype(np.uint16)
    path = openorganelle.VOLUMES["jrc_mus-pancreas-3"].path
    create(served[0] / path, data.shape, data.dtype, (8.0, 8.0, 8.0)).write(data).result()
    return data


def test_openorganelle(served, pancreas, tmp_path, tiny):
    name = "openorganelle:jrc_mus-pancreas-3"
    tiny.data.train, tiny.data.test = (name,), f"{name}[4:30, 0:44, 8:40]"
    (volume,) = datasets.training_volumes(tiny, None)  # streamed; no data.root is needed
    np.testing.assert_array_equal(volume.read(WHOLE), pancreas)
    assert estimate_contrast(volume) == Contrast(658, 955, True)
    tiny.data.root = str(tmp_path / "data")
    lines = []
    fetch.fetch(tiny, lines.append)
    assert any("streamed" in line for line in lines)
    served[1].clear()
    crop = datasets.target(tiny, None, need_labels=False).image
    np.testing.assert_array_equal(crop.read(WHOLE), pancreas[4:30, :, 8:40])
    assert not served[1] and crop.voxel_size_nm == (8, 8, 8)
    assert estimate_contrast(crop) == Contrast(658, 955, True)
    # Another size to train at is another copy: until it is made, the crop is streamed.
    tiny.data.voxel_size_nm = 16.0
    coarse = datasets.target(tiny, None, need_labels=False).image
    assert served[1] and coarse.shape == (13, 22, 16) and coarse.voxel_size_nm == (16, 16, 16)


def test_windows_of_the_config_go_before_known_ones(served, pancreas, tiny):
    tiny.data.train = ("openorganelle:jrc_mus-pancreas-3",)
    tiny.data.contrast_window, tiny.data.invert = (600, 1000), True
    (volume,) = datasets.training_volumes(tiny, None)
    assert estimate_contrast(volume) == Contrast(600, 1000, False)  # inverted twice


def test_every_entry_has_a_window_when_it_is_inverted():
    for name, entry in openorganelle.VOLUMES.items():
        assert entry.url.startswith(f"s3://janelia-cosem-datasets/{name}/{name}.")
        assert entry.window or not entry.invert
    with pytest.raises(UserError, match="pancreas-9.*jrc_mus-pancreas-1"):
        openorganelle.find_entry("jrc_mus-pancreas-9")


def test_copies_of_different_crops_have_different_names(tmp_path):
    crops = ("[0:5, 1:6, 2:7]", "[0:5, 1:6, 2:]", "[0:51, :6, 2:7]", "[:5, 1:6, 2:7]", "[0:5, 1:62, :7]")
    paths = {
        openorganelle.copy_path(tmp_path, Name("openorganelle", "v", crop), nm)
        for crop in crops
        for nm in (None, 8.0, 16.0)
    }
    assert len(paths) == 3 * len(crops)


def test_nothing_to_fetch(tiny, tmp_path):
    tiny.data.train = (str(tmp_path / "cell.tif"),)
    with pytest.raises(UserError, match="no known data set"):
        fetch.fetch(tiny, print)
    tiny.data.train = ("epfl:training",)
    with pytest.raises(UserError, match="data.root is empty"):
        fetch.fetch(tiny, print)
    tiny.data.train_labels = ("openorganelle:jrc_mus-pancreas-1",)
    with pytest.raises(UserError, match="no ground truth"):
        names.labels(names.parse(tiny.data.train_labels[0]), "data")


def test_a_source_is_a_prefix(tiny):
    assert names.qualify("high_c1", "betaseg") == "betaseg:high_c1"
    assert names.qualify("epfl:training", "betaseg") == "epfl:training"
    assert names.qualify("cell.tif", "files") == "cell.tif" and names.qualify("", "betaseg") == ""
    tiny.data.source, tiny.data.train = "betaseg", ("high_c1",)
    with pytest.raises(UserError, match="data.root is empty: give the folder of betaseg's files"):
        datasets.training_volumes(tiny, None)
    assert datasets.class_names(tiny) == betaseg_set.CLASSES
