"""Fields of view of volumes of which parts are not stored lie where something is."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax.data.sampling import bricks, cells
from his4mae_jax.data.sampling.fields_of_view import Plan
from his4mae_jax.data.sampling.geometry import Geometry
from his4mae_jax.data.stores.chunks.stored import Stored

FOV, CHUNK = 20, 16


def stored(filled, value=0):
    edges = tuple(np.arange(n + 1) * CHUNK for n in filled.shape)
    return Stored(edges, filled, value)


def geometry(shapes, axes=(0, 1, 2)):
    sides = np.int32(shapes)
    reach = np.int32([[FOV] * 3 if len(axes) == 3 else [1, FOV, FOV]] * len(shapes))
    table = np.int32([(axes * 3)[:3]] * len(shapes))
    return Geometry(np.zeros_like(sides), sides, table, np.int32([len(axes)] * len(shapes)), reach)


def plan(where, known, slots):
    chunks = [(CHUNK,) * 3] * len(known)
    pool = own = None
    if slots:
        pool = bricks.make_pool(where, chunks, seed=0, slots=slots, every=1, brick=40, stored=known)
    else:
        own = cells.make_cells(where, chunks, 2 * FOV, known)
    return Plan(where, 0, 32, 10, FOV, pool, own)


@pytest.mark.parametrize("axes", [(0, 1, 2), (0,)])
@pytest.mark.parametrize("slots", [0, 16])
def test_cells_without_anything_are_never_drawn(slots, axes):
    filled = np.zeros((40, 40, 40), bool)
    filled[3:5, 30, 30:33] = filled[39, 0, 0] = filled[0, 39, 20] = True
    known = [stored(filled), None]
    chosen = plan(geometry([(640,) * 3, (100, 90, 80)], axes), known, slots)
    at = jax.jit(chosen.at)
    near, first, seen = 0, 0, set()
    for step in range(0, 600, 20):
        drawn = jax.device_get(at(step))
        for volume, axis, side, start in zip(*(drawn[k] for k in ("volume", "axis", "side", "start")), strict=True):
            if volume:
                assert (start + np.where(np.arange(3) == axis, 1, side) <= (100, 90, 80)).all()
                continue
            first += 1
            around = tuple(slice(max(int(s) - 40, 0), int(s) + 60) for s in start)
            assert not known[0].constant(around)
            near += not known[0].constant(tuple(slice(int(s), int(s) + 1 + int(side)) for s in start))
            seen.add(tuple(start // 200))
    assert 300 < first < 660 and near > 0.2 * first and len(seen) > 2


def test_cells_are_drawn_as_often_as_there_are_voxels(monkeypatch):
    filled = np.zeros((20, 20, 20), bool)
    filled[0:5, 0:5, 0:5] = filled[15:, 15:, 10:] = True  # 125 and 250 chunks
    own = cells.make_cells(geometry([(320,) * 3]), [(CHUNK,) * 3], 2 * FOV, [stored(filled)])
    cell = jax.vmap(lambda key: own.draw(key, 0))(jax.random.split(jax.random.key(0), 4000))
    low, high = own.bounds(np.asarray(cell), np.zeros(4000, int))
    assert (np.asarray(low) < np.asarray(high)).all()
    assert 0.60 < (np.asarray(low)[:, 0] > 160).mean() < 0.73
    monkeypatch.setattr(cells, "MOST", 10)  # too many to list: all are drawn, as without
    assert cells.make_cells(geometry([(320,) * 3]), [(CHUNK,) * 3], 2 * FOV, [stored(filled)]).filled is None


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 6)] * 3))
def test_voxels_of_a_grid_of_boxes(seed, shape):
    rng = np.random.default_rng(seed)
    edges = tuple(np.append(0, np.cumsum(rng.integers(1, 9, n))) for n in shape)
    own = Stored(edges, rng.random(shape) < 0.4, 0)
    spans = []
    for n in own.shape:
        starts = rng.integers(0, n, 3)
        spans.append((starts, np.minimum(starts + rng.integers(1, 20, 3), n)))
    counts = own.voxels_of(spans)
    for at in np.ndindex(counts.shape):
        box = tuple(slice(int(a[i]), int(b[i])) for (a, b), i in zip(spans, at, strict=True))
        assert counts[at] == pytest.approx(own.voxels(box), abs=1e-6)


def test_a_pool_without_what_is_stored_draws_what_it_always_drew():
    where = geometry([(640, 300, 200)])
    without, all_none = (bricks.make_pool(where, [(16,) * 3], seed=3, slots=8, every=1, brick=48, stored=known)
                         for known in ((), [None]))  # fmt: skip
    for step in (0, 5, 1000):
        one, other = (jax.device_get(pool.bricks(step)) for pool in (without, all_none))
        assert all((one[key] == other[key]).all() for key in one)
    assert jax.device_get(without.bricks(7))["start"][:3].tolist() == PINNED


PINNED = [[0, 16, 144], [336, 32, 48], [64, 80, 144]]  # of a version that knew nothing of stored chunks
