"""Grids of voxels in space, and where the voxels of one lie among those of another."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from his4mae_jax.data.volumes.grid import Grid, Line, between_voxels, nearest_voxels

sizes = st.sampled_from([1.0, 4.0, 5.0, 8.0, 10.0, 15.0, 16.0, 33.3])
grids = st.builds(
    Grid,
    st.tuples(*[st.integers(1, 40)] * 3),
    st.tuples(*[sizes] * 3),
    st.tuples(*[st.floats(-200, 200, allow_nan=False)] * 3),
)


@given(grids, grids)
def test_a_voxel_has_one_place_in_space(one, other):
    for axis, line in enumerate(one.among(other).lines):
        own_nm = one.origin_nm[axis] + np.arange(one.shape[axis]) * one.voxel_size_nm[axis]
        there_nm = other.origin_nm[axis] + line.at(0, one.shape[axis]) * other.voxel_size_nm[axis]
        np.testing.assert_allclose(there_nm, own_nm, atol=1e-9)


@given(grids)
def test_a_grid_among_itself_is_itself_to_the_bit(grid):
    assert grid.among(grid).lines == (Line(), Line(), Line())


@given(grids, grids, st.data())
def test_the_voxels_inside_a_box_are_those_whose_centres_lie_in_it(one, other, data):
    box = []
    for n in other.shape:
        start = data.draw(st.integers(0, n - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, n))))
    own = one.among(other)
    for axis, part in enumerate(own.inside(tuple(box), other.shape)):
        at = own.lines[axis].at(0, one.shape[axis])
        low = -np.inf if box[axis].start == 0 else box[axis].start - 0.5
        high = np.inf if box[axis].stop == other.shape[axis] else box[axis].stop - 0.5
        clear = (np.abs(at - low) > 1e-4) & (np.abs(at - high) > 1e-4)  # not on a border
        inside = np.zeros(len(at), bool)
        inside[part] = True
        np.testing.assert_array_equal(inside[clear], ((at >= low) & (at < high))[clear])


@given(st.floats(-3, 3), st.floats(0.1, 4), st.integers(1, 20), st.integers(1, 20))
def test_positions_lie_between_the_voxels_they_are_interpolated_from(offset, step, count, length):
    at = Line(offset, step).at(0, count)
    lower, fraction, (start, stop) = between_voxels(at, length)
    np.testing.assert_allclose(lower + fraction, np.clip(at, 0, length - 1), atol=1e-5)
    upper = np.minimum(lower + (fraction > 0), length - 1)
    assert 0 <= start <= lower.min() and upper.max() < stop <= length
    assert np.abs(nearest_voxels(at, length) - np.clip(at, -0.5, length - 0.5)).max() <= 0.5 + 1e-9


def test_seen_from_another_voxel():
    assert Line(2.5, 0.5).seen_from(2) == Line(0.5, 0.5)
