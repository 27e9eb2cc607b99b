"""open_volume: what is refused whatever the format, and a real volume."""

import os
import pathlib
import struct

import numpy as np
import pytest
import tifffile
import zarr

from his4mae_jax.data.volume import open_volume


def _random(shape=(9, 20, 30), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def test_not_a_volume(tmp_path, refusal):
    assert "no such file" in refusal(tmp_path / "absent.tif", 8)
    (tmp_path / "empty.tif").touch()
    assert "empty" in refusal(tmp_path / "empty.tif", 8)
    (tmp_path / "v.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "not a TIFF" in refusal(tmp_path / "v.h5", 8)
    (tmp_path / "folder").mkdir()
    assert "neither zarr" in refusal(tmp_path / "folder", 8)
    assert "local" in refusal("gs://bucket/cell.zarr", 8)
    tifffile.imwrite(tmp_path / "flat.tif", np.zeros((8, 9), np.uint8))
    assert "not a 3D volume" in refusal(tmp_path / "flat.tif", 8)
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((4, 8, 9, 3), np.uint8), photometric="rgb")
    assert "not a 3D volume" in refusal(tmp_path / "rgb.tif", 8)
    zarr.create_array(tmp_path / "none.zarr", shape=(0, 4, 4), dtype=np.uint8, zarr_format=2, chunks=(1, 4, 4))
    assert "is empty" in refusal(tmp_path / "none.zarr", 8)
    loop = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 256, 3, 1, 1, 8)  # a page after itself
    (tmp_path / "loop.tif").write_bytes(loop)
    refusal(tmp_path / "loop.tif", 8)


def test_dtypes(tmp_path, refusal):
    for dtype in (np.float64, np.uint32, np.int8):
        path = tmp_path / f"{np.dtype(dtype)}.tif"
        tifffile.imwrite(path, _random(dtype=dtype), photometric="minisblack")
        message = refusal(path, 8)
        assert str(np.dtype(dtype)) in message and "uint8, uint16, int16, float32" in message
    assert open_volume(tmp_path / "uint32.tif", 8, image=False).dtype == np.uint32
    tifffile.imwrite(tmp_path / "bool.tif", _random() > 100, photometric="minisblack")
    assert open_volume(tmp_path / "bool.tif", 8, image=False).dtype == bool
    assert "cannot hold labels" in refusal(tmp_path / "float64.tif", 8, image=False)


def test_real_epfl_volume():
    root = os.environ.get("HIS4MAE_SHARED_DATA")
    root = pathlib.Path(root) if root else pathlib.Path(__file__).parents[3] / "shared" / "data"
    path = root / "epfl_hippocampus" / "training_10nm.tif"
    if not path.exists():
        pytest.skip("the EPFL volume is not on this machine")
    volume = open_volume(path)
    assert volume.shape == (82, 384, 512) and volume.voxel_size_nm == (10, 10, 10)
    assert volume.read((slice(40, 41), slice(0, 384), slice(0, 512))).std() > 10
