"""Anisotropic volumes: which axes are resampled, which slices are used, and what is refused."""

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st

from his4mae_jax.data import datasets
from his4mae_jax.data.ome_zarr.write import create
from his4mae_jax.data.volumes.anisotropy import LIMIT, coarse_axis, in_plane_nm, slice_axes, target_size
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.data.volumes.volume import Volume
from his4mae_jax.errors import UserError


def _volume(*size):
    return Volume("cell.tif", ts.array(np.zeros((4, 5, 6), np.uint8)), tuple(map(float, size)))


@pytest.mark.parametrize(
    "stored, target, expected",
    [
        ((50, 4.6, 4.6), 15, (50, 15, 15)),  # 50 is more than 1.2 times coarser: as stored
        ((50, 4.6, 4.6), 0, (50, 4.6, 4.6)),
        ((50, 4.6, 4.6), 50, (50, 50, 50)),
        ((8, 4, 4), 7, (7, 7, 7)),  # 8 is within 1.2 times 7
        ((3.4, 4, 4), 16, (16, 16, 16)),
        ((4, 30, 4), 10, (10, 30, 10)),
    ],
)
def test_target_size(stored, target, expected):
    assert target_size(stored, target) == expected


@given(st.tuples(*[st.floats(1, 100)] * 3), st.floats(1, 100))
def test_no_axis_is_ever_made_much_finer(stored, target):
    for before, after in zip(stored, target_size(stored, target), strict=True):
        assert before <= LIMIT * after


def test_slices_are_taken_across_the_coarse_axis():
    for axis, letter in enumerate("zyx"):
        size = [10.0] * 3
        size[axis] = 30.0
        volume = _volume(*size)
        assert coarse_axis(volume) == axis and slice_axes(volume, "zyx") == letter
        assert in_plane_nm(volume) == pytest.approx(10)
    for size in ((10, 10, 10), (12, 10, 10), (3.4, 4, 4)):
        assert coarse_axis(_volume(*size)) is None and slice_axes(_volume(*size), "yx") == "yx"
    assert in_plane_nm(_volume(4, 2, 1.99)) == pytest.approx((2 * 1.99) ** 0.5)


def test_one_warning_line():
    lines = []
    assert slice_axes(_volume(50, 4.6, 4.6), "zyx", log=lines.append) == "z"
    (line,) = lines
    for part in ("warning", "cell.tif", "50 x 4.6 x 4.6 nm", "slices are taken across z only"):
        assert part in line
    slice_axes(_volume(4, 4, 4), "zyx", log=lines.append)
    assert len(lines) == 1


def test_refused():
    with pytest.raises(UserError, match=r"cell.tif.*segment.axes is 'yx'.*set it to 'z'"):
        slice_axes(_volume(50, 5, 5), "yx", "segment.axes")
    with pytest.raises(UserError, match=r"cell.tif.*coarse along two axes.*data.voxel_size_nm to 30"):
        slice_axes(_volume(50, 30, 5), "zyx")


def test_a_coarse_axis_is_left_as_it_lies():
    data = np.random.default_rng(0).integers(0, 255, (5, 30, 30), np.uint8)
    volume = Volume("v", ts.array(data), (50.0, 5.0, 5.0))
    resampled = resample(volume, target_size(volume.voxel_size_nm, 15.0))
    assert resampled.shape == (5, 10, 10) and resampled.voxel_size_nm == (50, 15, 15)
    for z in range(5):  # every plane on its own, none mixed with its neighbours
        alone = resample(Volume("v", ts.array(data[z : z + 1]), (50.0, 5.0, 5.0)), (50.0, 15.0, 15.0))
        whole = (slice(None),) * 3
        np.testing.assert_array_equal(resampled.read((slice(z, z + 1), *whole[1:])), alone.read(whole))


@pytest.fixture
def files(tmp_path, tiny):
    """Function that writes a volume of some voxel size and returns its path."""

    def write(name, size, shape=(12, 60, 60), seed=0, dtype=np.uint8):
        data = np.random.default_rng(seed).integers(1, 255, shape).astype(dtype)
        create(tmp_path / name, shape, dtype, size).write(data).result()
        return str(tmp_path / name)

    return write


def test_training_volumes_of_one_plane_size_go_together(files, tiny):
    lines = []
    tiny.data.train = (files("a", (40, 8, 8)), files("b", (8, 8, 8)))
    volumes = datasets.training_volumes(tiny, None, lines.append)
    assert [slice_axes(v, "zyx") for v in volumes] == ["z", "zyx"]
    assert len(lines) == 1 and "across z only" in lines[0]
    tiny.data.train = (*tiny.data.train, files("c", (40, 5, 5)))
    with pytest.raises(UserError, match=r"40 x 5 x 5 nm.*beside others of 40 x 8 x 8 nm.*data.voxel_size_nm"):
        datasets.training_volumes(tiny, None)
    tiny.data.voxel_size_nm = 8.0
    assert [v.voxel_size_nm for v in datasets.training_volumes(tiny, None)] == [(40, 8, 8), (8, 8, 8), (40, 8, 8)]


def test_target_and_its_labels_share_a_grid(files, tiny):
    tiny.data.test, tiny.data.voxel_size_nm = files("image", (40, 4, 4), (6, 80, 90)), 10.0
    tiny.data.test_labels = files("labels", (40, 4, 4), (6, 80, 90), 1)
    tiny.data.class_names = ("a", "b")
    target = datasets.target(tiny, None, need_labels=True)
    assert target.image.shape == target.labels.shape == (6, 32, 36)
    assert target.image.voxel_size_nm == target.labels.voxel_size_nm == (40, 10, 10)
    # Labels at half the resolution, which say so.
    tiny.data.test_labels = files("coarse", (40, 8, 8), (6, 40, 45), 1)
    assert datasets.target(tiny, None, need_labels=True).labels.shape == (6, 32, 36)
    tiny.data.test_labels = files("other", (40, 8, 8), (6, 50, 45), 1)
    with pytest.raises(UserError, match=r"other.*\(6, 50, 45\).*do not fit the image.*\(6, 32, 36\)"):
        datasets.target(tiny, None, need_labels=True)


def test_axes_that_cannot_be_used_are_told_when_a_volume_is_opened(files, tiny):
    tiny.data.test = files("a", (40, 8, 8))
    tiny.data.train, tiny.data.axes, tiny.segment.axes = (tiny.data.test,), "yx", "x"
    with pytest.raises(UserError, match="data.axes"):
        datasets.training_volumes(tiny, None)
    with pytest.raises(UserError, match="segment.axes"):
        datasets.target(tiny, None, need_labels=False)
