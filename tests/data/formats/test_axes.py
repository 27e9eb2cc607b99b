"""Axes that metadata name in any order, by the key of any writer: read as z, y, x, or refused."""

import json

import numpy as np
import pytest
import tensorstore as ts
import zarr

from his4mae_jax.data.volumes.volume import open_volume

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (4, 5, 6)).astype(np.uint8)  # z, y, x
SIZE = {"z": 30.0, "y": 4.0, "x": 5.0}


def _stored(order):
    """DATA with axes in another order; a "c" or "t" is an axis of one element."""
    letters = [a for a in order if a in "zyx"]
    data = DATA.transpose(["zyx".index(a) for a in letters])
    for i, a in enumerate(order):
        data = data if a in "zyx" else np.expand_dims(data, i)
    return data


def _axistags(order):
    return json.dumps({"axes": [{"key": a, "typeFlags": 2, "resolution": 0, "description": ""} for a in order]})


ORDERS = ("xyz", "zxy", "xyzc", "tzyxc", "czyx", "yxz")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("key", ["axistags", "axis_names", "_ARRAY_DIMENSIONS", "labels", "scales"])
def test_hdf5(tmp_path, order, key):
    h5py = pytest.importorskip("h5py")
    spatial = [a for a in order if a in "zyx"]
    with h5py.File(tmp_path / "v.h5", "w") as file:
        item = file.create_dataset("exported_data", data=_stored(order))
        item.attrs["resolution"], item.attrs["unit"] = [SIZE[a] for a in spatial], "nm"
        item.attrs["offset"] = [{"z": 300, "y": 40, "x": 7}[a] for a in spatial]
        if key == "axistags":
            item.attrs[key] = _axistags(order)
        elif key in ("axis_names", "_ARRAY_DIMENSIONS"):
            item.attrs[key] = [a.upper() for a in order]
        for i, a in enumerate(order):
            if key == "labels":
                item.dims[i].label = a
            elif key == "scales":  # as netCDF-4 does
                scale = file.create_dataset(f"grid/{a}", data=np.arange(item.shape[i], dtype=float))
                scale.make_scale(a)
                item.dims[i].attach_scale(scale)
    volume = open_volume(f"{tmp_path / 'v.h5'}:/exported_data")
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    assert volume.voxel_size_nm == (30, 4, 5) and volume.origin_nm == (300, 40, 7)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("key", ["_ARRAY_DIMENSIONS", "axis_names", "dimension_names"])
def test_zarr(tmp_path, order, key):
    spatial = [a for a in order if a in "zyx"]
    attributes = {"voxel_size": [SIZE[a] for a in spatial], "units": ["nm"] * 3}
    if key == "dimension_names":
        zarr.create_array(tmp_path / "v", data=_stored(order), zarr_format=3, attributes=attributes,
                          dimension_names=list(order.upper()))  # fmt: skip
    else:
        names = [f"{a}^" if a == "c" else a.upper() for a in order]
        zarr.create_array(tmp_path / "v", data=_stored(order), zarr_format=2, attributes=attributes | {key: names})
    volume = open_volume(tmp_path / "v")
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    assert volume.voxel_size_nm == (30, 4, 5)


@pytest.mark.parametrize("order", ["XYZ", "zXy", "TCZYX", "CZYX"])
@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr(tmp_path, order, version):
    low = order.lower()
    image = {
        "axes": [{"name": a, "type": "space", "unit": "nanometer"} for a in order],
        "datasets": [{"path": "0", "coordinateTransformations": [
            {"type": "scale", "scale": [SIZE.get(a, 1) for a in low]}]}],
    }  # fmt: skip
    attributes = {"multiscales": [image | {"version": "0.4"}]}
    if version == 3:
        attributes = {"ome": {"version": "0.5", "multiscales": [image]}}
    zarr.create_group(tmp_path / "v", zarr_format=version, attributes=attributes)
    zarr.create_array(tmp_path / "v" / "0", data=_stored(low), zarr_format=version)
    for path in (tmp_path / "v", tmp_path / "v" / "0"):
        volume = open_volume(path)
        np.testing.assert_array_equal(volume.read(ALL), DATA)
        assert volume.voxel_size_nm == (30, 4, 5)


@pytest.mark.parametrize("key, names", [("axes", "XYZ"), ("axes", "zyx"), ("_ARRAY_DIMENSIONS", "zyx"), ("axes", "xzy"),
                                        ("_ARRAY_DIMENSIONS", "yzx")])  # fmt: skip
def test_n5(tmp_path, key, names):
    """`axes` follow the dimensions; what zarr-python writes follows the array, the other way round."""
    low = names.lower() if key == "axes" else names[::-1]
    data = _stored(low)
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{tmp_path / 'v'}/"},
            "metadata": {"dimensions": data.shape, "blockSize": [4] * 3, "dataType": "uint8"}}  # fmt: skip
    ts.open(spec, create=True).result().write(data).result()
    file = tmp_path / "v" / "attributes.json"
    more = {key: list(names), "resolution": [SIZE[a] for a in low], "unit": "nm"}
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    volume = open_volume(tmp_path / "v")
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    assert volume.voxel_size_nm == (30, 4, 5)


@pytest.mark.parametrize(
    "names", [["dim_0", "dim_1", "dim_2"], ["phony_dim_0", "phony_dim_1", "phony_dim_2"], [None] * 3]
)
def test_names_that_say_nothing(tmp_path, names):
    zarr.create_array(tmp_path / "v", data=DATA, zarr_format=3, attributes={"_ARRAY_DIMENSIONS": names})
    np.testing.assert_array_equal(open_volume(tmp_path / "v", 8).read(ALL), DATA)


@pytest.mark.parametrize("names", ["abc", "tyx", "zy", "zyxx", ["a", 1, 2], 7, "zzyx"])
@pytest.mark.parametrize("version", [2, 3])
def test_names_that_are_not_understood(tmp_path, refusal, names, version):
    listed = list(names) if isinstance(names, str) else names
    zarr.create_array(tmp_path / "v", data=DATA, zarr_format=version, attributes={"axis_names": listed})
    message = refusal(tmp_path / "v", 8)
    assert "axes" in message and ("understood" in message or "its array has 3" in message)
    if version == 3 and isinstance(names, str) and len(names) == 3:
        zarr.create_array(tmp_path / "w", data=DATA, zarr_format=3, dimension_names=listed)
        assert ", ".join(listed) in refusal(tmp_path / "w", 8)


def test_axistags_that_are_not_understood(tmp_path, refusal):
    h5py = pytest.importorskip("h5py")
    for i, tags in enumerate(["{", "[]", '{"axes": [{"key": 1}]}', _axistags("tyx"), _axistags("zy")]):
        with h5py.File(tmp_path / f"{i}.h5", "w") as file:
            file.create_dataset("v", data=DATA).attrs["axistags"] = tags
        assert "axes" in refusal(tmp_path / f"{i}.h5", 8)


def test_n5_axes_that_are_not_understood(tmp_path, refusal):
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{tmp_path / 'v'}/"},
            "metadata": {"dimensions": DATA.shape, "blockSize": [4] * 3, "dataType": "uint8",
                         "axes": ["a", "b", "c"]}}  # fmt: skip
    ts.open(spec, create=True).result().write(DATA).result()
    assert "a, b, c" in refusal(tmp_path / "v", 8)
