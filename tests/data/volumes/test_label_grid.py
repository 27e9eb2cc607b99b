"""Ground truth on its image's grid: by extent, or by the positions in the metadata of both."""

import numpy as np
import pytest
import tifffile

from his4mae_jax.data.datasets import target
from his4mae_jax.data.ome_zarr.write import create
from his4mae_jax.data.volumes.label_grid import resample_labels
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

WHOLE = (slice(None),) * 3
TRUTH = np.random.default_rng(0).integers(0, 4, (24, 24, 24)).astype(np.uint8)


@pytest.fixture
def write(tmp_path):
    """Function that writes an array as OME-Zarr and opens it."""

    def write(name, data, size=4.0, origin=(0, 0, 0), crop=""):
        create(tmp_path / name, data.shape, data.dtype, size, origin_nm=origin, overwrite=True).write(data).result()
        return open_volume(f"{tmp_path / name}{crop}", image=False)

    return write


@pytest.mark.parametrize("origin", [(0, 0, 0), (1000, -50, 7)])
def test_labels_of_a_part_lie_at_their_position(write, origin):
    image = write("image", np.zeros((24, 24, 24), np.uint8), origin=origin)
    part = write("part", TRUTH[4:10, 8:24, 2:20], origin=np.add(origin, (16, 32, 8)))
    labels = resample_labels(part, image)
    assert labels.shape == image.shape and labels.origin_nm == image.origin_nm
    expected = np.full((24, 24, 24), IGNORE, np.uint8)
    expected[4:10, 8:24, 2:20] = TRUTH[4:10, 8:24, 2:20]
    np.testing.assert_array_equal(labels.read(WHOLE), expected)
    box = (slice(3, 12), slice(0, 9), slice(19, 24))
    np.testing.assert_array_equal(labels.read(box), expected[box])
    np.testing.assert_array_equal(labels.read((slice(0, 2),) * 3), IGNORE)


def test_labels_of_the_whole_for_a_crop_of_the_image(write):
    image = write("image", np.zeros((24, 24, 24), np.uint8), crop="[4:20, :, 10:]")
    whole = write("truth", TRUTH)
    np.testing.assert_array_equal(resample_labels(whole, image).read(WHOLE), TRUTH[4:20, :, 10:])


def test_labels_at_another_voxel_size_and_of_a_dtype_that_cannot_hold_ignore(write):
    image = write("image", np.zeros((24, 24, 24), np.uint8), origin=(100, 100, 100))
    coarse = write("coarse", TRUTH[:6, :6, :6].astype(np.int8), size=8.0, origin=(100 + 2 + 16, 100 + 2, 100 + 2 - 8))
    labels = resample_labels(coarse, image)
    expected = np.full((24, 24, 24), IGNORE, np.int16)
    enlarged = TRUTH[:6, :6, :6].repeat(2, 0).repeat(2, 1).repeat(2, 2)
    expected[4:16, :12, :10] = enlarged[:, :, 2:]
    np.testing.assert_array_equal(labels.read(WHOLE), expected)


def test_labels_without_a_position_are_taken_by_their_extent(write):
    image = write("image", np.zeros((24, 24, 24), np.uint8), origin=(1000, 0, 0))
    assert resample_labels(write("truth", TRUTH), image).read(WHOLE).tolist() == TRUTH.tolist()
    # Both cropped by their paths: the crop alone is no position.
    image = write("image", np.zeros((24, 24, 24), np.uint8), origin=(1000, 0, 0), crop="[4:20, :, :]")
    labels = resample_labels(write("truth", TRUTH, crop="[4:20, :, :]"), image)
    np.testing.assert_array_equal(labels.read(WHOLE), TRUTH[4:20])
    # An image without a position, labels with one: the extent decides.
    image = write("image", np.zeros((24, 24, 24), np.uint8))
    assert resample_labels(write("truth", TRUTH, origin=(9000, 0, 0)), image).read(WHOLE).tolist() == TRUTH.tolist()


def test_positions_within_half_a_voxel_are_the_same(write):
    image = write("image", np.zeros((24, 24, 24), np.uint8), origin=(1000, 0, 0))
    truth = write("truth", TRUTH, origin=(1002, 0, -2))
    assert resample_labels(truth, image) is truth
    moved = resample_labels(write("truth", TRUTH, origin=(1003, 0, 0)), image).read(WHOLE)
    assert (moved[0] == IGNORE).all() and np.array_equal(moved[1:], TRUTH[:-1])


def test_labels_elsewhere_are_refused_in_one_line(write):
    image = write("image", np.zeros((24, 24, 24), np.uint8), origin=(1000, 0, 0))
    for data in (TRUTH, TRUTH[:5]):
        with pytest.raises(UserError, match=r"truth.*nor overlap: they lie at \(5000, 0, 0\) and \(1000, 0, 0\) nm"):
            resample_labels(write("truth", data, origin=(5000, 0, 0)), image)
    with pytest.raises(UserError, match="do not fit the image .* nm; give labels of the same volume"):
        resample_labels(write("truth", TRUTH[:5]), image)


def test_a_config_with_labels_of_a_part(tiny, tmp_path, write):
    data = np.random.default_rng(1).integers(1, 250, (24, 24, 24), np.uint8)
    write("image", data, origin=(1000, 0, 0))
    write("part", TRUTH[4:10], origin=(1016, 0, 0))
    tiny.data.test, tiny.data.test_labels = str(tmp_path / "image"), str(tmp_path / "part")
    tiny.data.class_names = ("a", "b", "c", "d")
    labels = target(tiny, tmp_path, need_labels=True).labels.read(WHOLE)
    assert (labels[:4] == IGNORE).all() and (labels[10:] == IGNORE).all() and np.array_equal(labels[4:10], TRUTH[4:10])


def test_labels_of_the_images_shape_lie_where_their_own_metadata_say(tiny, tmp_path, write):
    """Shape alone does not make them labels of the whole image."""
    data = np.random.default_rng(1).integers(1, 250, (24, 24, 24), np.uint8)
    write("image", data, origin=(1000, 0, 0))
    tiny.data.test, tiny.data.class_names = str(tmp_path / "image"), ("a", "b", "c", "d")

    def truth(name):
        tiny.data.test_labels = str(tmp_path / name)
        return target(tiny, tmp_path, need_labels=True).labels.read(WHOLE)

    write("fine", TRUTH, size=2.0, origin=(999, -1, -1))  # of the first eighth of the image
    labels = truth("fine")
    assert set(np.unique(labels[:12, :12, :12])) <= {0, 1, 2, 3} and np.isin(labels[:12, :12, :12], TRUTH).all()
    assert (labels[12:] == IGNORE).all() and (labels[:, 12:] == IGNORE).all() and (labels[:, :, 12:] == IGNORE).all()
    write("coarse", TRUTH, size=8.0, origin=(1002, 2, 2))  # of a space that is larger than the image
    np.testing.assert_array_equal(truth("coarse"), TRUTH[:12, :12, :12].repeat(2, 0).repeat(2, 1).repeat(2, 2))
    write("shifted", TRUTH, origin=(1000, 8, 0))
    labels = truth("shifted")
    assert (labels[:, :2] == IGNORE).all() and np.array_equal(labels[:, 2:], TRUTH[:, :-2])
    write("lost", TRUTH, size=8.0)  # of another voxel size, and nothing says where
    with pytest.raises(UserError, match="lost.* 8.0.*do not fit the image.* 4.0.*data.file_voxel_size_nm"):
        truth("lost")
    tiny.data.file_voxel_size_nm = (4.0, 4.0, 4.0)  # the user knows better
    np.testing.assert_array_equal(truth("lost"), TRUTH)
    tiny.data.file_voxel_size_nm = ()
    write("rounded", TRUTH, size=4.01, origin=(1000, 0, 0))
    np.testing.assert_array_equal(truth("rounded"), TRUTH)


def test_labels_without_a_voxel_size_are_those_of_the_image(tiny, tmp_path, write):
    write("image", np.random.default_rng(1).integers(1, 250, (24, 24, 24), np.uint8))
    tiny.data.test, tiny.data.test_labels = str(tmp_path / "image"), str(tmp_path / "truth.tif")
    tiny.data.class_names = ("a", "b", "c", "d")
    tifffile.imwrite(tmp_path / "truth.tif", TRUTH, photometric="minisblack")
    np.testing.assert_array_equal(target(tiny, tmp_path, need_labels=True).labels.read(WHOLE), TRUTH)
    tifffile.imwrite(tmp_path / "truth.tif", TRUTH[:20], photometric="minisblack")
    with pytest.raises(UserError, match=r"truth.tif.*\(20, 24, 24\).*do not fit the image.*\(24, 24, 24\)"):
        target(tiny, tmp_path, need_labels=True)
