"""Zarr: both versions, OME-Zarr's axes and units, and one clear line for damaged metadata."""

import json

import numpy as np
import pytest
import tensorstore as ts
import zarr

from his4mae_jax.data.volume import open_volume
from his4mae_jax.errors import UserError


def _random(shape=(9, 20, 30), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def _zarr_array(path, data, version, attributes=None, chunks=None):
    array = zarr.create_array(
        path,
        shape=data.shape,
        dtype=data.dtype,
        zarr_format=version,
        chunks=chunks or data.shape,
        attributes=attributes or {},
    )
    array[...] = data
    return array


def _ome(path, data, version, axes="zyx", scale=(30, 4, 5), unit="nanometer", extra=None):
    """An OME-Zarr group of one level, with the metadata of 0.4 (v2) or 0.5 (v3)."""
    space = {"type": "space"} | ({"unit": unit} if unit else {})
    image = {
        "axes": [{"name": a} | (space if a in "zyx" else {}) for a in axes],
        "datasets": [
            {
                "path": "s0",
                "coordinateTransformations": [{"type": "scale", "scale": [1] * (len(axes) - 3) + list(scale)}],
            }
        ],
    } | (extra or {})
    attributes = (
        {"multiscales": [image | {"version": "0.4"}]}
        if version == 2
        else {"ome": {"version": "0.5", "multiscales": [image]}}
    )
    zarr.create_group(path, zarr_format=version, attributes=attributes)
    _zarr_array(path / "s0", data, version)


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
@pytest.mark.parametrize("unit, factor", [("nanometer", 1), ("micrometer", 1e3), ("angstrom", 0.1)])
def test_ome_zarr_units(tmp_path, version, unit, factor):
    data = _random()
    _ome(tmp_path / "v", data, version, unit=unit)
    volume = open_volume(tmp_path / "v")
    np.testing.assert_allclose(volume.voxel_size_nm, np.array((30, 4, 5)) * factor)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    level = open_volume(tmp_path / "v" / "s0")  # a level by its own path keeps the scale
    assert level.voxel_size_nm == volume.voxel_size_nm


def test_ome_zarr_axes_and_global_scale(tmp_path, refusal):
    data = _random((1, 1, 4, 5, 6))
    _ome(
        tmp_path / "five",
        data,
        2,
        "tczyx",
        extra={"coordinateTransformations": [{"type": "scale", "scale": [1, 1, 2, 2, 2]}]},
    )
    volume = open_volume(tmp_path / "five")
    assert volume.shape == (4, 5, 6) and volume.voxel_size_nm == (60, 8, 10)
    _ome(tmp_path / "xyz", data[0, 0].transpose(2, 1, 0), 2, "xyz", scale=(5, 4, 30))
    volume = open_volume(tmp_path / "xyz")
    assert volume.voxel_size_nm == (30, 4, 5)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data[0, 0])
    _ome(tmp_path / "channels", _random((2, 4, 5, 6)), 3, "czyx")
    assert "not a 3D volume" in refusal(tmp_path / "channels")


def test_ome_zarr_without_unit(tmp_path, refusal):
    _ome(tmp_path / "v", _random(), 2, unit=None)
    assert "data.file_voxel_size_nm" in refusal(tmp_path / "v")
    assert open_volume(tmp_path / "v", (30, 4, 5)).voxel_size_nm == (30, 4, 5)


@pytest.mark.parametrize("version, file", [(2, ".zarray"), (3, "zarr.json")])
def test_damaged_zarr(tmp_path, version, file, refusal):
    path = tmp_path / "v.zarr"
    _zarr_array(path, _random(), version)
    whole = (path / file).read_text()
    (path / file).write_text(whole[:60])
    assert "damaged" in refusal(path, 8)
    (path / file).write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "shape"}))
    assert "shape" in refusal(path, 8)
    (path / file).write_text(whole)
    chunk = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:100])
    volume = open_volume(path, 8)
    with pytest.raises(UserError, match="cannot read the data"):
        volume.read((slice(None),) * 3)


@pytest.mark.parametrize(
    "broken",
    [
        [],
        [{}],
        [
            {
                "axes": ["z", "y", "x"],
                "datasets": [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": "big"}]}],
            }
        ],
        [{"axes": [{"name": "z"}] * 2, "datasets": [{"path": "s0"}]}],
        [{"axes": [{"name": n, "unit": "nanometer"} for n in "zyx"], "datasets": [{"path": "gone"}]}],
    ],
)
def test_damaged_ome_metadata(tmp_path, broken, refusal):
    path = tmp_path / "v"
    zarr.create_group(path, zarr_format=2, attributes={"multiscales": broken})
    _zarr_array(path / "s0", _random(), 2)
    refusal(path, 8)


def test_group_without_ome_metadata_names_its_arrays(tmp_path, refusal):
    zarr.create_group(tmp_path / "g", zarr_format=2)
    _zarr_array(tmp_path / "g" / "raw", _random(), 2)
    assert "raw" in refusal(tmp_path / "g", 8)
    assert open_volume(tmp_path / "g" / "raw", 8).shape == (9, 20, 30)


def test_a_path_written_again_is_read_again(tmp_path):
    path = tmp_path / "v.zarr"
    for value in (1, 2):
        array = ts.open(
            {"driver": "zarr", "kvstore": {"driver": "file", "path": str(path)}},
            create=True,
            delete_existing=True,
            dtype=ts.uint8,
            shape=[4, 4, 4],
        ).result()
        array.write(np.uint8(value)).result()
        assert (open_volume(path, 8).read((slice(None),) * 3) == value).all()
