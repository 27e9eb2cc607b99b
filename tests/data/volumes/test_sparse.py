"""Volumes of which parts are not stored: content, padding and grey levels are those that reading all would give."""

import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.blocks import stored_of
from his4mae_jax.data.volumes.contrast import Contrast, estimate_contrast, sample_content
from his4mae_jax.data.volumes.in_memory import from_array
from his4mae_jax.data.volumes.padding import CELL, all_padding, content_box, padding_mask, padding_values
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.data.volumes.volume import Volume, box_bounds, open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3


@dataclasses.dataclass(frozen=True)
class Counting(Volume):
    """Counts the voxels that are read."""

    voxels: list = dataclasses.field(default_factory=list)

    @functools.cached_property
    def stored(self):
        return super().stored

    def read(self, slices):
        self.voxels.append(np.prod([b - a for a, b in box_bounds(slices, self.shape)]))
        return super().read(slices)


def sparse(path, shape, chunk, blocks, dtype=np.uint8):
    """A volume with these blocks (corner, content), which otherwise has chunks that are not stored."""
    out = ome_zarr.create(path, shape, dtype, 8.0, chunks=chunk, overwrite=True)
    for corner, content in blocks:
        out[tuple(slice(c, c + n) for c, n in zip(corner, content.shape, strict=True))].write(content).result()
    volume = open_volume(path)
    return Counting(volume.name, volume.array, volume.voxel_size_nm)


def noise(shape, low=1, high=255, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape, np.uint8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(*[st.integers(6, 60)] * 3), st.tuples(*[st.integers(3, 20)] * 3), st.integers(0, 2**32 - 1),
    st.integers(1, 4), st.sampled_from([None, 12.0, 5.0]),
)  # fmt: skip
def test_content_is_that_of_reading_all(tmp_path, shape, chunk, seed, blocks, nm):
    rng, written = np.random.default_rng(seed), []
    for _ in range(blocks):
        corner = [int(rng.integers(n)) for n in shape]
        size = [int(rng.integers(1, min(n - c, 15) + 1)) for c, n in zip(corner, shape, strict=True)]
        written.append((corner, noise(size, 0, 3, int(rng.integers(99)))))
    volume = sparse(tmp_path / "v", shape, chunk, written)
    volume = resample(volume, nm) if nm else volume
    known = from_array(volume.read(ALL), 8.0)
    try:
        expected = content_box(known)
    except UserError:
        with pytest.raises(UserError, match="every voxel"):
            content_box(volume)
        return
    assert content_box(volume) == expected
    values = padding_values(volume, expected)
    if min(s.stop - s.start for s in expected) >= CELL:  # thinner corners are padding only where they are not stored
        assert values == padding_values(known, expected)
    for _ in range(10):
        low = [int(rng.integers(n)) for n in volume.shape]
        box = tuple(slice(a, int(rng.integers(a, n)) + 1) for a, n in zip(low, volume.shape, strict=True))
        own, other = padding_mask(volume, box, values), padding_mask(known, box, values)
        assert (own is None) == (other is None)
        if own is not None:
            np.testing.assert_array_equal(own, other)
        if all_padding(volume, box, values):
            assert own.all()


def test_what_is_not_stored_is_not_read(tmp_path):
    content = noise((40, 50, 60))
    volume = sparse(tmp_path / "v", (4000, 3000, 5000), (64, 64, 64), [((1000, 2000, 4000), content)])
    assert content_box(volume) == (slice(1000, 1040), slice(2000, 2050), slice(4000, 4060))
    assert sum(volume.voxels) < 1.1 * 3000 * 5000 + 4000 * (3000 + 5000)  # a plane, and no more of each face
    assert estimate_contrast(volume) == estimate_contrast(from_array(content, 8.0))


def test_grey_levels_are_taken_where_something_is_stored(tmp_path):
    blocks = [((64 * z, 64 * y, 64 * x), noise((64, 64, 64), 50, 200, z)) for z, y, x in
              ((0, 0, 0), (7, 3, 2), (15, 15, 15), (4, 9, 13))]  # fmt: skip
    volume = sparse(tmp_path / "v", (1024, 1024, 1024), (64, 64, 64), blocks)
    assert content_box(volume) == tuple(slice(0, 1024) for _ in range(3))
    volume.voxels.clear()
    assert estimate_contrast(volume) == Contrast(50, 199)
    assert sum(volume.voxels) < 200 * 64**3
    assert sample_content(volume).min() >= 50  # padding is no grey level


def test_a_volume_with_padding_that_is_stored_is_sampled_as_before(tmp_path):
    """Blocks are drawn anywhere, and again where they are padding, while that gives enough of them."""
    data = np.zeros((300, 300, 300), np.uint8)
    data[:, 100:, 30:] = noise((300, 200, 270), 60, 190)
    data[0, 0, 0] = data[-1, -1, -1] = 100  # all of it is content
    volume = sparse(tmp_path / "v", data.shape, (50, 50, 50), [((0, 0, 0), data)])
    assert stored_of(volume) is not None
    np.testing.assert_array_equal(sample_content(volume, blocks=8), sample_content(from_array(data, 8.0), blocks=8))


def test_a_volume_of_which_nothing_is_stored_is_refused_at_once(tmp_path):
    volume = sparse(tmp_path / "v", (3000, 3000, 3000), (64, 64, 64), [])
    with pytest.raises(UserError, match="every voxel read is 0"):
        content_box(volume)
    assert sum(volume.voxels) < 1.1 * 3000**2


def test_few_sections_of_which_little_is_stored(tmp_path):
    blocks = [((0, 64, 0), noise((2, 64, 64))), ((0, 0, 512), noise((2, 64, 64))), ((0, 576, 256), noise((2, 64, 64)))]
    volume = sparse(tmp_path / "v", (2, 640, 640), (2, 64, 64), blocks)
    box = content_box(volume)
    assert padding_values(volume, box) == (0,)
    assert padding_values(from_array(volume.read(ALL), 8.0), box) == ()  # so few equal voxels may be chance
    assert all_padding(volume, (slice(0, 2), slice(200, 400), slice(200, 250)), (0,))
    assert estimate_contrast(volume).low > 0
