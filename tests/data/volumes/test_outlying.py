"""Sections that were lost or saturated are left out of the window of grey levels; clean volumes keep theirs."""

import numpy as np
import pytest
import scipy.ndimage
import tensorstore as ts

from his4mae_jax import progress
from his4mae_jax.data.volumes import contrast
from his4mae_jax.data.volumes.contrast import estimate_contrast, read_sample
from his4mae_jax.data.volumes.padding import without_padding
from his4mae_jax.data.volumes.volume import Volume

SHAPE = (100, 96, 104)


def _volume(data):
    return Volume("v.tif", ts.array(data), (8.0, 8.0, 8.0))


@pytest.fixture(scope="module")
def tissue():
    """Structures of many grey levels with noise, uint8."""
    rng = np.random.default_rng(0)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=SHAPE), 3, mode="wrap")
    return np.clip(120 + 18 * smooth / smooth.std() + rng.normal(0, 6, SHAPE), 40, 220).astype(np.uint8)


def _black(data):
    data[50] = 0
    return "z 50"


def _half_lost(data):
    data[31, :50] = 0
    return "parts of z 31"


def _white_with_noise(data):
    data[99] = np.random.default_rng(1).integers(240, 256, data[99].shape)
    return "z 99"


def _two_dark(data):
    data[20:22] //= 8
    return "z 20, 21"


def _saturated_row(data):
    data[:, 40] = 255
    return "y 40"


def _saturated_columns(data):
    data[:, :, 0] = 255  # at the border: not padding, since x 1 is content
    data[:, 0, 0] = 100
    return "x 0"


def _corner(data):
    data[3:6, 60:, 60:] = 255
    return "parts of z 3, 4, 5"


SPOILT = [_black, _half_lost, _white_with_noise, _two_dark, _saturated_row, _saturated_columns, _corner]


@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_window_is_that_of_the_rest(tissue, spoil, sampled, dtype, monkeypatch, capfd):
    if sampled:
        monkeypatch.setattr(contrast, "_BLOCK", 40)
        blocks = 14
    else:
        blocks = 64
    clean = estimate_contrast(_volume(tissue.astype(dtype)), blocks=blocks)
    capfd.readouterr()
    progress.say_once.cache_clear()
    data = tissue.copy()
    said = spoil(data)
    plain = np.percentile(data, (0.1, 99.9))
    found = estimate_contrast(_volume(data.astype(dtype)), blocks=blocks)
    np.testing.assert_allclose((found.low, found.high), (clean.low, clean.high), atol=2)
    assert max(abs(plain[0] - clean.low), abs(plain[1] - clean.high)) > 20  # it would have mattered
    if not sampled:
        assert f"v.tif: left out of the window of grey levels: {said}\n" in capfd.readouterr().err
        estimate_contrast(_volume(data.astype(dtype)))
        assert not capfd.readouterr().err  # said once


def _tissue_in_resin(data):
    data[:45], data[51:] = (np.random.default_rng(1).normal(220, 3, data[a].shape) for a in (np.s_[:45], np.s_[51:]))


def _gradient(data):
    data[...] = np.linspace(10, 240, len(data))[:, None, None]


def _vacuole(data):
    z, y, x = np.indices(data.shape)
    data[(z - 50) ** 2 + (y - 50) ** 2 + (x - 50) ** 2 < 14**2] = 255


def _checkerboard(data):
    data[::2] = 200
    data[1::2, ::2] = 50


CLEAN = [lambda data: None, _tissue_in_resin, _gradient, _vacuole, _checkerboard]


@pytest.mark.parametrize("change", CLEAN)
@pytest.mark.parametrize("side", [None, 24, 40])
def test_content_stays(tissue, change, side, monkeypatch):
    """Nothing is left out: the sample is what it was without looking for outlying sections."""
    if side:
        monkeypatch.setattr(contrast, "_BLOCK", side)
    data = tissue.copy()
    change(data)
    kept = []
    monkeypatch.setattr(contrast, "without_padding", lambda b, out: (kept.append(out), without_padding(b))[1])
    sample = read_sample(_volume(data), blocks=10 if side else 64)
    assert not sample.left_out and not any(mask is not None for mask in kept[0])


@pytest.mark.parametrize("shape", [(9, 96, 104), (12, 4, 5), (3, 3, 3)])
def test_too_little_to_judge(tissue, shape):
    data = tissue[tuple(slice(n) for n in shape)].copy()
    data[len(data) // 2] = 0
    data[0, 0, 0], data[-1, -1, -1] = 1, 3
    assert read_sample(_volume(data)).left_out in ("", *(f"{a} {i}" for a in "yx" for i in range(104)))
