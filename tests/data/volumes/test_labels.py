"""The inside of a cell: eroded lazily, box by box, as the whole volume would be."""

import numpy as np
import pytest
import scipy.ndimage
from memory_volume import MemoryVolume

from his4mae_jax.data.volumes.labels import IGNORE, Foreground, Inside


@pytest.fixture
def cell():
    """A few classes in a cell that touches the volume's border and has holes."""
    rng = np.random.default_rng(0)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(21, 30, 26)), 4)
    labels = rng.integers(0, 4, smooth.shape).astype(np.uint8)
    labels[smooth > np.quantile(smooth, 0.8)] = IGNORE
    labels[10, 3, 25] = IGNORE
    return MemoryVolume(labels, voxel_size_nm=(4.0, 4.0, 8.0))


@pytest.mark.parametrize("margin", [1, 2, 5])
def test_inside_is_at_least_the_margin_from_what_is_ignored(cell, margin):
    """Against SciPy's chessboard distance on the whole volume, whose border is none of the cell's."""
    distance = scipy.ndimage.distance_transform_cdt(cell.array != IGNORE, "chessboard")
    want = np.where(distance > margin, cell.array, IGNORE)
    found = Inside(cell, margin).read((slice(None),) * 3)
    np.testing.assert_array_equal(found, want)
    assert (want != IGNORE).any() and (want[0] != IGNORE).any() and ((want == IGNORE) & (cell.array != IGNORE)).any()


def test_boxes_read_lazily_equal_the_whole(cell):
    inside = Inside(cell, 3)
    whole, rng = inside.read((slice(None),) * 3), np.random.default_rng(1)
    for _ in range(50):
        low = rng.integers(0, cell.shape)
        box = tuple(slice(int(a), int(rng.integers(a + 1, n + 1))) for a, n in zip(low, cell.shape, strict=True))
        np.testing.assert_array_equal(inside.read(box), whole[box])


def test_only_the_box_and_its_margin_are_read(cell, monkeypatch):
    boxes = []
    monkeypatch.setattr(MemoryVolume, "read", lambda self, box: boxes.append(box) or self.array[box])
    Inside(cell, 3).read((slice(0, 2), slice(10, 12), slice(24, 26)))
    assert boxes == [(slice(0, 5), slice(7, 15), slice(21, 26))]


def test_without_a_margin_labels_are_the_sources(cell):
    inside = Inside(cell, 0)
    np.testing.assert_array_equal(inside.read((slice(2, 9), slice(None), slice(5, 6))), cell.array[2:9, :, 5:6])
    assert (inside.name, inside.shape, inside.dtype) == ("cell", cell.shape, np.uint8)
    assert inside.voxel_size_nm == cell.voxel_size_nm


def test_the_source_is_not_changed(cell):
    before = cell.array.copy()
    Inside(cell, 2).read((slice(None),) * 3)
    np.testing.assert_array_equal(cell.array, before)


def test_a_box_outside_the_volume_is_refused(cell):
    with pytest.raises(IndexError):
        Inside(cell, 2).read((slice(0, 22), slice(0, 5), slice(0, 5)))


@pytest.mark.parametrize(
    "dtype, values, inside",
    [
        (np.uint64, [0, 1, 2**63, 2**64 - 2, 2**64 - 1], [0, 1, 1, 1, 0]),
        (np.uint32, [0, 7, 2**31, 2**32 - 2, 2**32 - 1], [0, 1, 1, 1, 0]),
        (np.int64, [0, 7, 255, -1, 2**63 - 1], [0, 1, 1, 0, 1]),
        (np.uint8, [0, 1, 127, 254, 255], [0, 1, 1, 1, 1]),
        (np.uint16, [0, 1, 255, 65534, 65535], [0, 1, 1, 1, 1]),
        (bool, [False, True, True, False, False], [0, 1, 1, 0, 0]),
    ],
)
def test_what_a_mask_holds(dtype, values, inside):
    """The largest 32- or 64-bit number is a background of -1; 255 and 65535 are masks."""
    mask = Foreground(MemoryVolume(np.array(values, dtype).reshape(1, 1, 5)))
    np.testing.assert_array_equal(mask.read((slice(None),) * 3).ravel(), inside)
    assert mask.dtype == np.uint8
