"""The benchmark of the sample of a fit: its scores on features that say the class, and its table on a tiny run."""

import json
import pathlib
import runpy
import sys

import numpy as np

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "fit_sample.py"


def test_features_that_say_the_class_have_its_dice(labelled_run):
    fit = runpy.run_path(str(SCRIPT))["Clusters"](labelled_run, 0.0)
    rng, side = np.random.default_rng(0), fit.tested.shape[1]

    def telling(index):
        return fit.scene.truth[tuple(index.T)][:, None] * np.linspace(1, 2, side) + rng.normal(
            0, 0.1, (len(index), side)
        )

    fit.features, fit.tested = telling, telling(fit.tests)
    assert fit.dice(2, 500, seed=0) > 0.95


def test_its_table(labelled_run, tmp_path, monkeypatch, capsys):
    options = (str(labelled_run), "--clusters", "2,4", "--voxels", "50,3000", "--draws", "2", "--texture", "1")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options, "--json", str(tmp_path / "out.json")])
    runpy.run_path(str(SCRIPT))["main"]()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in lines] == ["voxels", "50", "3,000"]
    dice = json.loads((tmp_path / "out.json").read_text())["dice"]["3000"]
    assert len(dice) == 2 and all(len(draw) == 2 and 0 < max(draw) <= 1 for draw in dice)
