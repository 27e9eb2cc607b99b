"""Scores to draw, and a look at the figures that were drawn."""

import pytest

from his4mae_jax.report import style


@pytest.fixture
def drawn(monkeypatch):
    """The Figure objects that were saved, to look at their texts and lines."""
    saved = []
    real = style.save
    monkeypatch.setattr(style, "save", lambda figure, path: (saved.append(figure), real(figure, path)))
    return saved


@pytest.fixture
def metrics():
    """One run and one baseline, a class that is absent from the ground truth, and a curve."""
    return {
        "method": "his4mae",
        "clusters": 4,
        "dsc": {
            "one_to_one": {"nucleus": 0.9, "golgi": float("nan"), "mean": 0.9},
            "many_to_one": {"nucleus": 0.95, "golgi": None, "mean": 0.95},
        },
        "baselines": {
            "intensity": {"clusters": 4, "dsc": {"one_to_one": {"nucleus": 0.4, "mean": 0.4}}},
        },
        "curve": [
            {"step": step, "dsc": {"one_to_one": {"nucleus": step / 400, "mean": step / 500}}} for step in (200, 100)
        ],
    }
