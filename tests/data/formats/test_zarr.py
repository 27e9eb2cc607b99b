"""Zarr: both versions, OME-Zarr's axes and units, and one clear line for damaged metadata."""

import json

import numpy as np
import pytest
import tensorstore as ts
import zarr

from his4mae_jax.data.volumes.volume import open_volume
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
    _ome(tmp_path / "v", data, version, scale=np.divide((30, 4, 5), factor).tolist(), unit=unit)
    volume = open_volume(tmp_path / "v")
    np.testing.assert_allclose(volume.voxel_size_nm, (30, 4, 5))
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
    with pytest.raises(UserError, match=f"v.zarr: cannot read the data \\({chunk.relative_to(path)}: "):
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


def _ome_pyramid(path, data, version):
    """Three levels of an OME-Zarr image, of which z is halved only once."""
    steps = [(1, 1, 1), (1, 2, 2), (2, 4, 4)]
    datasets = [
        {"path": f"scale/{i}", "coordinateTransformations": [{"type": "scale", "scale": [30 * z, 4 * y, 5 * x]}]}
        for i, (z, y, x) in enumerate(steps)
    ]
    image = {"axes": [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"], "datasets": datasets}
    wrapped = {"ome": {"version": "0.5", "multiscales": [image]}} if version == 3 else {"multiscales": [image]}
    zarr.create_group(path, zarr_format=version, attributes=wrapped)
    for i, step in enumerate(steps):
        _zarr_array(path / "scale" / str(i), data[tuple(slice(None, None, s) for s in step)], version)
    return steps


@pytest.mark.parametrize("version", [2, 3])
def test_the_level_for_a_voxel_size(tmp_path, version, refusal):
    data = _random((8, 24, 32))
    steps = _ome_pyramid(tmp_path / "v", data, version)
    for target, level in ((None, 0), (20, 0), (30, 1), (59, 1), ((60, 16, 20), 2), (500, 2)):
        volume = open_volume(tmp_path / "v", target_nm=target)
        step = steps[level]
        assert volume.voxel_size_nm == (30 * step[0], 4 * step[1], 5 * step[2])
        every = tuple(slice(None, None, s) for s in step)
        np.testing.assert_array_equal(volume.read((slice(None),) * 3), data[every])
        # A box is given in voxels of level 0, whatever level is opened.
        box = open_volume(f"{tmp_path / 'v'}[4:8, 8:16, 4:]", target_nm=target)
        np.testing.assert_array_equal(box.read((slice(None),) * 3), data[4:8, 8:16, 4:][every])
    # A given size is that of level 0; the coarser ones follow from it.
    volume = open_volume(tmp_path / "v", (60, 8, 10), target_nm=60)
    assert volume.voxel_size_nm == (60, 16, 20)
    assert "8 x 24 x 32" in refusal(f"{tmp_path / 'v'}[0:10, :, :]", target_nm=60)
    with pytest.raises(UserError, match="voxel size"):
        open_volume(tmp_path / "v", target_nm=-1)


def test_only_the_finest_level_must_be_plausible(tmp_path, refusal):
    steps = [(1, 1, 1), (4000, 4000, 4000)]
    datasets = [{"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [4 * s for s in step]}]}
                for i, step in enumerate(steps)]  # fmt: skip
    image = {"axes": [{"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"], "datasets": datasets}
    zarr.create_group(tmp_path / "v", zarr_format=2, attributes={"multiscales": [image]})
    for i in range(2):
        _zarr_array(tmp_path / "v" / str(i), _random(), 2)
    assert open_volume(tmp_path / "v", target_nm=16_000).voxel_size_nm == (16_000,) * 3
    _ome(tmp_path / "w", _random(), 2, unit="millimeter")
    assert "3e+07 x 4e+06 x 5e+06 nm" in refusal(tmp_path / "w") and "confirm" in refusal(tmp_path / "w")


def test_dimension_names_of_an_array(tmp_path):
    data = _random((4, 5, 6))
    zarr.create_array(tmp_path / "v", data=data.transpose(2, 0, 1), zarr_format=3, dimension_names=["x", "z", "y"])
    np.testing.assert_array_equal(open_volume(tmp_path / "v", 8).read((slice(None),) * 3), data)


def test_an_unknown_unit_is_named(tmp_path, refusal):
    _ome(tmp_path / "v", _random(), 2, unit="parsec")
    assert "'parsec'" in refusal(tmp_path / "v") and "data.file_voxel_size_nm" in refusal(tmp_path / "v")


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_that_lie_about_the_chunks(tmp_path, version):
    """A chunk that unpacks to another size than the metadata say is refused, not cut or filled."""
    path = tmp_path / "v.zarr"
    _zarr_array(path, _random((8, 8, 8)), version, chunks=(4, 8, 8))
    file = path / (".zarray" if version == 2 else "zarr.json")
    metadata = json.loads(file.read_text())
    grid = metadata if version == 2 else metadata["chunk_grid"]["configuration"]
    grid["chunks" if version == 2 else "chunk_shape"] = [8, 8, 8]
    file.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="cannot read the data"):
        open_volume(path, 8).read((slice(None),) * 3)
