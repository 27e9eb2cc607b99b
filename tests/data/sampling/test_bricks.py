"""The rolling pool: cells without gaps, crops inside their bricks, positions uniform, one replacement at a time."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from his4mae_jax.data.sampling import bricks
from his4mae_jax.data.sampling.fields_of_view import plan
from his4mae_jax.data.sampling.geometry import Geometry

FOV = 20


def geometry_of(sides, low=(0, 0, 0), axes=(0, 1, 2), reach=(FOV,) * 3):
    """A `Geometry` of one volume."""
    as_rows = [np.int32([x]) for x in (low, np.add(low, sides), (axes * 3)[:3], reach)]
    return Geometry(as_rows[0], as_rows[1], as_rows[2], np.int32([len(axes)]), as_rows[3])


def pool_of(geometry, slots=4, every=2, brick=48, chunk=16, seed=0):
    return bricks.make_pool(geometry, [(chunk,) * 3], seed=seed, slots=slots, every=every, brick=brick)


def cells(pool, axis):
    """All cells of one axis: `(low, high)` arrays of positions."""
    count, first, step = (int(a[0, axis]) for a in (pool.positions_Vx3, pool.first_Vx3, pool.step_Vx3))
    borders = np.array([0, *range(min(first, count), count, step), count])
    return borders[:-1], borders[1:]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(FOV, 3000), st.integers(0, 100), st.integers(1, 130), st.integers(1, 200), st.integers(1, FOV),
    st.sampled_from([1, FOV]),
)  # fmt: skip
def test_cells_leave_no_gap_whatever_the_extent_and_bricks_hold_their_crops(side, low, chunk, brick, extent, reach):
    extent = min(extent, reach)
    geometry = geometry_of((side,) * 3, (low,) * 3, reach=(reach,) * 3)
    pool = pool_of(geometry, chunk=chunk, brick=brick)
    a, b = cells(pool, 0)
    assert (b > a).all()
    column = np.zeros(len(a), int)
    starts, ends = pool.start_range(
        a[:, None] + [[0] * 3], b[:, None] + [[0] * 3], column, jnp.full((len(a), 3), extent)
    )
    starts, ends = np.asarray(starts)[:, 0], np.asarray(ends)[:, 0]
    assert starts[0] == low and ends[-1] == low + side - extent + 1
    np.testing.assert_array_equal(starts[1:], ends[:-1])
    assert (ends > starts).all()
    # The brick of a cell, as `Pool.bricks` tells it.
    assert (starts >= low + a).all() and (ends - 1 + extent <= low + b + reach - 1).all()
    assert (b - a + reach - 1 <= max(brick, 2 * reach) + reach).all()
    aligned = chunk <= brick and len(a) > 1
    if aligned:
        assert ((low + a[1:]) % chunk == 0).all()


def test_no_product_of_positions_overflows():
    geometry = geometry_of((10**6,) * 3)
    pool = pool_of(geometry)
    low, high = pool.start_range(
        jnp.int32([[0, 999_000, 500_000]]),
        jnp.int32([[100, 999_981, 500_100]]),
        jnp.int32([0]),
        jnp.int32([[1, 1, 10]]),
    )
    np.testing.assert_array_equal(low[0], [0, 999_000 + 999_000 * 19 // 999_981, 500_000 + 5])
    assert int(high[0, 1]) == 10**6


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 5), st.integers(0, 10**6))
def test_one_slot_is_refilled_at_a_time_and_stays_its_time(seed, slots, every, start):
    pool = pool_of(geometry_of((200, 150, 90)), slots=slots, every=every, seed=seed)
    steps = start + jnp.arange(2 * slots * every)
    generations = np.asarray(jax.vmap(pool.generations)(steps))
    changed = np.diff(generations, axis=0)
    assert set(np.unique(changed)) <= {0, 1}
    turns = np.asarray(steps)[1:] % every == 0
    np.testing.assert_array_equal(changed.sum(axis=1), turns)
    assert (changed.sum(axis=0) >= 1).all()


def test_a_brick_is_the_same_as_long_as_its_generation_and_another_after():
    pool = pool_of(geometry_of((400, 400, 400)), slots=3, every=2)
    at = jax.jit(pool.bricks)
    seen = {}
    for step in range(24):
        now = jax.device_get(at(step))
        for slot in range(3):
            brick = tuple(now["start"][slot]) + tuple(now["stop"][slot])
            assert seen.setdefault((slot, int(now["generation"][slot])), brick) == brick
    assert len(set(seen.values())) > 0.8 * len(seen)


def uniform(values, count):
    """p of the chi-square test that positions are uniform over 0..count-1, in ten bins."""
    bins = lambda position: np.bincount(position * 10 // count, minlength=10)  # noqa: E731
    return stats.chisquare(bins(values), bins(np.arange(count)) * len(values) / count).pvalue


def test_positions_are_uniform_over_time():
    """One crop of each brick, as crops of one brick lie near each other; all positions are as likely."""
    slots, sides = 64, (80, 130, 200)
    geometry = geometry_of(sides)
    pool = pool_of(geometry, slots=slots, every=1)
    draw = jax.jit(
        jax.vmap(lambda n: plan(jax.random.fold_in(jax.random.key(1), n), geometry, slots, 20, 20, pool, n * slots))
    )
    chosen = jax.device_get(draw(jnp.arange(400)))
    axis = chosen["axis"].ravel()
    assert stats.chisquare(np.bincount(axis, minlength=3)).pvalue > 1e-3
    for d, side in enumerate(sides):
        start = chosen["start"][..., d].ravel()
        for across in (True, False):  # slices one voxel thick have more positions than crops
            values = start[(axis == d) == across]
            count = side if across else side - 20 + 1
            assert values.min() >= 0 and values.max() < count
            assert uniform(values, count) > 1e-3, (d, across)


def test_volumes_are_drawn_alike_and_rows_share_the_slots_out():
    one, two = geometry_of((60, 60, 60)), geometry_of((300, 300, 300))
    both = Geometry(*(np.concatenate([getattr(one, k), getattr(two, k)]) for k in one.__dataclass_fields__))
    pool = bricks.make_pool(both, [(16,) * 3] * 2, seed=3, slots=64, every=1, brick=48)
    volume = np.asarray(jax.jit(jax.vmap(lambda n: pool.bricks(n * 64)["volume"]))(jnp.arange(40)))
    assert stats.binomtest(int(volume.sum()), volume.size).pvalue > 1e-3
    first, count = pool.slot_range(np.arange(16), 16)
    np.testing.assert_array_equal(first, np.arange(16) * 4)
    assert (count == 4).all()
    first, count = pool.slot_range(np.arange(128), 128)
    np.testing.assert_array_equal(first, np.arange(128) // 2)
    assert (count == 1).all()
