"""Contrast windows, their estimate, and padding found exactly."""

import json

import jax
import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax.data.volumes import padding
from his4mae_jax.data.volumes.contrast import (
    Contrast,
    Windowed,
    apply_window,
    content_box,
    estimate_contrast,
    sample_content,
)
from his4mae_jax.data.volumes.padding import without_padding
from his4mae_jax.data.volumes.volume import Volume
from his4mae_jax.errors import UserError


class _Counting:
    """A volume that counts the voxels read and the largest single read."""

    def __init__(self, data):
        self.inner = Volume("v.tif", ts.array(data), (8.0, 8.0, 8.0))
        self.voxels = self.largest = 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def read(self, slices):
        box = self.inner.read(slices)
        self.voxels += box.size
        self.largest = max(self.largest, box.size)
        return box


def _volume(data):
    return Volume("v.tif", ts.array(data), (8.0, 8.0, 8.0))


def _noise(shape, low=1, high=250, dtype=np.uint8, seed=0):
    data = np.random.default_rng(seed).integers(low, high, shape).astype(dtype)
    data[::2, ::2, ::2] = low  # no plane of a few voxels comes out constant by chance
    data[1::2, 1::2, 1::2] = high
    return data


def test_apply():
    window = Contrast(100, 200)
    out = window.apply(np.array([0, 100, 150, 200, 65535], np.uint16))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(Contrast(100, 200, True).apply(np.array([0, 125, 300], np.int16)), [1, 0.75, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_one_window_on_the_host_and_on_the_device(dtype):
    """Equal but for the rounding of a division, for one window or one window per image."""
    raw = np.random.default_rng(0).integers(0, 255, (2, 50, 50)).astype(dtype)
    for window in (Contrast(13.7, 201.3), Contrast(7.1, 90, True)):
        own = jax.jit(apply_window)(raw, *window.window)
        np.testing.assert_allclose(own, window.apply(raw), rtol=0, atol=2**-23)
        assert own.dtype == np.float32
    low, width = (np.float32([[[13.7]], [[7.1]]]), np.float32([[[187.6]], [[82.9]]]))
    both = jax.jit(apply_window)(raw, low, width, np.array([[[False]], [[True]]]))
    for i in range(2):
        np.testing.assert_allclose(both[i], apply_window(raw[i], low[i], width[i], bool(i)), rtol=0, atol=2**-23)


def test_json_round_trip():
    window = Contrast(np.float32(7077), 13041, True)
    assert Contrast.from_json(json.loads(json.dumps(window.to_json()))) == window


@pytest.mark.parametrize("low, high", [(1, 1), (2, 1), (0, float("nan")), (0, float("inf"))])
def test_no_window(low, high):
    with pytest.raises(UserError, match="contrast"):
        Contrast(low, high)


def test_estimate_uses_a_small_volume_whole():
    data = _noise((30, 40, 50), 1000, 1300, np.uint16)
    low, high = np.percentile(data, (0.1, 99.9))
    assert estimate_contrast(_volume(data), invert=True) == Contrast(low, high, True)


def test_estimate_leaves_out_padding():
    data = _noise((30, 40, 50), 100, 200)
    padded = np.pad(data, ((40, 3), (0, 60), (7, 0)))
    assert estimate_contrast(_volume(padded)) == estimate_contrast(_volume(data))


def test_estimate_of_a_large_volume_is_a_fixed_sample():
    data = np.random.default_rng(0).normal(1000, 50, (150, 160, 170)).astype(np.float32)
    volume = _Counting(data)
    first = estimate_contrast(volume, blocks=8, seed=3)
    assert volume.voxels < data.size and volume.largest <= 64**3
    assert estimate_contrast(_volume(data), blocks=8, seed=3) == first
    assert estimate_contrast(_volume(data), blocks=8, seed=4) != first
    np.testing.assert_allclose((first.low, first.high), np.percentile(data, (0.1, 99.9)), rtol=0.01)


def test_estimate_of_nearly_constant_data_takes_the_full_range():
    data = np.zeros((40, 40, 40), np.uint8)
    data[0, 0, 0] = data[-1, -1, -1] = 9
    assert estimate_contrast(_volume(data)) == Contrast(0, 9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad):
    data = _noise((8, 8, 8), dtype=np.float32)
    data[3, 4, 5] = bad
    with pytest.raises(UserError, match="v.tif: holds NaN"):
        estimate_contrast(_volume(data))


def test_nothing_but_nan():
    with pytest.raises(UserError, match="v.tif: holds NaN"):
        estimate_contrast(_volume(np.full((8, 8, 8), np.nan, np.float32)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_constant(dtype):
    for function in (estimate_contrast, content_box):
        with pytest.raises(UserError, match="v.tif: every voxel"):
            function(_volume(np.full((40, 9, 300), 7, dtype)))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(2, 20)] * 3),
    st.tuples(*[st.tuples(st.integers(0, 40), st.integers(0, 40))] * 3),
    st.integers(0, 255),
)
def test_content_box_is_exact(shape, pad, value):
    data = np.pad(_noise(shape, 1, 254), pad, constant_values=value)
    box = content_box(_volume(data))
    at = np.nonzero(data != value)
    if value not in (1, 254):
        assert box == tuple(slice(int(a.min()), int(a.max()) + 1) for a in at)
    else:  # the padding's grey level occurs in the content: nothing else may be cut off
        assert not np.delete(np.isin(data, value, invert=True).any((1, 2)), np.arange(box[0].start, box[0].stop)).any()


def test_content_box_across_tiles():
    data = np.zeros((3, 300, 600), np.uint8)
    data[1, 299, 5] = 1
    data[2, 17, 580] = 1
    assert content_box(_volume(data)) == (slice(1, 3), slice(17, 300), slice(5, 581))


def test_padding_of_another_value_on_another_face():
    data = _noise((20, 21, 22))
    padded = np.pad(np.pad(data, ((0, 5), (0, 0), (0, 0))), ((0, 0), (0, 0), (30, 0)), constant_values=255)
    assert content_box(_volume(padded)) == (slice(0, 20), slice(0, 21), slice(30, 52))


def test_a_constant_plane_of_content_behind_padding_stays():
    data = _noise((20, 21, 22))
    data[0] = 99
    assert content_box(_volume(np.pad(data, 4)))[0] == slice(4, 24)


def test_without_padding_it_reads_little():
    volume = _Counting(_noise((400, 300, 300)))
    assert content_box(volume) == tuple(slice(0, n) for n in volume.shape)
    assert volume.voxels < 0.02 * 400 * 300 * 300
    assert volume.largest <= padding._SLAB * padding._TILE**2


def _rotated(data, value, angle=0.5):
    """`data` with everything outside a rotated box set to `value`: padding that no plane shows."""
    z, y, x = (i - (n - 1) / 2 for i, n in zip(np.indices(data.shape), data.shape, strict=True))
    across, along = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    inside = (abs(across) < 0.3 * data.shape[1]) & (abs(along) < 0.33 * data.shape[2])
    return np.where(inside, data, data.dtype.type(value)), inside


@pytest.mark.parametrize(
    "dtype, low, high, value",
    [
        (np.uint8, 90, 200, 0),
        (np.uint8, 20, 160, 255),
        (np.uint16, 7077, 13041, 0),
        (np.int16, -400, 900, -32768),
        (np.float32, -1, 1, 0),  # within the range of the content, and so no extreme: it stays
    ],
)
def test_padding_of_a_rotated_volume_does_not_spoil_the_window(dtype, low, high, value):
    data = np.random.default_rng(0).uniform(low, high, (40, 120, 130)).astype(dtype)
    rotated, inside = _rotated(data, value)
    assert 0.3 < inside.mean() < 0.8
    found = estimate_contrast(_volume(rotated))
    true = np.percentile(data, (0.1, 99.9))
    spread = true[1] - true[0]
    np.testing.assert_allclose((found.low, found.high), true, atol=0.01 * spread)


def test_padding_blurred_at_its_edge_does_not_spoil_the_window():
    from scipy.ndimage import uniform_filter

    data = np.random.default_rng(0).uniform(5000, 6000, (40, 120, 130))
    rotated = uniform_filter(_rotated(data, 0)[0], 3).astype(np.uint16)
    found = estimate_contrast(_volume(rotated))
    assert found.low > 5000 and found.high < 6000
    assert np.percentile(rotated, 0.1) == 0


def test_blocks_of_padding_alone_are_drawn_again():
    data = np.zeros((260, 260, 260), np.uint8)
    data[:40] = np.random.default_rng(0).integers(100, 200, (40, 260, 260))
    data[:, 0, 0] = data[0, :, 0] = 150  # so that the content box is the whole
    data[-1, -1, -1] = 150
    found = estimate_contrast(_volume(data), blocks=4)
    assert found.low >= 99 and found.high < 200
    assert sample_content(_volume(data), blocks=4).min() >= 100


def test_a_flat_inner_grey_level_is_content():
    data = np.full((32, 32, 32), 100, np.uint8)
    data[:, :8], data[:, -8:] = 40, 220
    data[0, 0, 0], data[-1, -1, -1] = 39, 221
    assert without_padding([data]).size == data.size
    data[0, 0, 0], data[-1, -1, -1] = 40, 220  # now the extremes fill cells: taken for padding, but the middle stays
    data[16, 16, 16] = 101
    assert set(np.unique(without_padding([data]))) == {100, 101}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(1, 20)] * 3), min_size=1, max_size=3), st.integers(0, 3), st.randoms())
def test_padding_leaves_a_part_of_what_was_there(shapes, levels, random):
    rng = np.random.default_rng(random.randrange(10**6))
    blocks = [rng.integers(0, levels + 1, shape).astype(np.uint8) for shape in shapes]
    everything = np.concatenate([b.ravel() for b in blocks])
    left = without_padding(blocks)
    assert 0 < left.size <= everything.size
    inner = set(np.unique(everything)) - {everything.min(), everything.max()}
    assert np.isin(left, everything).all()
    if inner and left.size < everything.size:
        assert left.min() != left.max()


def test_a_volume_with_a_window_of_its_own():
    volume = _Counting(_noise((40, 40, 40), 100, 200))
    own = Contrast(233, 248, True)
    windowed = Windowed(volume, own)
    assert estimate_contrast(windowed, percentiles=(1, 99), invert=False) == own
    assert volume.voxels == 0 and windowed.shape == (40, 40, 40) and windowed.name == "v.tif"
    box = (slice(1, 3),) * 3
    np.testing.assert_array_equal(windowed.read(box), volume.read(box))
    np.testing.assert_array_equal(windowed.read_async(box).result(), volume.read(box))
    floats = _noise((8, 8, 8), dtype=np.float32)
    floats[0, 0, 0] = np.nan
    with pytest.raises(UserError, match="NaN"):
        estimate_contrast(Windowed(_volume(floats), own))
