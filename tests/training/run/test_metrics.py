"""Metrics cut into windows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax.training.run.metrics import MetricWindows


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_do_not_depend_on_how_steps_are_grouped(start, more, every, data):
    total = start + more
    step = np.arange(start, total)
    metrics = {
        "loss": step * 1.0, "perplexity": step * 3.0, "dead_fraction": step / 100,
        "epoch_end": (step + 1) % 7 == 0,
    }  # fmt: skip
    windows, found, done = MetricWindows(start, total, every, lambda step: step * 2.0), [], 0
    while done < more:
        count = data.draw(st.integers(1, more - done))
        part = {k: v[done : done + count] for k, v in metrics.items()}
        found += windows.add(part, float(done), float(done + count))
        done += count
    one_by_one, want = MetricWindows(start, total, every, lambda step: step * 2.0), []
    for i in range(more):
        want += one_by_one.add({k: v[i : i + 1] for k, v in metrics.items()}, float(i), float(i + 1))
    assert [(s, scalars) for s, scalars, _ in found] == [(s, scalars) for s, scalars, _ in want]
    np.testing.assert_allclose([at for *_, at in found], [s - start for s, *_ in want])
    ends = {s for s in range(start + 1, total + 1) if s % every == 0 or s == total}
    assert {s for s, *_ in found} == ends
    first = min(ends)
    assert found[0][1]["loss"] == np.mean(np.arange(start, first)) and found[0][1]["lr"] == 2.0 * (first - 1)
    assert ("perplexity" in found[0][1]) == any((s + 1) % 7 == 0 for s in range(start, first))
