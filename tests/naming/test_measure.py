"""Fraction and mean grey value of each cluster."""

import types

import numpy as np

from his4mae_jax.data.volumes.contrast import with_window
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.naming import measure as module
from his4mae_jax.naming.measure import measure


def test_fractions_and_grey_values(segmented, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", (5, 7, 16))
    run = segmented()
    labels = types.SimpleNamespace(
        name="labels", shape=run.labels.shape, dtype=run.labels.dtype, voxel_size_nm=run.image.voxel_size_nm,
        origin_nm=run.image.origin_nm, read=lambda box: run.labels[box],
    )  # fmt: skip
    facts = measure(labels, run.image, (1, 2, 3, 4, 9), print)
    for i in range(1, 5):
        inside = run.labels == i
        assert np.isclose(facts[i][0], inside.sum() / (run.labels > 0).sum())
        assert np.isclose(facts[i][1], run.grey[inside].mean())
    assert facts[9] == (0.0, None) and np.isclose(sum(fraction for fraction, _ in facts.values()), 1)


def test_an_image_on_another_grid():
    coarse = np.arange(1, 9).reshape(2, 2, 2).astype(np.uint8)
    fine = coarse.repeat(3, 0).repeat(2, 1).repeat(2, 2)
    grids = [(fine, (10.0, 5.0, 5.0), (0.0, 0.0, 0.0)), (coarse * 10, (30.0, 10.0, 10.0), (10.0, 2.5, 2.5))]
    labels, image = (
        types.SimpleNamespace(
            name="v", shape=a.shape, dtype=a.dtype, voxel_size_nm=s, origin_nm=o, read=lambda box, a=a: a[box]
        )
        for a, s, o in grids
    )
    assert measure(labels, image, range(1, 9), print) == {i: (1 / 8, 10.0 * i) for i in range(1, 9)}


def test_a_resampled_image_is_read_as_it_is_stored(memory, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", (8, 8, 8))
    fine, labels = memory(np.zeros((32, 32, 32), np.uint8)), memory(np.ones((8, 8, 8), np.uint8))
    fine.array[:16] = 200
    labels.voxel_size_nm = (40.0,) * 3
    labels.array[4:] = 2
    image = with_window(resample(fine, 40.0), (0, 255), True)
    labels.origin_nm = image.origin_nm
    assert image.shape == labels.shape
    assert measure(labels, image, (1, 2), print) == {1: (0.5, 200.0), 2: (0.5, 0.0)}
    assert 0 < fine.largest <= 9**3
