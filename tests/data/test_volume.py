"""open_volume: every format, voxel sizes from metadata, and one clear line for each bad file."""

import json
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr

from his4mae_jax.data.volume import open_volume, tiff_shape
from his4mae_jax.errors import UserError

NM = {"spacing_nm": 8}


def _random(shape=(9, 20, 30), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def _zarr_array(path, data, version, attributes=None, chunks=None):
    array = zarr.create_array(path, shape=data.shape, dtype=data.dtype, zarr_format=version,
                              chunks=chunks or data.shape, attributes=attributes or {})
    array[...] = data
    return array


def _ome(path, data, version, axes="zyx", scale=(30, 4, 5), unit="nanometer", extra=None):
    """An OME-Zarr group of one level, with the metadata of 0.4 (v2) or 0.5 (v3)."""
    space = {"type": "space"} | ({"unit": unit} if unit else {})
    image = {"axes": [{"name": a} | (space if a in "zyx" else {}) for a in axes],
             "datasets": [{"path": "s0", "coordinateTransformations": [
                 {"type": "scale", "scale": [1] * (len(axes) - 3) + list(scale)}]}]} | (extra or {})
    attributes = ({"multiscales": [image | {"version": "0.4"}]} if version == 2 else
                  {"ome": {"version": "0.5", "multiscales": [image]}})
    zarr.create_group(path, zarr_format=version, attributes=attributes)
    _zarr_array(path / "s0", data, version)


def _error(path, *args, **kwargs):
    with pytest.raises(UserError) as caught:
        open_volume(path, *args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and os.fspath(path) in message
    return message


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_array(tmp_path, version):
    data = _random(dtype=np.uint16)
    _zarr_array(tmp_path / "v.zarr", data, version, {"voxel_size_nm": [30, 4, 5]}, (4, 8, 8))
    volume = open_volume(tmp_path / "v.zarr")
    assert (volume.shape, volume.dtype) == (data.shape, np.uint16)
    assert volume.voxel_size_nm == (30.0, 4.0, 5.0)
    box = (slice(2, 9), slice(5, 6), slice(0, 30))
    np.testing.assert_array_equal(volume.read(box), data[box])
    assert open_volume(tmp_path / "v.zarr", 7).voxel_size_nm == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("unit, factor", [("nanometer", 1), ("micrometer", 1e3),
                                          ("angstrom", 0.1)])
def test_ome_zarr_units(tmp_path, version, unit, factor):
    data = _random()
    _ome(tmp_path / "v", data, version, unit=unit)
    volume = open_volume(tmp_path / "v")
    np.testing.assert_allclose(volume.voxel_size_nm, np.array((30, 4, 5)) * factor)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    level = open_volume(tmp_path / "v" / "s0")  # a level by its own path keeps the scale
    assert level.voxel_size_nm == volume.voxel_size_nm


def test_ome_zarr_axes_and_global_scale(tmp_path):
    data = _random((1, 1, 4, 5, 6))
    _ome(tmp_path / "five", data, 2, "tczyx", extra={"coordinateTransformations": [
        {"type": "scale", "scale": [1, 1, 2, 2, 2]}]})
    volume = open_volume(tmp_path / "five")
    assert volume.shape == (4, 5, 6) and volume.voxel_size_nm == (60, 8, 10)
    _ome(tmp_path / "xyz", data[0, 0].transpose(2, 1, 0), 2, "xyz", scale=(5, 4, 30))
    volume = open_volume(tmp_path / "xyz")
    assert volume.voxel_size_nm == (30, 4, 5)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data[0, 0])
    _ome(tmp_path / "channels", _random((2, 4, 5, 6)), 3, "czyx")
    assert "not a 3D volume" in _error(tmp_path / "channels")


def test_ome_zarr_without_unit(tmp_path):
    _ome(tmp_path / "v", _random(), 2, unit=None)
    assert "data.voxel_size_nm" in _error(tmp_path / "v")
    assert open_volume(tmp_path / "v", (30, 4, 5)).voxel_size_nm == (30, 4, 5)


@pytest.mark.parametrize("options", [
    {}, {"bigtiff": True}, {"byteorder": ">"}, {"compression": "zlib"},
    {"compression": "lzw", "predictor": True}, {"compression": "zlib", "tile": (16, 16)}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_tiff(tmp_path, options, dtype):
    data = _random(dtype=dtype)
    tifffile.imwrite(tmp_path / "v.tif", data, photometric="minisblack", metadata=NM, **options)
    volume = open_volume(tmp_path / "v.tif")
    assert volume.voxel_size_nm == (8, 8, 8) and volume.dtype == dtype
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    box = (slice(3, 4), slice(0, 7), slice(29, 30))
    np.testing.assert_array_equal(volume.read(box), data[box])
    with pytest.raises(IndexError):
        volume.read((slice(0, 10), slice(0, 1), slice(0, 1)))


def test_tiff_pages_on_their_own(tmp_path):
    data = _random()
    with tifffile.TiffWriter(tmp_path / "v.tif") as writer:
        for page in data:
            writer.write(page, contiguous=False, metadata=None)
    np.testing.assert_array_equal(
        open_volume(tmp_path / "v.tif", 8).read((slice(None),) * 3), data)
    with tifffile.TiffWriter(tmp_path / "described.tif") as writer:
        for page in data:
            writer.write(page, contiguous=False)
    volume = open_volume(tmp_path / "described.tif", 8)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    assert tiff_shape(tmp_path / "described.tif") == data.shape


def test_tiff_voxel_sizes(tmp_path):
    data = _random(dtype=np.uint16)
    tifffile.imwrite(tmp_path / "j.tif", data, photometric="minisblack",
                     metadata={"spacing_nm": [30, 4, 5]})
    assert open_volume(tmp_path / "j.tif").voxel_size_nm == (30, 4, 5)
    tifffile.imwrite(tmp_path / "i.tif", data, imagej=True, resolution=(1 / 0.005, 1 / 0.004),
                     metadata={"spacing": 0.03, "unit": "um", "axes": "ZYX"})
    volume = open_volume(tmp_path / "i.tif")
    np.testing.assert_allclose(volume.voxel_size_nm, (30, 4, 5), rtol=1e-5)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    tifffile.imwrite(tmp_path / "o.ome.tif", data, photometric="minisblack", metadata={
        "axes": "ZYX", "PhysicalSizeZ": 0.03, "PhysicalSizeY": 4, "PhysicalSizeYUnit": "nm",
        "PhysicalSizeX": 50, "PhysicalSizeXUnit": "Å"})
    np.testing.assert_allclose(open_volume(tmp_path / "o.ome.tif").voxel_size_nm, (30, 4, 5))
    tifffile.imwrite(tmp_path / "none.tif", data, photometric="minisblack")
    assert "data.voxel_size_nm" in _error(tmp_path / "none.tif")
    for bad in (0, -3, (1, 2), float("nan"), "wide"):
        assert "voxel size" in _error(tmp_path / "none.tif", bad)


def test_folder_of_slices(tmp_path):
    data = _random((12, 8, 9))
    for i, page in enumerate(data):
        tifffile.imwrite(tmp_path / f"s_{i}.TIF", page, metadata=NM,
                         compression="zlib" if i % 2 else None)
    (tmp_path / "notes.txt").write_text("not a slice")
    volume = open_volume(tmp_path)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    assert volume.voxel_size_nm == (8, 8, 8)
    tifffile.imwrite(tmp_path / "s_5.TIF", data[5, 1:])
    assert "s_5.TIF" in _error(tmp_path)
    tifffile.imwrite(tmp_path / "s_5.TIF", data, photometric="minisblack")
    assert "not a 2D slice" in _error(tmp_path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw"},
                                     {"bigtiff": True}, {"imagej": True}, {"ome": True},
                                     {"contiguous": False}])
@pytest.mark.parametrize("kept", [0.98, 0.6, 0.05, 0.002])
def test_truncated_tiff_is_found_when_opened(tmp_path, options, kept):
    path, data = tmp_path / "v.tif", _random((20, 32, 32))
    if "contiguous" in options:
        with tifffile.TiffWriter(path) as writer:
            for page in data:
                writer.write(page, metadata=None, **options)
    else:
        tifffile.imwrite(path, data, **({} if "imagej" in options
                                        else {"photometric": "minisblack"}), **options)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(len(whole) * kept)])
    message = _error(path, 8)
    assert "truncated" in message or "unreadable" in message or "not a TIFF" in message


def test_imagej_stack_over_one_header(tmp_path):
    """ImageJ writes stacks over 4 GB with one header, and the rest of the slices behind it."""
    path, data = tmp_path / "v.tif", _random((20, 32, 32))
    tifffile.imwrite(path, data[0], metadata=None, description="ImageJ=1.54f\nimages=20\n"
                     "slices=20\nunit=nm\nspacing=8\n")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[0]
    content = path.read_bytes()[:offset] + data.tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(open_volume(path, 8).read((slice(None),) * 3), data)
    path.write_bytes(content[:-1000])
    assert "truncated" in _error(path, 8)


def test_damaged_compressed_tiff(tmp_path):
    path = tmp_path / "v.tif"
    tifffile.imwrite(path, _random((20, 64, 64)), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[10].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[start:start + 400] = b"\xff" * 400
    path.write_bytes(content)
    assert "unreadable" in _error(path, 8)


def test_slices_of_different_shapes_in_one_tiff(tmp_path):
    with tifffile.TiffWriter(tmp_path / "v.tif") as writer:
        for i in range(4):
            writer.write(np.zeros((8, 8 + i // 2), np.uint8), contiguous=False, metadata=None)
    message = _error(tmp_path / "v.tif", 8)
    assert "(8, 8)" in message and "(8, 9)" in message


def test_lzw_without_imagecodecs(tmp_path):
    path = tmp_path / "v.tif"
    tifffile.imwrite(path, _random(), photometric="minisblack", compression="lzw")
    code = ("import sys; sys.modules['imagecodecs'] = None\n"
            "from his4mae_jax.data.volume import open_volume\n"
            f"open_volume({str(path)!r}, 8)")
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError" in last and "pip install imagecodecs" in last and str(path) in last


def test_not_a_volume(tmp_path):
    assert "no such file" in _error(tmp_path / "absent.tif", 8)
    (tmp_path / "empty.tif").touch()
    assert "empty" in _error(tmp_path / "empty.tif", 8)
    (tmp_path / "v.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "not a TIFF" in _error(tmp_path / "v.h5", 8)
    (tmp_path / "folder").mkdir()
    assert "neither zarr" in _error(tmp_path / "folder", 8)
    assert "local" in _error("gs://bucket/cell.zarr", 8)
    tifffile.imwrite(tmp_path / "flat.tif", np.zeros((8, 9), np.uint8))
    assert "not a 3D volume" in _error(tmp_path / "flat.tif", 8)
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((4, 8, 9, 3), np.uint8), photometric="rgb")
    assert "not a 3D volume" in _error(tmp_path / "rgb.tif", 8)
    _zarr_array(tmp_path / "none.zarr", np.zeros((0, 4, 4), np.uint8), 2, chunks=(1, 4, 4))
    assert "is empty" in _error(tmp_path / "none.zarr", 8)
    loop = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 256, 3, 1, 1, 8)  # a page after itself
    (tmp_path / "loop.tif").write_bytes(loop)
    _error(tmp_path / "loop.tif", 8)


def test_dtypes(tmp_path):
    for dtype in (np.float64, np.uint32, np.int8):
        path = tmp_path / f"{np.dtype(dtype)}.tif"
        tifffile.imwrite(path, _random(dtype=dtype), photometric="minisblack")
        message = _error(path, 8)
        assert str(np.dtype(dtype)) in message and "uint8, uint16, int16, float32" in message
    assert open_volume(tmp_path / "uint32.tif", 8, image=False).dtype == np.uint32
    tifffile.imwrite(tmp_path / "bool.tif", _random() > 100, photometric="minisblack")
    assert open_volume(tmp_path / "bool.tif", 8, image=False).dtype == bool
    assert "cannot hold labels" in _error(tmp_path / "float64.tif", 8, image=False)


@pytest.mark.parametrize("version, file", [(2, ".zarray"), (3, "zarr.json")])
def test_damaged_zarr(tmp_path, version, file):
    path = tmp_path / "v.zarr"
    _zarr_array(path, _random(), version)
    whole = (path / file).read_text()
    (path / file).write_text(whole[:60])
    assert "damaged" in _error(path, 8)
    (path / file).write_text(json.dumps({k: v for k, v in json.loads(whole).items()
                                         if k != "shape"}))
    assert "shape" in _error(path, 8)
    (path / file).write_text(whole)
    chunk = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:100])
    volume = open_volume(path, 8)
    with pytest.raises(UserError, match="cannot read the data"):
        volume.read((slice(None),) * 3)


@pytest.mark.parametrize("broken", [
    [], [{}], [{"axes": ["z", "y", "x"], "datasets": [{"path": "s0",
                "coordinateTransformations": [{"type": "scale", "scale": "big"}]}]}],
    [{"axes": [{"name": "z"}] * 2, "datasets": [{"path": "s0"}]}],
    [{"axes": [{"name": n, "unit": "nanometer"} for n in "zyx"], "datasets": [{"path": "gone"}]}]])
def test_damaged_ome_metadata(tmp_path, broken):
    path = tmp_path / "v"
    zarr.create_group(path, zarr_format=2, attributes={"multiscales": broken})
    _zarr_array(path / "s0", _random(), 2)
    _error(path, 8)


def test_group_without_ome_metadata_names_its_arrays(tmp_path):
    zarr.create_group(tmp_path / "g", zarr_format=2)
    _zarr_array(tmp_path / "g" / "raw", _random(), 2)
    assert "raw" in _error(tmp_path / "g", 8)
    assert open_volume(tmp_path / "g" / "raw", 8).shape == (9, 20, 30)


def test_a_path_written_again_is_read_again(tmp_path):
    path = tmp_path / "v.zarr"
    for value in (1, 2):
        array = ts.open({"driver": "zarr", "kvstore": {"driver": "file", "path": str(path)}},
                        create=True, delete_existing=True, dtype=ts.uint8, shape=[4, 4, 4]).result()
        array.write(np.uint8(value)).result()
        assert (open_volume(path, 8).read((slice(None),) * 3) == value).all()


def test_real_epfl_volume():
    root = os.environ.get("HIS4MAE_SHARED_DATA")
    root = pathlib.Path(root) if root else pathlib.Path(__file__).parents[3] / "shared" / "data"
    path = root / "epfl_hippocampus" / "training_10nm.tif"
    if not path.exists():
        pytest.skip("the EPFL volume is not on this machine")
    volume = open_volume(path)
    assert volume.shape == (82, 384, 512) and volume.voxel_size_nm == (10, 10, 10)
    assert volume.read((slice(40, 41), slice(0, 384), slice(0, 512))).std() > 10
