"""Training curves: what they show, and that a damaged log does not stop them."""

import json
import math

import pytest
from matplotlib.image import imread

from his4mae_jax import palette
from his4mae_jax.figures.curves import late_fall, training_curves


def write_log(path, steps=range(10, 400, 10), **extra):
    with open(path, "w") as file:
        for step in steps:
            entry = {"step": step, "loss_recon": 1 / step, "lr": 1e-4}
            file.write(json.dumps(entry | {k: v(step) for k, v in extra.items()}) + "\n")


def test_training_curves_draw_what_was_logged(tmp_path, drawn, metrics):
    log, path = tmp_path / "train.jsonl", tmp_path / "figures" / "training.png"
    write_log(log)
    training_curves(log, None, path)
    assert [ax.get_title() for ax in drawn[0].axes] == ["Reconstruction loss", "Learning rate"]

    codebook = {"loss_tea": lambda s: 0.1, "loss_stu": lambda s: 0.2 / s}
    write_log(log, **codebook, perplexity=lambda s: 300.0 if s % 100 == 0 else None,
              dead_fraction=lambda s: 0.25)  # fmt: skip
    training_curves(log, metrics, path)
    assert len(drawn[1].axes) == 6
    steps, values = drawn[1].axes[2].lines[0].get_data()
    assert list(steps) == [100, 200, 300] and list(values) == [300] * 3
    nucleus = drawn[1].axes[-1].lines[0]
    assert nucleus.get_label() == "nucleus" and list(nucleus.get_xdata()) == [100, 200]
    assert imread(path).std() > 0.01
    assert [p.name for p in path.parent.iterdir()] == ["training.png"]


def test_a_class_absent_from_the_ground_truth_leaves_the_others_their_colours(tmp_path, drawn):
    dsc = {"one_to_one": {"golgi": None, "nucleus": 0.5, "mean": 0.5}}
    metrics = {"dsc": dsc, "curve": [{"step": 10, "dsc": dsc}]}
    training_curves(tmp_path / "absent.jsonl", metrics, tmp_path / "training.png")
    nucleus, mean = drawn[0].axes[0].lines
    assert nucleus.get_label() == "nucleus" and nucleus.get_color() == palette.colour(2)
    assert mean.get_label() == "mean" and mean.get_color() == "black"


def test_a_killed_and_resumed_run_is_drawn(tmp_path, drawn):
    log = tmp_path / "train.jsonl"
    write_log(log, steps=[10, 20, 30])
    with open(log, "a") as file:
        file.write('{"step": 40, "loss_re' + '{"step": 20, "loss_recon": 7.0}\n')  # run together
        file.write('{"step": 20, "loss_recon": 5.0}\n{"step": 30, "loss_recon": NaN}\n[]\n{"st')
    training_curves(log, None, tmp_path / "training.png")
    steps, values = drawn[0].axes[0].lines[0].get_data()
    assert list(steps) == [10, 20] and list(values) == [0.1, 5.0]


def test_no_data_no_picture(tmp_path):
    training_curves(tmp_path / "absent.jsonl", {}, tmp_path / "training.png")
    assert list(tmp_path.iterdir()) == []


def test_the_fall_of_a_loss_in_the_second_half():
    falling = {step: {"loss_recon": 1.0 if step <= 50 else 0.8} for step in range(1, 101)}
    assert late_fall(falling) == pytest.approx(0.2)
    assert late_fall({step: {"loss_recon": 0.5} for step in range(1, 101)}) == pytest.approx(0)
    assert late_fall({100: {"loss_recon": 0.5}}) is None  # one entry
    assert late_fall({}) is None and late_fall({1: {"loss": 2.0}}) is None
    assert late_fall(falling | {95: {"loss_recon": math.nan}}) == pytest.approx(0.2)
