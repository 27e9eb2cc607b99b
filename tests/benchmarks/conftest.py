"""The scripts import each other from their own folder, as when they are run; a trained run for those that take one."""

import json
import pathlib

import numpy as np
import pytest
import scipy.ndimage


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def labelled_run(tiny, tmp_path):
    """Workdir of two steps of training on an image of noise, whose brightest fifth is the class "dark"."""
    import his4mae_jax
    from his4mae_jax.data.ome_zarr import write as ome_zarr

    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(24, 48, 64)), 2)
    image, labels = np.uint8(127 + 90 * noise / abs(noise).max()), np.uint8(noise > np.quantile(noise, 0.8))
    for name, array in (("image", image), ("labels", labels)):
        ome_zarr.create(tmp_path / name, array.shape, np.uint8, 8.0, chunks=(24, 48, 64)).write(array).result()
    tiny.segment.stride, tiny.train.steps = 10, 2
    his4mae_jax.train(tmp_path / "image", tiny, workdir=tmp_path / "run", log=lambda line: None)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"] |= {
        "test": str(tmp_path / "image"), "test_labels": str(tmp_path / "labels"), "class_names": ["rest", "dark"],
    }  # fmt: skip
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path / "run"
