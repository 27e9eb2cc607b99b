"""Which level of a multiscale volume is opened."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from his4mae_jax.data.stores.levels import Level, OpenOptions, choose

SIZES = [(30.0, 4.0, 5.0), (30.0, 8.0, 10.0), (60.0, 16.0, 20.0), (120.0, 32.0, 40.0)]


@pytest.mark.parametrize(
    "target, level",
    [(None, 0), (1, 0), (29, 0), (29.9, 1), (30, 1), (60, 2), (59, 1), (1e5, 3), ((30, 8, 8), 0), ((30, 8, 10), 1)],
)
def test_choose(target, level):
    levels = [Level(str(i), size, ("nm",) * 3) for i, size in enumerate(SIZES)]
    target = target if target is None or isinstance(target, tuple) else (target,) * 3
    found, size, factors = choose(levels, OpenOptions(target_nm=target))
    assert (int(found.path), size) == (level, SIZES[level])
    assert factors == tuple(a / b for a, b in zip(SIZES[level], SIZES[0], strict=True))


def test_choose_by_a_size_that_is_given():
    """A given size is that of level 0; the others follow, whatever unit the metadata have."""
    levels = [Level(str(i), size, ("pixel",) * 3) for i, size in enumerate(SIZES)]
    assert choose(levels, OpenOptions(target_nm=(1e3,) * 3))[:2] == (levels[0], None)
    assert levels[0].unknown_units == ("pixel",)
    found, size, _ = choose(levels, OpenOptions(voxel_size_nm=(3.0, 0.4, 0.5), target_nm=(6.0,) * 3))
    assert found is levels[2] and size == (6.0, 1.6, 2.0)
    levels = [Level("0"), Level("1")]
    options = OpenOptions(voxel_size_nm=(4.0,) * 3, target_nm=(100.0,) * 3)
    assert choose(levels, options) == (levels[0], (4.0,) * 3, (1.0,) * 3)


@given(st.lists(st.floats(1, 100), min_size=1, max_size=6), st.floats(0.5, 200))
def test_the_level_chosen_is_the_coarsest_that_is_fine_enough(sizes, target):
    sizes = sorted(sizes)
    levels = [Level(str(i), (s, s, s), ("nm",) * 3) for i, s in enumerate(sizes)]
    _, size, _ = choose(levels, OpenOptions(target_nm=(target,) * 3))
    fine = [s for s in sizes if s <= target * 1.01]
    assert size[0] == (max(fine) if fine else sizes[0])
