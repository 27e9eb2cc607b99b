import math

import numpy as np
import pytest
import tifffile

from his4mae_jax.data.ome_zarr.pyramid import downsample
from his4mae_jax.data.volumes.contrast import with_window
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.view import layers as plans
from his4mae_jax.view.levels import FULL, Lazy, Levels, open_levels


def opened(run):
    return {layer.name: open_levels(layer, run.image) for layer in plans.plan(run.image, run.folder, print)}


def whole(shape):
    return tuple(slice(0, n) for n in shape)


@pytest.mark.parametrize(
    "index",
    [
        3, -1, (2, 5, -4), (..., 3), (slice(2, 9, 3), 4), (slice(None), slice(None, None, -1), slice(-5, None)),
        (slice(8, 1, -3), ..., slice(4, 4)), (1, ..., slice(3, 50)), (), ...,
    ],
)  # fmt: skip
def test_an_array_is_indexed_as_numpys(memory, index):
    array = np.random.default_rng(0).integers(0, 99, (10, 12, 14), np.uint16)
    lazy = Lazy(Levels({FULL: memory(array)}, labels=False))
    assert np.array_equal(lazy[index], array[index]) and np.shape(lazy[index]) == array[index].shape
    assert lazy.shape == array.shape and lazy.dtype == array.dtype and len(lazy) == 10


def test_an_index_outside(memory):
    with pytest.raises(IndexError):
        Lazy(Levels({FULL: memory(np.zeros((2, 2, 2), np.uint8))}, labels=False))[2]


def test_only_the_box_is_read(memory):
    source = memory(np.zeros((100, 100, 100), np.uint8))
    Lazy(Levels({FULL: source}, labels=False))[50, 10:20, 30]
    assert source.largest == 10


def test_voxels_of_each_layer(shown):
    run = shown()
    levels = opened(run)
    for name, array in run.arrays.items():
        assert np.array_equal(levels[name].read(whole(array.shape)), array), name
        assert levels[name].full.dtype == array.dtype, name


def test_stored_levels_are_found_and_used(shown):
    run = shown()
    levels = opened(run)
    assert list(levels["labels"].volumes) == [FULL, (2, 2, 2)]
    assert list(levels["image"].volumes) == [FULL, (1, 2, 2), (2, 4, 4)]
    for name in ("labels", "image"):
        for factor, volume in list(levels[name].volumes.items())[1:]:
            stored = volume.read(whole(volume.shape))
            assert np.array_equal(levels[name].read(whole(volume.shape), factor), stored)


def test_a_block_is_read_from_the_nearest_level(memory, blobs):
    full = blobs((40, 40, 40))
    half = memory(downsample(full.array, (2, 2, 2), labels=False))
    levels = Levels({FULL: full, (2, 2, 2): half}, labels=False)
    block = levels.read((slice(1, 3), slice(0, 5), slice(4, 10)), (4, 4, 4))
    assert full.largest == 0 and half.largest == 4 * 10 * 12
    assert np.array_equal(block, downsample(half.array, (2, 2, 2), labels=False)[1:3, :5, 4:10])
    levels.read((slice(0, 2),) * 3, (1, 2, 2))
    assert full.largest == 2 * 4 * 4


def test_labels_are_merged_to_the_most_frequent(memory):
    array = np.zeros((2, 2, 2), np.uint8)
    array[0] = 3
    array[1, 0] = 1
    levels = Levels({FULL: memory(array)}, labels=True)
    assert levels.read((slice(0, 1),) * 3, (2, 2, 2)) == 3
    assert levels.shape((2, 1, 1)) == (1, 2, 2)


def test_an_image_of_one_level(shown, tmp_path):
    run = shown()
    path = tmp_path / "cell.tif"
    tifffile.imwrite(path, run.arrays["image"])
    run.image = open_volume(path, run.size)
    levels = opened(run)["image"]
    assert list(levels.volumes) == [FULL] and np.array_equal(levels.read(whole((10, 40, 36))), run.arrays["image"])


def test_levels_of_a_crop(shown):
    run = shown()
    source = run.image.name
    run.image = with_window(open_volume(f"{source}[2:8, 4:36, 8:32]"), (0, 99), True)
    assert list(opened(run)["image"].volumes) == [FULL, (1, 2, 2), (2, 4, 4)]
    run.image = open_volume(f"{source}[2:8, 5:35, 8:32]")  # its blocks begin within those of the coarser levels
    assert list(opened(run)["image"].volumes) == [FULL]


def test_levels_of_a_file_whose_voxel_size_the_user_gives(shown):
    run = shown()
    run.image = open_volume(run.image.name, (100.0, 40.0, 50.0))
    levels = opened(run)["image"]
    assert list(levels.volumes) == [FULL, (1, 2, 2), (2, 4, 4)]
    assert levels.volumes[1, 2, 2].voxel_size_nm == (100, 80, 100)


def test_a_level_that_is_gone(shown):
    run = shown(named=False)
    (run.folder / "labels.ome.zarr" / "1" / ".zarray").unlink()
    with pytest.raises(UserError, match="level 1 cannot be read"):
        opened(run)


def test_the_coarsest_grid_has_every_voxel(memory):
    array = np.full((7, 5, 3), 9, np.uint8)
    levels = Levels({FULL: memory(array)}, labels=False)
    assert math.prod(levels.shape((4, 4, 4))) == 4
    assert (levels.read(whole(levels.shape((4, 4, 4))), (4, 4, 4)) == 9).all()
