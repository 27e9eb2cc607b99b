"""The benchmark of the probe on a tiny training: its tables, and the filters of the forest."""

import json
import pathlib
import runpy
import sys

import numpy as np
import pytest
import scipy.ndimage

import his4mae_jax
from his4mae_jax.data.ome_zarr import write as ome_zarr

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "probe_labels.py"


@pytest.mark.slow  # forests and classifiers of every kind
def test_its_tables_and_json(tmp_path, monkeypatch, capsys, tiny):
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(24, 48, 64)), 2)
    image, labels = np.uint8(127 + 90 * noise / abs(noise).max()), np.uint8(noise > np.quantile(noise, 0.8))
    for name, array in (("image", image), ("labels", labels)):
        ome_zarr.create(tmp_path / name, array.shape, np.uint8, 8.0, chunks=(24, 48, 64)).write(array).result()
    tiny.data.test, tiny.data.test_labels = str(tmp_path / "image"), str(tmp_path / "labels")
    tiny.data.class_names, tiny.segment.stride, tiny.train.steps = ("rest", "dark"), 10, 2
    his4mae_jax.train(tmp_path / "image", tiny, workdir=tmp_path / "run", log=lambda line: None)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["test_labels"], config["data"]["class_names"] = str(tmp_path / "labels"), ["rest", "dark"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    options = ("--workdir", str(tmp_path / "run"), "--shares", "0.01", "--clicks", "10", "--draws", "1")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, "--tests", "500", "--json", str(tmp_path / "out.json")])
    runpy.run_path(str(SCRIPT))["main"]()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows] == [
        "labels", "1 % at random", "10 clicks, random", "10 clicks, suggested", "10 clicks, by class",
    ]  # fmt: skip
    dice = json.loads((tmp_path / "out.json").read_text())["dice"]["1 % at random"]
    assert len(dice) == 7 and all(len(draws) == 1 and 0 <= draws[0][1] <= 1 for draws in dice.values())
    assert np.allclose(dice["linear"], dice["linear by hand, weights and cut"], atol=0.01)


@pytest.mark.parametrize(("axes", "number"), [((0, 1, 2), 15), ((1, 2), 15)])
def test_filters_of_a_slope(axes, number):
    from filter_forest import filter_features

    image = np.broadcast_to(3.0 * np.arange(40), (40, 40, 40))
    features = filter_features(image, np.array([[20, 20, 20], [20, 10, 25]]), axes=axes)
    assert features.shape == (2, number)
    gaussian, laplacian, gradient, tensor, hessian = features[0, :5]
    np.testing.assert_allclose((gaussian, laplacian, gradient, tensor, hessian), (60, 0, 3, 9, 0), atol=0.1)
