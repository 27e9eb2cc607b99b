"""The benchmark of ceilings: its cut and its token means against direct computation, and its table on a tiny run."""

import json
import pathlib
import runpy
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "ceilings.py"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPT.parent))
    yield runpy.run_path(str(SCRIPT))
    sys.path.remove(str(SCRIPT.parent))


def test_the_best_cut_is_that_of_all_cuts(script):
    rng = np.random.default_rng(0)
    score = rng.normal(size=300).round(1)  # with ties
    truth = rng.random(300) < 1 / (1 + np.exp(-2 * score))
    dice, cut = script["best_cut"](score, truth)
    each = {c: script["dice_at"](score, truth, c) for c in score}
    assert dice == pytest.approx(max(each.values())) == pytest.approx(each[cut])


def test_a_token_is_the_mean_of_its_voxels(script):
    mask = np.random.default_rng(0).random((3, 8, 9)) < 0.5
    # Patches of 4, one pixel of the last one outside; slices one by one.
    positions = np.arange(3.0), np.array([1.5, 5.5]), np.array([0.5, 4.5, 8.5])
    means = script["token_means"](mask, positions)
    assert means.shape == (3, 2, 3)
    assert means[1, 0, 1] == pytest.approx(mask[1, 0:4, 3:7].mean())
    assert means[2, 1, 2] == pytest.approx(mask[2, 4:8, 7:9].mean())


def test_its_table(script, labelled_run, tmp_path, monkeypatch, capsys):
    metrics = labelled_run / "volumes" / "image" / "metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text(json.dumps({"by_clusters": {"4": {"one_to_one": {"rest": 0.5, "dark": None, "mean": 0.5}}}}))
    options = (str(labelled_run), "--fitted", "2000", "--tests", "3000", "--json", str(tmp_path / "out.json"))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    script["main"]()
    dice = json.loads((tmp_path / "out.json").read_text())["dice"]
    assert dice["k-means, C = 4"] == [[0.5, 0.0]]
    assert dice["lattice, half"][0][1] <= dice["lattice, best cut"][0][1] <= 1
    assert dice["linear, own cut"][0][1] <= dice["linear, best cut"][0][1]
    assert dice["linear, best cut"][0][1] > 0.5  # grey values alone tell the two apart
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| ") for line in lines) == len(dice) + 1
