"""N5: x first on disk, voxel sizes as four kinds of writers leave them, levels, and damage."""

import json

import numpy as np
import pytest
import tensorstore as ts

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 60000, (8, 9, 10)).astype(np.uint16)


def _write(path, data=DATA, **attributes):
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"},
            "metadata": {"dimensions": data.shape[::-1], "blockSize": [4] * data.ndim, "dataType": data.dtype.name,
                         "compression": {"type": "gzip"}}}  # fmt: skip
    ts.open(spec, create=True).result().write(data.T).result()
    _describe(path, **attributes)


def _describe(path, **attributes):
    path.mkdir(parents=True, exist_ok=True)
    file = path / "attributes.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(old | attributes))


COSEM = {"axes": ["z", "y", "x"], "scale": [30, 4, 5], "translate": [0, 0, 0], "units": ["nm", "nm", "nm"]}


@pytest.mark.parametrize(
    "attributes",
    [
        {"pixelResolution": {"dimensions": [5, 4, 30], "unit": "nm"}},
        {"pixelResolution": {"dimensions": [0.005, 0.004, 0.03], "unit": "um"}},
        {"pixelResolution": [5, 4, 30], "unit": "nm"},
        {"pixelResolution": {"dimensions": [5, 2, 15], "unit": "nm"}, "downsamplingFactors": [1, 2, 2]},
        {"resolution": [5, 4, 30], "units": ["nm", "nm", "nm"]},
        {"resolution": [5e-9, 4e-3, 30], "units": ["m", "um", "nm"]},
        {"transform": COSEM, "pixelResolution": {"dimensions": [1, 1, 1], "unit": "nm"}},
        {"transform": {"axes": ["x", "y", "z"], "scale": [50, 40, 300], "units": ["angstrom"] * 3}},
    ],
)
def test_voxel_sizes(tmp_path, attributes):
    _write(tmp_path / "v", **attributes)
    volume = open_volume(tmp_path / "v")
    np.testing.assert_allclose(volume.voxel_size_nm, (30, 4, 5))
    assert volume.shape == DATA.shape and volume.chunks == (4, 4, 4)
    np.testing.assert_array_equal(volume.read(ALL), DATA)


@pytest.mark.parametrize(
    "attributes, unit",
    [
        ({"pixelResolution": [0.05, 0.04, 0.3]}, None),
        ({"resolution": [1, 1, 1]}, None),
        ({}, None),
        ({"resolution": [5, 4, 30], "unit": "parsec"}, "parsec"),
    ],
)
def test_a_voxel_size_without_a_unit_that_is_known(tmp_path, refusal, attributes, unit):
    _write(tmp_path / "v", **attributes)
    message = refusal(tmp_path / "v")
    assert "data.file_voxel_size_nm" in message and (unit is None or unit in message)
    assert open_volume(tmp_path / "v", (30, 4, 5)).voxel_size_nm == (30, 4, 5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"pixelResolution": [5, 4, 30]},
        {"pixelResolution": {"dimensions": [5, 4, 30]}},
        {"resolution": [5, 4, 30], "offset": [50, 8, 60]},  # daisy, gunpowder, Paintera
        {"resolution": [5, 4, 30], "offset": [50, 8, 60], "units": ["", "", ""]},
        {"voxel_size": [5, 4, 30], "offset": [50, 8, 60], "units": ["nm"] * 3},
        {"voxel_size": [30, 4, 5], "offset": [60, 8, 50], "axis_names": ["z", "y", "x"], "units": ["nm"] * 3},  # funlib
        {"voxel_size": [30, 4, 5], "offset": [60, 8, 50], "axis_names": ["d0", "d1", "d2"], "units": ["", "", ""]},
        {"transform": {"axes": ["z", "y", "x"], "scale": [30, 4, 5], "translate": [60, 8, 50], "units": ["nm"] * 3}},
        {"transform": {"axes": ["z", "y", "x"], "scale": [30, 4, 5], "translate": [60, 8, 50]}},
    ],
)
def test_voxel_sizes_of_funlib_daisy_and_cosem(tmp_path, capsys, attributes):
    """A size without a unit is taken for nm, and that is said once; not where the user gives one."""
    path = tmp_path / "v"
    _write(path, **attributes)
    assert open_volume(path, (60, 8, 10)).voxel_size_nm == (60, 8, 10)
    assert not capsys.readouterr().err
    for volume in (open_volume(path), open_volume(path)):
        assert volume.voxel_size_nm == (30, 4, 5)
        assert volume.origin_nm == ((60, 8, 50) if "pixelResolution" not in attributes else (0, 0, 0))
        np.testing.assert_array_equal(volume.read(ALL), DATA)
    said = capsys.readouterr().err
    unit = any(part in json.dumps(attributes) for part in ('"nm"', '"unit"'))
    assert said.count("\n") == (not unit)
    assert unit or "(30, 4, 5, z, y, x) has no unit and is taken for nm" in said


def test_levels_without_a_unit(tmp_path, capsys):
    """Paintera: `resolution` of the group, `downsamplingFactors` of its levels."""
    group = tmp_path / "data"
    _write(group / "s0")
    _write(group / "s1", DATA[::2, ::2, ::2], downsamplingFactors=[2, 2, 2])
    _describe(group, multiScale=True, resolution=[5, 4, 30], offset=[0, 0, 300])
    volume = open_volume(group, target_nm=60)
    assert (volume.voxel_size_nm, volume.origin_nm) == ((60, 8, 10), (315, 2, 2.5))
    assert capsys.readouterr().err.count("\n") == 1
    assert open_volume(group / "s1").origin_nm == (315, 2, 2.5)


def test_dimensions_in_another_order(tmp_path):
    _write(tmp_path / "v", DATA.T, axes=["z", "y", "x"], resolution=[30, 4, 5], units=["nm"] * 3)
    volume = open_volume(tmp_path / "v")
    assert volume.voxel_size_nm == (30, 4, 5)
    np.testing.assert_array_equal(volume.read(ALL), DATA)


def test_a_channel_axis(tmp_path, refusal):
    _write(tmp_path / "one", DATA[None], pixelResolution={"dimensions": [5, 4, 30], "unit": "nm"})
    np.testing.assert_array_equal(open_volume(tmp_path / "one").read(ALL), DATA)
    _write(tmp_path / "two", np.stack([DATA, DATA]))
    assert "not a 3D volume" in refusal(tmp_path / "two", 8)


def _pyramid(group, own):
    """Three levels; `own(i)` are the attributes of level i."""
    for i in range(3):
        _write(group / f"s{i}", DATA[:: 2**i, :: 2**i, :: 2**i], **own(i))


def _cosem(group):
    _pyramid(group, lambda i: {"transform": COSEM | {"scale": [30 * 2**i, 4 * 2**i, 5 * 2**i]}})


def _cosem_group_alone(group):
    """OpenOrganelle's group: levels with their transforms, x first in `scales` and `pixelResolution`."""
    _pyramid(group, lambda i: {})
    datasets = [{"path": f"s{i}", "transform": COSEM | {"scale": [30 * 2**i, 4 * 2**i, 5 * 2**i]}} for i in range(3)]
    _describe(group, multiscales=[{"datasets": datasets, "name": "em"}], axes=["x", "y", "z"],
              pixelResolution={"dimensions": [5, 4, 30], "unit": "nm"},
              scales=[[1, 1, 1], [2, 2, 2], [4, 4, 4]])  # fmt: skip


def _n5_viewer(group):
    _pyramid(group, lambda i: {"pixelResolution": {"dimensions": [5, 4, 30], "unit": "nm"},
                               "downsamplingFactors": [2**i] * 3})  # fmt: skip


def _neuroglancer(group):
    _pyramid(group, lambda i: {})
    _describe(group, downsamplingFactors=[[2**i] * 3 for i in range(3)], resolution=[5, 4, 30], units=["nm"] * 3)


def _no_group_metadata(group):
    _pyramid(group, lambda i: {"pixelResolution": {"dimensions": [5 * 2**i, 4 * 2**i, 30 * 2**i], "unit": "nm"}})
    _describe(group.parent, n5="2.5.1")
    (group / "attributes.json").write_text("{}")


@pytest.mark.parametrize("make", [_cosem, _cosem_group_alone, _n5_viewer, _neuroglancer, _no_group_metadata])
def test_levels(tmp_path, web, make):
    group = tmp_path / "cell.n5" / "em" / "fibsem-uint16"
    make(group)
    if not (group / "attributes.json").exists():
        _describe(group)
    for place in (group, f"{web.url}/cell.n5/em/fibsem-uint16"):
        for target, factor in ((None, 1), (30, 1), (60, 2), (1000, 4)):
            volume = open_volume(place, target_nm=target)
            assert volume.voxel_size_nm == (30 * factor, 4 * factor, 5 * factor)
            np.testing.assert_array_equal(volume.read(ALL), DATA[::factor, ::factor, ::factor])
        box = open_volume(f"{place}[2:6, 4:8, 0:]", target_nm=60)
        np.testing.assert_array_equal(box.read(ALL), DATA[2:6:2, 4:8:2, ::2])
        level = open_volume(f"{place}/s1")  # given by its own path
        assert level.voxel_size_nm == (60, 8, 10)
        np.testing.assert_array_equal(level.read(ALL), DATA[::2, ::2, ::2])


def test_groups_that_are_no_volume(tmp_path, refusal):
    group = tmp_path / "cell.n5"
    _describe(group, n5="2.5.1")
    assert "holds no volume" in refusal(group, 8)
    _describe(group, multiscales=[{"datasets": [{"path": "s7"}]}])
    assert "'s7'" in refusal(group, 8)
    _describe(group, multiscales=[{"datasets": 7}])
    assert "damaged N5" in refusal(group, 8)


def test_damage(tmp_path, refusal):
    path = tmp_path / "v"
    _write(path)
    whole = (path / "attributes.json").read_text()
    block = path / "0" / "0" / "0"
    content = block.read_bytes()
    block.write_bytes(content[:40])
    with pytest.raises(UserError, match="cannot read the data"):
        open_volume(path, 8).read(ALL)
    # A block that says it is of another size than the metadata's.
    block.write_bytes(content[:4] + (7).to_bytes(4, "big") + content[8:])
    with pytest.raises(UserError, match="cannot read the data"):
        open_volume(path, 8).read(ALL)
    (path / "attributes.json").write_text(whole[:50])
    assert "damaged" in refusal(path, 8)
    (path / "attributes.json").write_text(json.dumps(json.loads(whole) | {"dataType": "text"}))
    assert "damaged or unsupported n5" in refusal(path, 8)
    (path / "attributes.json").write_text(json.dumps(json.loads(whole) | {"transform": {"scale": [1]}}))
    assert "damaged N5" in refusal(path, 8)
    (path / "attributes.json").write_text(
        json.dumps(json.loads(whole) | {"pixelResolution": {"dimensions": [0, 4, 4], "unit": "nm"}})
    )
    assert "voxel size" in refusal(path)
