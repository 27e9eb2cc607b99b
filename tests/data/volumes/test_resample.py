"""resample: geometry, antialiasing, laziness, and boxes that agree with the whole."""

import dataclasses

import numpy as np
import pytest
import tensorstore as ts
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax.data.formats.tiff import stack
from his4mae_jax.data.stores import virtual_chunked
from his4mae_jax.data.volumes import resample as resampling
from his4mae_jax.data.volumes.label_grid import resample_labels
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.data.volumes.volume import Volume, open_volume
from his4mae_jax.errors import UserError

WHOLE = (slice(None),) * 3


def _volume(data, size=(10.0, 10.0, 10.0)):
    return Volume("v", ts.array(data), size)


def _random(shape, dtype=np.uint8, seed=0):
    return (np.random.default_rng(seed).random(shape) * 255).astype(dtype)


@dataclasses.dataclass
class _Recorder:
    """A volume that remembers the boxes read from it."""

    inner: Volume
    boxes: list

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def read(self, slices):
        self.boxes.append(slices)
        return self.inner.read(slices)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_box_equals_that_part_of_the_whole(data):
    shape = data.draw(st.tuples(*[st.integers(1, 24)] * 3))
    size = data.draw(st.tuples(*[st.floats(2, 30)] * 3))
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]))
    labels = dtype is not np.float32 and data.draw(st.booleans())
    volume = resample(_volume(_random(shape, dtype), size), data.draw(st.floats(4, 40)), labels=labels)
    whole = volume.read(WHOLE)
    assert whole.shape == volume.shape and whole.dtype == volume.dtype == dtype
    box = []
    for n in volume.shape:
        low = data.draw(st.integers(0, n - 1))
        box.append(slice(low, data.draw(st.integers(low, n))))
    np.testing.assert_array_equal(volume.read(tuple(box)), whole[tuple(box)])


def test_a_large_box_is_read_in_pieces_and_comes_out_the_same(monkeypatch):
    for labels in (False, True):
        source = _Recorder(_volume(_random((40, 50, 60)), (10, 12, 7)), [])
        volume = resample(source, 17, labels=labels)
        whole = volume.read(WHOLE)
        assert len(source.boxes) == 1
        with monkeypatch.context() as patch:
            patch.setattr(resampling, "_PIECE", 5000)
            np.testing.assert_array_equal(volume.read(WHOLE), whole)
        assert len(source.boxes) == 2
        with monkeypatch.context() as patch:
            patch.setattr(resampling, "_READ_BYTES", 5000)
            np.testing.assert_array_equal(volume.read(WHOLE), whole)
        sizes = [np.prod([s.stop - s.start for s in box]) for box in source.boxes[2:]]
        assert len(sizes) > 20 and max(sizes) <= 5000


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("pages_at_once", [40, 20])
def test_every_page_of_a_compressed_tiff_is_decoded_once(labels, pages_at_once, tmp_path, monkeypatch):
    """However a resampled volume is read, where the cache holds the pages of a few target slices."""
    data = _random((90, 48, 64))
    tifffile.imwrite(tmp_path / "v.tif", data, compression="zlib", photometric="minisblack")
    page, decoded = 48 * 64, []
    # Fewer pages than the volume has, and well over those of one read, as with the real limits (32 MB of 256 MB): pages
    # that threads decode out of order must outlive the read that wants them next.
    monkeypatch.setattr(virtual_chunked, "PAGE_CACHE_BYTES", 60 * page)
    monkeypatch.setattr(resampling, "_READ_BYTES", pages_at_once * page)
    read = stack._Pages.read
    monkeypatch.setattr(stack._Pages, "read", lambda self, box: decoded.append(box[0].start) or read(self, box))

    def volume():
        decoded.clear()
        return resample(open_volume(tmp_path / "v.tif", 5, image=not labels, cache_bytes=1), 15, labels=labels)

    whole = volume().read(WHOLE)
    assert len(decoded) == len(set(decoded)) and set(decoded) >= set(range(1, 90, 3))
    sliced = volume()
    slices = [sliced.read((slice(z, z + 1), *WHOLE[1:])) for z in range(30)]
    assert sorted(decoded) == list(range(1, 90, 3) if labels else range(90))
    np.testing.assert_array_equal(np.concatenate(slices), whole)
    cut = volume()
    parts = [
        cut.read((slice(z, z + 5), slice(y, y + 4), slice(x, x + 7))) for z in (10,) for y in (0, 4) for x in (0, 7)
    ]
    assert len(decoded) == len(set(decoded)) <= 30
    np.testing.assert_array_equal(np.block([parts[:2], parts[2:]]), whole[10:15, :8, :14])


@given(st.tuples(*[st.integers(1, 30)] * 3), st.tuples(*[st.floats(2, 30)] * 3))
def test_each_axis_has_its_own_size(shape, target):
    volume = resample(_volume(_random(shape, np.float32)), target)
    assert volume.voxel_size_nm == target or volume.voxel_size_nm == (10.0,) * 3
    expected = np.floor(np.array(shape) * 10 / np.array(volume.voxel_size_nm) + 1e-6)
    assert volume.shape == tuple(np.maximum(expected, 1))


def test_an_axis_that_keeps_its_size_keeps_its_planes():
    data = _random((6, 30, 30), np.float32)
    out = resample(_volume(data), (10, 30, 30)).read(WHOLE)
    for z in range(6):
        np.testing.assert_array_equal(out[z : z + 1], resample(_volume(data[z : z + 1]), (10, 30, 30)).read(WHOLE))


def test_labels_on_the_grid_of_an_image():
    ids = _random((20, 30, 31))
    fine = _volume(ids, (5, 5, 5))
    same = resample_labels(fine, _volume(ids, (5, 5, 5)))
    assert same is fine
    image = _volume(np.zeros((10, 15, 16), np.uint8), (10, 10, 10))  # rounded up where floor gives 15
    on_grid = resample_labels(fine, image)
    assert on_grid.shape == image.shape and on_grid.voxel_size_nm == image.voxel_size_nm
    np.testing.assert_array_equal(on_grid.read(WHOLE)[:, :, :15], ids[1::2, 1::2, 1::2])
    np.testing.assert_array_equal(on_grid.read(WHOLE)[:, :, 15], ids[1::2, 1::2, 30])
    with pytest.raises(UserError, match=r"\(20, 30, 31\).*do not fit the image.*\(10, 15, 30\)"):
        resample_labels(fine, _volume(np.zeros((10, 15, 30), np.uint8), (10, 10, 10)))


def test_identity_within_one_percent():
    volume = _volume(_random((4, 5, 6)), (10.0, 10.05, 9.95))
    assert resample(volume, 10) is volume
    assert resample(volume, 10.3) is not volume


@pytest.mark.parametrize(
    "size, target, shape",
    [
        ((50, 4.6, 4.6), 15, (66, 235, 235)),
        ((10, 10, 10), 20, (10, 384, 384)),
        ((0.1, 0.1, 0.1), 0.3, (6, 256, 256)),
        ((1, 1, 1), 500, (1, 1, 1)),
    ],
)
def test_target_shape(size, target, shape):
    volume = resample(_volume(np.zeros((20, 768, 768), np.uint8), size), target)
    assert volume.shape == shape and volume.voxel_size_nm == (target,) * 3


@pytest.mark.parametrize("target", [4, 7, 13, 20, 37.5])
def test_a_ramp_keeps_its_place(target):
    """Inside, a linear ramp stays the same function of position in nm."""
    n, size = 60, 10.0
    at = (np.arange(n) + 0.5) * size
    ramp = np.broadcast_to(at.astype(np.float32)[:, None, None], (n, 8, 8))
    out = resample(_volume(np.ascontiguousarray(ramp), (size,) * 3), target).read(WHOLE)[:, 0, 0]
    centres = (np.arange(len(out)) + 0.5) * target
    inside = (centres > 100) & (centres < 500)
    np.testing.assert_allclose(out[inside], centres[inside], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_a_constant_stays_constant(dtype):
    value = {"u": 2 ** (8 * np.dtype(dtype).itemsize) - 1}.get(np.dtype(dtype).kind, -7)
    data = np.full((9, 10, 11), value, dtype)
    for target in (4, 15, 31):
        out = resample(_volume(data), target).read(WHOLE)
        np.testing.assert_allclose(out, value, rtol=1e-6)


def test_shrinking_removes_what_the_coarse_grid_cannot_show():
    stripes = np.broadcast_to((np.arange(120) % 3 == 0) * np.float32(1), (12, 12, 120))
    out = resample(_volume(np.ascontiguousarray(stripes)), 40).read(WHOLE)[1, 1, 2:-2]
    np.testing.assert_allclose(out, 1 / 3, atol=0.01)  # bare interpolation: 0 to 2 / 3


def test_against_scipy_interpolation_where_nothing_is_smoothed():
    from scipy import ndimage

    data = _random((7, 8, 9), np.float32)
    out = resample(_volume(data), 4).read(WHOLE)
    at = [(np.arange(n) + 0.5) * 0.4 - 0.5 for n in out.shape]
    expected = ndimage.map_coordinates(data, np.meshgrid(*at, indexing="ij"), order=1, mode="reflect")
    np.testing.assert_allclose(out, expected, atol=1e-3)


def test_labels_are_never_mixed():
    data = np.random.default_rng(0).choice(np.array([3, 70, 9000], np.uint16), (12, 13, 14))
    out = resample(_volume(data), 17, labels=True).read(WHOLE)
    assert set(np.unique(out)) <= {3, 70, 9000}
    np.testing.assert_array_equal(
        resample(_volume(data), 5, labels=True).read(WHOLE), data.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    )
    np.testing.assert_array_equal(
        resample(_volume(data), 30, labels=True).read(WHOLE), data[1::3, 1::3, 1::3][:4, :4, :4]
    )


def test_chunks_are_those_of_the_source_at_the_new_size():
    spec = {"driver": "zarr", "kvstore": {"driver": "memory"}, "metadata": {"chunks": [10, 64, 64]}}
    array = ts.open(spec, create=True, dtype=ts.uint8, shape=(40, 200, 30)).result()
    assert resample(Volume("v", array, (50.0, 5.0, 5.0)), (50, 10, 20)).chunks == (10, 32, 7)


@pytest.mark.parametrize("labels", [False, True])
def test_reads_only_the_box_it_needs(labels):
    source = _Recorder(_volume(_random((200, 200, 200))), [])
    resample(source, 20, labels=labels).read((slice(50, 52), slice(10, 20), slice(99, 100)))
    (box,) = source.boxes
    for s, (low, high) in zip(box, [(100, 104), (20, 40), (198, 200)], strict=True):
        assert low - 8 <= s.start <= s.stop <= high + 8


def test_errors():
    volume = resample(_volume(_random((8, 8, 8))), 20)
    with pytest.raises(IndexError):
        volume.read((slice(0, 5), slice(0, 1), slice(0, 1)))
    with pytest.raises(UserError, match="positive"):
        resample(volume, 0)
