"""Sampling: inside the content, uniform, a function of (seed, step); rendering against NumPy."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax.data.sampling.fields_of_view import Plan, plan, render
from his4mae_jax.data.sampling.geometry import PLANE_AXES, make_geometry
from his4mae_jax.data.sampling.streaming import HostSampler
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.errors import UserError


class Memory:
    def __init__(self, array, name="volume"):
        self.array, self.name, self.voxel_size_nm = array, name, (10.0,) * 3
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, slices):
        assert all(0 <= s.start < s.stop <= n for s, n in zip(slices, self.shape, strict=True))
        return self.array[slices]


def whole(volume):
    return tuple(slice(0, n) for n in volume.shape)


def make(volumes, seed=0, axes="zyx", batch_size=64, crop_min=10):
    geometry = make_geometry(volumes, [whole(v) for v in volumes], axes, 20)
    plan = Plan(geometry, seed, batch_size, crop_min, 20)
    return HostSampler(plan, volumes, [Contrast(0, 255)] * len(volumes), workers=2, in_memory_bytes=1 << 30)


def coordinates(shape):
    """A volume whose values tell where a voxel is."""
    return Memory(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(20, 50)] * 3), st.integers(0, 5))
def test_crops_lie_inside_the_content_box(seed, shape, margin):
    volume = Memory(np.zeros(tuple(n + 2 * margin for n in shape), np.uint8))
    box = tuple(slice(margin, margin + n) for n in shape)
    geometry = make_geometry([volume], [box], "zyx", 20)
    chosen = jax.tree.map(np.asarray, plan(jax.random.key(seed), geometry, 200, 10, 20))
    for b in range(200):
        for axis in range(3):
            extent = 1 if axis == chosen["axis"][b] else chosen["side"][b]
            assert margin <= chosen["start"][b, axis] <= margin + shape[axis] - extent
    assert chosen["side"].min() == 10 and chosen["side"].max() == 20


def test_volumes_axes_positions_and_turns_are_uniform():
    volumes = [Memory(np.zeros((30, 40, 50), np.uint8)), Memory(np.zeros((60, 25, 25), np.uint8))]
    geometry = make_geometry(volumes, [whole(v) for v in volumes], "zyx", 20)
    chosen = jax.tree.map(np.asarray, plan(jax.random.key(0), geometry, 30_000, 20, 20))
    for key, count in (("volume", 2), ("axis", 3), ("flip_rows", 2), ("flip_cols", 2), ("transpose", 2)):
        np.testing.assert_allclose(np.bincount(chosen[key], minlength=count) / 30_000, 1 / count, atol=0.015)
    z = chosen["start"][(chosen["volume"] == 0) & (chosen["axis"] == 0)][:, 0]
    np.testing.assert_allclose(np.bincount(z, minlength=30) / len(z), 1 / 30, atol=0.012)


def test_an_axis_without_room_is_left_out_and_no_room_at_all_is_an_error():
    thin = Memory(np.zeros((12, 40, 50), np.uint8), "thin.tif")
    geometry = make_geometry([thin], [whole(thin)], "zyx", 20)
    chosen = plan(jax.random.key(0), geometry, 500, 10, 20)
    assert set(np.asarray(chosen["axis"])) == {0}
    with pytest.raises(UserError, match=r"thin.tif.*12x40x50.*axes 'yx'"):
        make_geometry([thin], [whole(thin)], "yx", 20)


def test_each_volume_may_have_axes_of_its_own():
    volumes = [Memory(np.zeros((30, 40, 50), np.uint8), f"{i}") for i in range(3)]
    geometry = make_geometry(volumes, [whole(v) for v in volumes], ["zyx", "z", "xy"], 20)
    chosen = jax.tree.map(np.asarray, plan(jax.random.key(0), geometry, 900, 10, 20))
    assert [set(chosen["axis"][chosen["volume"] == v]) for v in range(3)] == [{0, 1, 2}, {0}, {1, 2}]
    with pytest.raises(UserError, match=r"no slice of 50x50 along axes 'z'"):
        make_geometry(volumes, [whole(v) for v in volumes], ["z", "z", "z"], 50)


def test_samples_depend_on_the_seed_and_the_step_alone():
    volume = coordinates((30, 40, 50))
    fields, again = make([volume]), make([volume])
    again.batch(3)
    jax.tree.map(np.testing.assert_array_equal, fields.batch(7), again.batch(7))
    assert not np.array_equal(fields.batch(0)["crop"], fields.batch(1)["crop"])
    assert not np.array_equal(fields.batch(0)["crop"], make([volume], seed=1).batch(0)["crop"])


def test_hosts_read_their_rows_of_the_same_batch():
    fields = make([coordinates((30, 40, 50))], batch_size=8)
    full = fields.batch(3)
    parts = [fields.batch(3, slice(i, i + 4)) for i in (0, 4)]
    jax.tree.map(lambda w, *p: np.testing.assert_array_equal(w, np.concatenate(p)), full, *parts)


def test_crops_are_slices_of_the_volume():
    volume = coordinates((30, 40, 50))
    batch = make([volume]).batch(0)
    for crop, side in zip(batch["crop"], batch["side"], strict=True):
        z, y, x = np.unravel_index(int(crop[0, 0]), volume.shape)
        found = []
        for rows, cols in PLANE_AXES:
            start = [z, y, x]
            box = [slice(v, v + 1) for v in start]
            box[rows] = slice(start[rows], start[rows] + side)
            box[cols] = slice(start[cols], start[cols] + side)
            piece = volume.array[tuple(box)].squeeze()
            found.append(piece.shape == (side, side) and np.array_equal(piece, crop[:side, :side]))
        assert any(found) and (crop[side:] == 0).all() and (crop[:, side:] == 0).all()


def numpy_render(crop, side, contrast, flip_rows, flip_cols, transpose, fov):
    low, high, invert = contrast
    image = np.clip((crop[:side, :side].astype(np.float64) - low) / (high - low), 0, 1)
    image = 1 - image if invert else image
    where = np.clip((np.arange(fov) + 0.5) * side / fov - 0.5, 0, side - 1)
    lower = np.minimum(where.astype(int), side - 2)
    share = where - lower
    image = image[lower] * (1 - share)[:, None] + image[lower + 1] * share[:, None]
    image = image[:, lower] * (1 - share) + image[:, lower + 1] * share
    image = image[::-1] if flip_rows else image
    image = image[:, ::-1] if flip_cols else image
    return image.T if transpose else image


def test_render_equals_numpy():
    rng = np.random.default_rng(0)
    turns = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, 8)
    batch = {
        "crop": rng.integers(0, 256, (8, 20, 20), dtype=np.uint8), "side": np.array([20, 10, 13, 20, 17, 11, 19, 15]),
        "contrast": np.float32([[10, 200, i % 2] for i in range(8)]),
        "flip_rows": turns[0], "flip_cols": turns[1], "transpose": turns[2],
    }  # fmt: skip
    images = np.asarray(render(batch, 20)["image"])
    assert images.dtype == np.float32
    for i in range(8):
        row = {k: v[i] for k, v in batch.items()}
        np.testing.assert_allclose(images[i], numpy_render(**row, fov=20), atol=2e-6)


def test_a_full_sized_crop_is_not_blurred():
    crop = np.random.default_rng(0).integers(0, 256, (1, 20, 20), dtype=np.uint8)
    zero = np.zeros(1, int)
    batch = {"crop": crop, "side": zero + 20, "contrast": np.float32([[0, 255, 0]]),
             "flip_rows": zero, "flip_cols": zero, "transpose": zero}  # fmt: skip
    np.testing.assert_array_equal(np.asarray(render(batch, 20)["image"]), crop.astype(np.float32) / np.float32(255))
