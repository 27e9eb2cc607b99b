"""Coverages and tiles: where tiles end, how wide smoothing is, what is too small; how work is cut into dispatches."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from his4mae_jax.inference.coverage import Coverage
from his4mae_jax.inference.device_loops import slices_of_round
from his4mae_jax.inference.lattice import smoothing_matrix
from his4mae_jax.inference.tile_computation import ROUND_BYTES


def make(**changes):
    return Coverage(20, 5, 8, **{**dict(axes="z", stride=10, edge_weight=0.25, tile=1000), **changes})


def test_smoothing_is_as_wide_in_nm_across_thick_slices():
    """Slices twice as thick: half as many of them within the Gaussian."""
    (tile,) = make(smooth=0.8, spacing=(2.0, 1.0, 1.0)).tiles((40, 30, 30))
    z, y, _ = tile.grids[0]
    assert z.scale == 2.5 and y.scale == 1
    wide = smoothing_matrix(z, 0.8)[20]
    spread = np.sqrt((wide * (np.arange(40) - 20) ** 2).sum())
    np.testing.assert_allclose(spread, 0.8 * 2.5, rtol=0.05)


def test_tiles_end_where_chunks_do():
    tiling = make(tile=30).tiles((50, 90, 90), inside=(slice(3, 50), slice(0, 77), slice(20, 90)), block=(8, 16, 16))
    seen = np.zeros((50, 90, 90), int)
    for tile in tiling:
        seen[tile.write] += 1
        for s, b, end in zip(tile.write, (8, 16, 16), (50, 77, 90), strict=True):
            assert s.stop % b == 0 or s.stop == end
    assert (seen[3:, :77, 20:] == 1).all() and seen.sum() == 47 * 77 * 70


def test_too_small_for_the_field_of_view_names_the_axis():
    assert make(axes="z").axis_too_small((5, 20, 20)) is None
    assert make(axes="zyx").axis_too_small((5, 20, 20)) == "y"
    assert make(axes="z").axis_too_small((40, 19, 20)) == "z"


@given(st.integers(1, 300), st.integers(1, 600), st.integers(1, 150), st.integers(1, 6000))
def test_slices_at_once_leave_least_of_their_batches_empty(per_slice, batch, number, most):
    at_once = slices_of_round(per_slice, batch, number, most)
    assert 1 <= at_once <= number and (at_once == 1 or at_once * per_slice <= most)
    batches = lambda s: math.ceil(number / s) * math.ceil(s * per_slice / batch)  # noqa: E731
    allowed = [s for s in range(1, number + 1) if s * per_slice <= most] or [1]
    assert batches(at_once) == min(map(batches, allowed))


def test_slices_of_a_large_plane_fill_their_batches():
    """195 fields of view a slice in batches of 64: one slice at a time would leave 61 of 256 places empty."""
    at_once = slices_of_round(195, 64, 128, ROUND_BYTES // (4 * 4 * 256))
    places = 128 // at_once * math.ceil(at_once * 195 / 64) * 64
    assert 128 % at_once == 0 and places < 1.01 * 128 * 195
