"""The benchmark of the probe on a tiny training: its tables, and the filters of the forest."""

import json
import pathlib
import runpy
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "probe_labels.py"


@pytest.mark.slow  # forests and classifiers of every kind
def test_its_tables_and_json(labelled_run, tmp_path, monkeypatch, capsys):
    options = ("--workdir", str(labelled_run), "--shares", "0.01", "--clicks", "10", "--draws", "1")
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
