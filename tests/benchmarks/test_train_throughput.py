"""The benchmark of training: its table and JSON at a tiny size; PyTorch computes the same losses."""

import importlib.util
import json
import sys

import jax
import pytest
from batch_loss import batch_loss

from his4mae_jax.pretext.methods import METHODS

has_torch = importlib.util.find_spec("torch") is not None


@pytest.fixture
def benchmark():
    import train_throughput

    return train_throughput


def test_one_table_and_its_json(benchmark, tiny, tmp_path, monkeypatch, capsys):
    path = tmp_path / "made" / "train.json"
    monkeypatch.setattr(benchmark, "get_default", lambda: tiny)
    options = "--batch 4 --rounds 2 --calls 1 --per-call 2 --side 24 --count --peak-tflops 2 --peer"
    options = [*options.split(), "--json", str(path), "--profile", str(tmp_path / "trace")]
    monkeypatch.setattr(sys, "argv", ["train_throughput.py", *options])
    benchmark.main()
    written = json.loads(path.read_text())
    assert [(r["method"], r["what"], r["who"]) for r in written["rows"]] == [
        ("his4mae", "step", "ours"), ("his4mae", "encode", "ours"),
    ]  # fmt: skip
    for row in written["rows"]:
        assert 0 < row["lowest"] <= row["median"] <= row["highest"] and row["ratio"] is None
        flop = written["his4mae"]["flop_per_image"][row["what"]]
        assert row["fraction_of_peak"] == pytest.approx(row["median"] * flop / 2e12)
    assert written["his4mae"]["profile"] and all(ms >= 0 for _, ms, _ in written["his4mae"]["profile"])
    assert "where a round of steps spends its time" in capsys.readouterr().out


@pytest.mark.skipif(not has_torch, reason="PyTorch is not installed")
def test_the_peer_computes_the_same_losses(benchmark, tiny):
    import numpy as np
    import torch
    import torch_peer

    from his4mae_jax.models.masking import random_visible

    for method, cls_token in (("his4mae", False), ("maester", True)):
        tiny.method, tiny.model.cls_token = method, cls_token
        models = METHODS[method].build(tiny)
        params = METHODS[method].init_params(jax.random.key(0), models)
        peer = torch_peer.Step(tiny, benchmark.random_bytes((24, 25, 26)), "cpu", "none")
        peer.load(params)
        images, key = np.random.default_rng(0).random((4, 20, 20), np.float32), jax.random.key(3)
        visible = np.asarray(random_visible(key, 4, 16, 0.5)[0])
        order = np.concatenate([visible, [np.setdiff1d(np.arange(16), v) for v in visible]], axis=1)
        loss, _ = batch_loss(
            METHODS[method], params, params["encoder"], {"image": images}, key, models=models,
            settings=METHODS[method].settings(tiny), ready=True,
        )  # fmt: skip
        theirs, _ = peer.network(peer.teacher, torch.tensor(images), torch.tensor(order).long())
        assert float(loss) == pytest.approx(theirs.item(), rel=1e-5)
        cut = peer.cut()
        assert cut.shape == (4, 20, 20) and 0 <= cut.min() <= cut.max() <= 1
        before = peer.step().item()
        assert all(np.isfinite(peer.step().item()) for _ in range(3)) and np.isfinite(before)
