"""The benchmark of operations: its table and JSON; PyTorch computes the same."""

import json
import pathlib
import runpy
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "operations.py"
SMALL = (("linear", (6, 4), 0), ("attention", (2, 3, 24), 2), ("gelu", (5, 4), 0), ("norm", (5, 4), 0))


def test_one_table_and_its_json(tmp_path, monkeypatch, capsys):
    benchmark, path = runpy.run_path(str(SCRIPT)), tmp_path / "made" / "operations.json"
    monkeypatch.setitem(benchmark["main"].__globals__, "OPERATIONS", [(kind, kind, *more) for kind, *more in SMALL])
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--rounds", "2", "--seconds", "0.01", "--json", str(path)])
    benchmark["main"]()
    rows = json.loads(path.read_text())["rows"]
    assert [row["operation"] for row in rows] == [kind for kind, *_ in SMALL]
    assert all(row["ours forward"] > 0 and row["ours both"] > 0 for row in rows)
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(SMALL)


@pytest.mark.parametrize(("kind", "shape", "heads"), SMALL)
def test_pytorch_does_the_same(kind, shape, heads):
    pytest.importorskip("torch")
    benchmark = runpy.run_path(str(SCRIPT))
    ours, theirs = (benchmark[name](kind, shape, heads) for name in ("ours", "theirs"))
    np.testing.assert_allclose(ours["forward"](), theirs["forward"]().numpy(), atol=1e-5)
    np.testing.assert_allclose(ours["both"]()[1][0], theirs["both"]()[0].numpy(), atol=1e-5)
