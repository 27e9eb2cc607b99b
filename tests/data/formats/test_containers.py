"""Groups, folders and zip files: the one volume in them is opened, several are listed with the paths to give."""

import json
import zipfile

import h5py
import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (6, 8, 10)).astype(np.uint8)


def _multiscale(version):
    space = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
    scale = [{"type": "scale", "scale": [30, 4, 5]}]
    image = {"axes": space, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    if version == 2:
        return {"multiscales": [{"version": "0.4", **image}]}
    return {"ome": {"version": "0.5", "multiscales": [image]}}


def _image(group, name, version, data=DATA):
    own = group.create_group(name, attributes=_multiscale(version)) if name else group
    own.create_array("0", shape=data.shape, dtype=data.dtype, chunks=(3, 4, 5))[...] = data


def _ome(path, version=2):
    _image(zarr.create_group(path, zarr_format=version, attributes=_multiscale(version)), "", version)


def _bioformats(path, version, images, listed):
    layout = {"bioformats2raw.layout": 3}
    attributes = layout if version == 2 else {"ome": {"version": "0.5", **layout}}
    root = zarr.create_group(path, zarr_format=version, attributes=attributes)
    for index, name in enumerate(images):
        _image(root, name, version, DATA + index)
    if listed:
        series = {"series": images}
        root.create_group("OME", attributes=series if version == 2 else {"ome": {"version": "0.5", **series}})


def _n5(path, **attributes):
    metadata = {"compression": {"type": "gzip"}, "dataType": "uint8", "dimensions": DATA.shape[::-1],
                "blockSize": [4, 4, 4]}  # fmt: skip
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(path)}, "metadata": metadata}
    ts.open(spec, create=True).result().write(DATA.T).result()
    file = path / "attributes.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | attributes))


def _zip(folder, file, inside="", kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(file, "w", kind) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, inside + str(path.relative_to(folder)))
    return file


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("listed", [True, False])
def test_a_root_of_bioformats2raw(tmp_path, web, refusal, version, listed):
    _bioformats(tmp_path / "one", version, ["0"], listed)
    for place in (tmp_path / "one", f"{web.url}/one"):
        volume = open_volume(place)
        assert volume.voxel_size_nm == (30, 4, 5)
        np.testing.assert_array_equal(volume.read(ALL), DATA)
    _bioformats(tmp_path / "two", version, ["0", "1"], listed)
    message = refusal(tmp_path / "two")
    assert f"{tmp_path / 'two' / '0'}, {tmp_path / 'two' / '1'}" in message
    np.testing.assert_array_equal(open_volume(tmp_path / "two" / "1").read(ALL), DATA + 1)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(("name", "inside"), [("v.ozx", ""), ("v.ome.zarr.zip", "v.ome.zarr/"), ("v.ZIP", "a/b/")])
def test_zipped_ome_zarr(tmp_path, web, version, kind, name, inside):
    _ome(tmp_path / "v", version)
    _zip(tmp_path / "v", tmp_path / name, inside, kind)
    for place in (tmp_path / name, f"{web.url}/{name}", tmp_path / name / inside / "0"):
        volume = open_volume(f"{place}[1:5, :, 2:]")
        assert volume.voxel_size_nm == (30, 4, 5) and volume.origin_nm == (30, 0, 10)
        np.testing.assert_array_equal(volume.read(ALL), DATA[1:5, :, 2:])


def test_zip_files_that_are_no_volume(tmp_path, refusal):
    for name in "ab":
        _ome(tmp_path / "two" / name)
    path = _zip(tmp_path / "two", tmp_path / "two.zip")
    assert f"holds 2 volumes; give the path of one: {path}/a, {path}/b" in refusal(path)
    np.testing.assert_array_equal(open_volume(path / "b").read(ALL), DATA)
    (tmp_path / "two" / "a" / "0" / ".zarray").unlink()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("notes")
    assert "no volume" in refusal(_zip(tmp_path / "notes", tmp_path / "notes.zip"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "copy the volume again" in refusal(path)
    path.write_bytes(b"")
    refusal(path)
    damaged = bytearray(content)
    damaged[content.index(b"\x02") : content.index(b"\x02") + 400] = b"\xff" * 400
    path.write_bytes(damaged)
    with pytest.raises(UserError):
        open_volume(path / "a").read(ALL)


def test_a_server_that_sends_no_parts_of_files(tmp_path, web, refusal):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 60)).astype(np.uint8)  # beyond what is read at once
    zarr.create_array(tmp_path / "v", data=noise, chunks=(60, 60, 60))
    web.faults["v.zip"] = _zip(tmp_path / "v", tmp_path / "v.zip").read_bytes()  # the whole, whatever is asked for
    assert "sends no parts of files" in refusal(f"{web.url}/v.zip")


def test_a_folder_named_zip_is_a_folder(tmp_path):
    _ome(tmp_path / "v.zip")
    np.testing.assert_array_equal(open_volume(tmp_path / "v.zip").read(ALL), DATA)


def test_n5_groups_without_attributes(tmp_path, web, refusal):
    """A group need not have attributes of its own."""
    _n5(tmp_path / "c.n5" / "em" / "raw" / "s0", resolution=[5, 4, 30], units=["nm"] * 3)
    _n5(tmp_path / "c.n5" / "em" / "raw" / "s1", downsamplingFactors=[2, 2, 2], resolution=[5, 4, 30], units=["nm"] * 3)
    for place in (tmp_path / "c.n5" / "em" / "raw", f"{web.url}/c.n5/em/raw"):
        volume = open_volume(place)
        assert volume.voxel_size_nm == (30, 4, 5)
        np.testing.assert_array_equal(volume.read(ALL), DATA)
        assert open_volume(place, target_nm=60).voxel_size_nm == (60, 8, 10)
    (tmp_path / "c.n5" / "attributes.json").write_text('{"n5": "2.0.0"}')
    _n5(tmp_path / "c.n5" / "labels")
    message = refusal(tmp_path / "c.n5")
    assert f"2 volumes; give the path of one: {tmp_path}/c.n5/em/raw, {tmp_path}/c.n5/labels" in message
    for path in message.partition("one: ")[2].split(", "):
        np.testing.assert_array_equal(open_volume(path, 8).read(ALL), DATA)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")  # of zarr 3, by zarr-python itself
@pytest.mark.parametrize("version", [2, 3])
def test_zarr_groups_list_their_volumes(tmp_path, web, refusal, version):
    root = zarr.create_group(tmp_path / "c.zarr", zarr_format=version)
    _image(root, "em/fibsem", version)
    root.create_array("masks/cell", shape=DATA.shape, dtype=DATA.dtype, chunks=(3, 4, 5))[...] = DATA
    root.create_array("table", shape=(5, 2), dtype=int)
    expected = ("em/fibsem", "masks/cell")
    message = refusal(tmp_path / "c.zarr")
    assert "; give the path of one: " + ", ".join(f"{tmp_path}/c.zarr/{name}" for name in expected) in message
    for name in expected:
        np.testing.assert_array_equal(open_volume(tmp_path / "c.zarr" / name, 8).read(ALL), DATA)
    assert "check the address" in refusal(f"{web.url}/c.zarr")
    zarr.consolidate_metadata(tmp_path / "c.zarr", zarr_format=version)
    message = refusal(f"{web.url}/c.zarr")
    assert "; give the path of one: " + ", ".join(f"{web.url}/c.zarr/{name}" for name in expected) in message


def test_folders_list_their_volumes(tmp_path, refusal):
    folder = tmp_path / "cells"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", DATA)
    assert f"holds one volume; give its path: {folder}/a.tif" in refusal(folder, 8)
    tifffile.imwrite(folder / "b.TIF", DATA)
    (folder / "slices").mkdir()
    for index in range(20):
        tifffile.imwrite(folder / "slices" / f"{index}.tif", DATA[0])
    _ome(folder / "deep" / "c.zarr")
    (folder / "deep" / "notes.txt").write_text("notes")
    message = refusal(folder, 8)
    names = ("a.tif", "b.TIF", "deep/c.zarr", "slices")
    assert "holds 4 volumes; give the path of one: " + ", ".join(f"{folder}/{name}" for name in names) in message
    for name in names:
        assert open_volume(folder / name, 8).shape[1:] == DATA.shape[1:]
    (tmp_path / "empty").mkdir()
    assert "no volume, no slices" in refusal(tmp_path / "empty", 8)


def test_hdf5_files_list_their_volumes(tmp_path, refusal):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["a"], file["b/c"], file["table"] = DATA, DATA, np.zeros((3, 2))
    message = refusal(tmp_path / "v.h5", 8)
    assert f"2 volumes; give the path of one: {tmp_path}/v.h5:/a (6, 8, 10), {tmp_path}/v.h5:/b/c (6, 8, 10)" in message
