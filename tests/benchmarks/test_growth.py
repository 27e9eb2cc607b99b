"""The benchmark of growth: exponents, their figure, and volumes segmented in processes of their own."""

import json
import sys

import pytest


@pytest.fixture
def growth():
    import growth

    return growth


def test_batches_and_their_figure(growth, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "get_small", lambda: tiny)
    written, figure = tmp_path / "growth.json", tmp_path / "made" / "growth.png"
    options = ["--sides", "--batches", "4", "8", "--calls", "2", "--json", str(written), "--figure", str(figure)]
    monkeypatch.setattr(sys, "argv", ["growth.py", *options])
    growth.main()
    small, large = json.loads(written.read_text())["batches"]
    assert small["power_mb"] is None and 0 < large["power_mb"] < 1.1 and small["seconds"] > 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_volumes_are_segmented_in_processes_of_their_own(growth, tmp_path, monkeypatch):
    reported, ran = [], []
    monkeypatch.setattr(growth, "run", lambda folder, *args: (ran.append(args), (float(len(ran)), 100.0))[1])
    rows = growth.volumes([20, 40], "z", 64, tmp_path, lambda rows: reported.append(len(rows)))
    assert reported == [1, 2] and [row["size"] for row in rows] == [20**3, 40**3]
    assert ran[0] == ("--mode=train",) and all(args[0] == "--mode=segment" for args in ran[1:])


def test_the_exponent_of_a_square_is_2(growth):
    rows = [{"size": n, "seconds": 3 * n**2} for n in (10, 40)]
    assert growth.power(rows, "seconds") == pytest.approx(2) and growth.power(rows[:1], "seconds") is None
