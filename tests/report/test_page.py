"""A run's figures: which are drawn, and that only pictures that are there are listed."""

import numpy as np
import pytest

from his4mae_jax.clustering import centres
from his4mae_jax.config import get_default
from his4mae_jax.data import datasets
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.report import page


@pytest.fixture
def segmented(tmp_path):
    """A workdir with labels of two clusters and an empty training log, and its test set."""
    config, shape = get_default(), (8, 12, 16)
    config.segment.clusters = 2
    rng = np.random.default_rng(0)
    for name, high in (("image", 256), ("labels", 2)):
        array = ome_zarr.create(tmp_path / f"{name}.ome.zarr", shape, np.uint8, 10)
        array.write(rng.integers(0, high, shape).astype(np.uint8)).result()
    contrast = {"low": 0.0, "high": 255.0, "invert": False}
    fitted = centres.Centres(rng.random((2, 3), np.float32), np.eye(3, dtype=np.float32))
    centres.save(tmp_path / "centres.npz", {2: fitted}, contrast=contrast)
    (tmp_path / "train.jsonl").touch()
    test = datasets.Target(open_volume(tmp_path / "image.ome.zarr"), None, ())
    return tmp_path, config, test


def names(paths):
    return [path.name for path in paths]


def test_only_pictures_that_were_written_are_listed(segmented):
    workdir, config, test = segmented
    made = page.draw(config, test, {"method": "his4mae", "clusters": 2}, None, workdir)
    assert names(made) == names((workdir / "figures").iterdir()) == ["slices.png"]


def test_every_picture_of_a_whole_run(segmented, metrics):
    workdir, config, test = segmented
    (workdir / "train.jsonl").write_text('{"step": 10, "loss_recon": 0.5}\n')
    made = page.draw(config, test, metrics, None, workdir)
    assert names(made) == ["training.png", "slices.png", "dsc.png"]
    assert all(path.stat().st_size > 1000 for path in made)
