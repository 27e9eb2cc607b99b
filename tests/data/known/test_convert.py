"""Copies to OME-Zarr: whole or not at all, and on from the block at which they stopped."""

import dataclasses
import os
import shutil
from collections import namedtuple

import numpy as np
import pytest
import tensorstore as ts

from his4mae_jax.data.known import convert
from his4mae_jax.data.known.convert import to_ome_zarr
from his4mae_jax.data.volumes.volume import Volume, open_volume
from his4mae_jax.errors import UserError

WHOLE = (slice(None),) * 3


class _Fails:
    """A volume that can be read a few times."""

    def __init__(self, data, reads, size=(8.0, 4.0, 4.0)):
        self.inner, self.left, self.read_boxes = Volume("cell.tif", ts.array(data), size), reads, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def read(self, slices):
        self.left -= 1
        if self.left < 0:
            raise UserError("cell.tif: the disk was taken out")
        self.read_boxes.append(slices)
        return self.inner.read(slices)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(convert, "BLOCK", (8, 16, 16))
    monkeypatch.setattr(convert, "CHUNK", 8)
    monkeypatch.setattr(convert, "AHEAD", 1)


def _data(dtype=np.uint16, seed=0):
    return np.random.default_rng(seed).integers(0, 60_000, (20, 33, 40)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_copy(small, tmp_path, dtype):
    data, lines = _data(dtype), []
    path = to_ome_zarr(_Fails(data, 10**6), tmp_path / "deep" / "cell.ome.zarr", lines.append)
    copy = open_volume(path)
    np.testing.assert_array_equal(copy.read(WHOLE), data)
    assert copy.voxel_size_nm == (8, 4, 4) and copy.dtype == dtype
    assert os.listdir(tmp_path / "deep") == ["cell.ome.zarr"]
    assert "20x33x40" in lines[0] and "copying" in lines[0]
    to_ome_zarr(_Fails(data, 0), path, lines.append)  # nothing is read again


def test_a_copy_lies_where_its_source_lies(small, tmp_path):
    path, data = tmp_path / "cell.ome.zarr", _data()
    stopped = _Fails(data, 7)
    with pytest.raises(UserError):
        to_ome_zarr(stopped, path, print)
    moved = _Fails(data, 10**6)
    moved.inner = dataclasses.replace(moved.inner, origin_nm=(100.0, -4.0, 2.5))
    to_ome_zarr(moved, path, print)
    assert len(moved.read_boxes) == 27  # the copy of a volume at another place is not continued
    assert open_volume(path).origin_nm == (100, -4, 2.5)


@pytest.mark.parametrize("reads", [0, 1, 7, 26])
def test_goes_on_where_it_stopped(small, tmp_path, reads):
    data, path = _data(), tmp_path / "cell.ome.zarr"
    with pytest.raises(UserError, match="taken out"):
        to_ome_zarr(_Fails(data, reads), path, print)
    assert not path.exists()
    second = _Fails(data, 10**6)
    to_ome_zarr(second, path, print)
    assert len(second.read_boxes) == 27 - reads  # 3 x 3 x 3 blocks
    np.testing.assert_array_equal(open_volume(path).read(WHOLE), data)
    assert os.listdir(tmp_path) == ["cell.ome.zarr"]


def test_another_source_begins_anew(small, tmp_path):
    path = tmp_path / "cell.ome.zarr"
    with pytest.raises(UserError):
        to_ome_zarr(_Fails(_data(), 7), path, print, source="one")
    to_ome_zarr(_Fails(_data(seed=1), 27), path, print, source="two")
    np.testing.assert_array_equal(open_volume(path).read(WHOLE), _data(seed=1))


def test_a_damaged_beginning_is_begun_anew(small, tmp_path):
    path = tmp_path / "cell.ome.zarr"
    with pytest.raises(UserError):
        to_ome_zarr(_Fails(_data(), 7), path, print)
    (tmp_path / "partial.cell.ome.zarr" / "0" / ".zarray").write_text("{")
    to_ome_zarr(_Fails(_data(), 27), path, print)
    np.testing.assert_array_equal(open_volume(path).read(WHOLE), _data())


def test_the_disk_is_checked_first(small, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "total used free")(1e9, 1e9, 1000))
    volume = _Fails(_data(), 10**6)
    with pytest.raises(UserError, match=r"copying cell.tif needs 0\.00 GB"):
        to_ome_zarr(volume, tmp_path / "cell.ome.zarr", print)
    assert not volume.read_boxes and not os.listdir(tmp_path)
