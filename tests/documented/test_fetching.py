"""`fetch` of every shipped config from a network that is made up: no byte is downloaded."""

import email.message
import hashlib
import io
import zipfile

import numpy as np
import pytest
import tifffile

from his4mae_jax.cli import command, config_file
from his4mae_jax.data.known import betaseg, download, epfl, openorganelle
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

SHAPE = (6, 8, 10)
EPFL = [f"{epfl.URL}/{half}{part}.tif" for half in ("training", "testing") for part in ("", "_groundtruth")]
CELLS = [f"{cell}/{cell}_{part}" for cell in betaseg.CELLS[:4] for part in ("source", *betaseg.MASKS)]
# Of each config: addresses that are requested, and volumes that are below data.root at the end.
DOWNLOADS = {
    "epfl_hippocampus": (EPFL[:2], ["epfl/training.tif", "epfl/training_groundtruth.tif"]),
    "compare/epfl": (EPFL, [f"epfl/{url.rpartition('/')[2]}" for url in EPFL]),
    "betaseg": ([betaseg.URL], [f"{cell}.ome.zarr" for cell in CELLS]),
    "betaseg_best": ([betaseg.URL], [f"{cell}.ome.zarr" for cell in CELLS]),
    "compare/paper": ([betaseg.URL], [f"{cell}.ome.zarr" for cell in CELLS]),
    "openorganelle": ([], []),  # streamed
}
DRAWN = ("demo", "compare/table3", "compare/ablations", "compare/codebook_size", "compare/long")  # synthetic cells


def _tiff():
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE) + 1, photometric="minisblack")
    return stream.getvalue()


def _zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        for cell in CELLS:
            zipped.writestr(f"download/{cell}.tif", _tiff())
    return stream.getvalue()


class _Answer(io.BytesIO):
    """What `urlopen` returns, as far as `download` reads it."""

    status = 200

    def __init__(self, content):
        super().__init__(content)
        self.headers = email.message.Message()
        self.headers["Content-Length"] = str(len(content))


@pytest.fixture
def requested(monkeypatch):
    """Addresses that were requested from the made-up network, in order."""
    urls, archive = [], _zip()
    monkeypatch.setattr(betaseg, "SHA256", hashlib.sha256(archive).hexdigest())

    def urlopen(request, timeout):
        urls.append(request.full_url)
        return _Answer(archive if request.full_url == betaseg.URL else _tiff())

    monkeypatch.setattr(download, "open_url", urlopen)
    return urls


@pytest.fixture
def fetch(tmp_path):
    """Function: runs `his4mae fetch` for a config, with data.root in `tmp_path`."""

    def run(config, *overrides):
        command.parse(["fetch", f"--config={config}", f"--config.data.root={tmp_path}", *overrides]).run()

    return run


def test_every_shipped_config_has_a_case():
    assert set(config_file.shipped()) == {*DOWNLOADS, *DRAWN, "saved"}


@pytest.mark.parametrize("config", DOWNLOADS)
def test_all_that_a_config_names_is_fetched(config, fetch, requested, tmp_path):
    urls, paths = DOWNLOADS[config]
    fetch(config)
    assert sorted(requested) == sorted(urls)
    for path in paths:
        assert open_volume(tmp_path / path, 5.0, image=False).shape == SHAPE
    left = [path.name for path in tmp_path.rglob("*") if path.name.startswith(("partial.", "unpacked.", "wrong."))]
    assert not left
    fetch(config)  # nothing is downloaded twice
    assert len(requested) == len(urls)


@pytest.mark.parametrize("number", "1234")
def test_a_crop_of_a_streamed_volume_is_copied(number, fetch, requested, tmp_path, monkeypatch, memory):
    opened, volume = [], memory(np.full(SHAPE, 7, np.uint8))

    def stand_in(path, target_nm):
        opened.append((path, target_nm))
        return volume

    monkeypatch.setattr(openorganelle, "open_volume", stand_in)
    crop = "[0:6, 0:8, 0:10]"
    name = f"openorganelle:jrc_mus-pancreas-{number}{crop}"
    fetch(f"openorganelle:{number}", f"--config.data.test={name}")
    assert opened == [(f"{openorganelle.VOLUMES[f'jrc_mus-pancreas-{number}'].url}{crop}", 16.0)] and not requested
    (copy,) = (tmp_path / "openorganelle").iterdir()
    np.testing.assert_array_equal(open_volume(copy).read((slice(None),) * 3), volume.array)


@pytest.mark.parametrize("config", DRAWN)
def test_synthetic_cells_need_no_download(config, fetch, requested):
    with pytest.raises(UserError, match="no known data set, so there is nothing to fetch"):
        fetch(config)
    assert not requested
