"""create: valid OME-Zarr that other readers open, and clear lines when a disk refuses."""

import errno
import importlib
import json
import os
import subprocess

import numpy as np
import pytest
import zarr

from his4mae_jax.data.ome_zarr.write import create, create_array, read_group
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.files import friendly_io_error, write_json, writing

NAMES = {0: "unrecognized", 1: "nucleus", 255: "outside"}


VERSIONS = ("0.4", "0.5")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.float32, bool])
def test_what_is_written_is_read(tmp_path, dtype, version):
    data = (np.random.default_rng(0).random((70, 20, 33)) * 3).astype(dtype)
    with writing(tmp_path / "v"):
        create(tmp_path / "a" / "v.zarr", data.shape, dtype, (30, 4, 5), version=version).write(data).result()
    volume = open_volume(tmp_path / "a" / "v.zarr", image=dtype is np.float32)
    assert volume.voxel_size_nm == (30, 4, 5) and volume.dtype == dtype
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    array = zarr.open_array(tmp_path / "a" / "v.zarr" / "0")
    assert array.metadata.zarr_format == {"0.4": 2, "0.5": 3}[version]
    np.testing.assert_array_equal(array[:], data)


@pytest.mark.parametrize("version", VERSIONS)
def test_unwritten_voxels_hold_the_fill_value(tmp_path, version):
    array = create(tmp_path / "v", (70, 8, 8), np.uint8, 8, fill_value=255, version=version)
    array[:64].write(1).result()
    read = zarr.open_array(tmp_path / "v" / "0")[:]
    assert (read[:64] == 1).all() and (read[64:] == 255).all()


@pytest.mark.filterwarnings("default")  # the packages' own deprecations are not ours
@pytest.mark.parametrize("version", VERSIONS)
def test_valid_for_the_ome_zarr_packages(tmp_path, version):
    models = importlib.import_module(f"ome_zarr_models.v{version.replace('.', '')}")
    path = tmp_path / "partial.labels.ome.zarr"
    create(path, (20, 30, 40), np.uint8, 16, label_values=NAMES, version=version).write(1).result()
    group = zarr.open_group(path, mode="r")
    image = models.Image.from_zarr(group)
    attributes = image.attributes if version == "0.4" else image.attributes.ome
    (scales,) = attributes.multiscales
    assert [(a.name, a.unit) for a in scales.axes] == [(n, "nanometer") for n in "zyx"]
    assert scales.name == "labels"
    label = group.attrs["image-label"] if version == "0.4" else group.attrs["ome"]["image-label"]
    assert {p["label-value"]: p["name"] for p in label["properties"]} == NAMES
    assert [c["label-value"] for c in label["colors"]] == list(NAMES)
    assert all(len(c["rgba"]) == 4 for c in label["colors"])

    io = pytest.importorskip("ome_zarr.io")
    reader = pytest.importorskip("ome_zarr.reader")
    node = next(iter(reader.Reader(io.parse_url(path))()))
    assert node.data[0].shape == (20, 30, 40) and np.asarray(node.data[0]).all()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_channels_have_names(tmp_path, version, dtype):
    path, names = tmp_path / "probabilities.ome.zarr", ["cluster 0", "µ"]
    data = (np.random.default_rng(0).random((2, 9, 10, 11)) * 9).astype(dtype)
    array = create(path, data.shape, dtype, (8, 4, 4), channels=names, version=version, chunks=(4, 8, 8))
    array.write(data).result()
    models = importlib.import_module(f"ome_zarr_models.v{version.replace('.', '')}")
    group = zarr.open_group(path, mode="r")
    attributes = models.Image.from_zarr(group).attributes
    (scales,) = (attributes if version == "0.4" else attributes.ome).multiscales
    assert [(a.name, a.type) for a in scales.axes] == [("c", "channel"), *[(n, "space") for n in "zyx"]]
    assert scales.datasets[0].coordinateTransformations[0].scale == [1, 8, 4, 4]
    top = 255 if dtype == np.uint8 else 1
    omero = group.attrs["omero"] if version == "0.4" else group.attrs["ome"]["omero"]
    assert [(c["label"], c["window"]["end"]) for c in omero["channels"]] == [(n, top) for n in names]
    np.testing.assert_array_equal(zarr.open_array(path / "0")[:], data)
    assert zarr.open_array(path / "0").chunks == (1, 4, 8, 8)

    io, reader = pytest.importorskip("ome_zarr.io"), pytest.importorskip("ome_zarr.reader")
    node = next(iter(reader.Reader(io.parse_url(path))()))
    assert node.metadata["channel_names"] == names
    np.testing.assert_array_equal(np.asarray(node.data[0]), data)


@pytest.mark.filterwarnings("default")  # the packages' own deprecations are not ours
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("channels", [None, ["a", "b"]])
def test_a_position_is_the_translation(tmp_path, version, channels):
    models = importlib.import_module(f"ome_zarr_models.v{version.replace('.', '')}")
    shape = (4, 5, 6) if channels is None else (2, 4, 5, 6)
    create(tmp_path / "v", shape, np.uint8, (8, 4, 4), origin_nm=(100, 0, -3), channels=channels, version=version)
    image = models.Image.from_zarr(zarr.open_group(tmp_path / "v", mode="r"))
    (scales,) = (image.attributes if version == "0.4" else image.attributes.ome).multiscales
    scale, translation = scales.datasets[0].coordinateTransformations
    assert list(scale.scale)[-3:] == [8, 4, 4] and translation.type == "translation"
    assert list(translation.translation) == [0] * (len(shape) - 3) + [100, 0, -3]


def test_arguments_that_contradict_each_other(tmp_path):
    for shape, more in (((8,) * 4, {}), ((2, 8, 8, 8), {"channels": ["a"]}), ((8,) * 3, {"version": "0.6"})):
        with pytest.raises(ValueError, match="shape|names|none of"):
            create(tmp_path / "v", shape, np.uint8, 8, **more)
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_creation_that_was_stopped_is_replaced(tmp_path, version):
    create_array(tmp_path / "v" / "0", (8, 8, 8), np.uint8, (8, 8, 8), 0, version)
    with pytest.raises(UserError, match="v: no OME-Zarr image"):
        read_group(tmp_path / "v")
    create(tmp_path / "v", (8, 8, 8), np.uint8, 8, version=version, overwrite=True).write(1).result()
    assert read_group(tmp_path / "v")[0] == version


def test_never_replaces_what_it_should_not(tmp_path):
    path = tmp_path / "v"
    path.mkdir()  # an empty folder is fine
    create(path, (8, 8, 8), np.uint8, 8).write(3).result()
    with pytest.raises(UserError, match="exists already"):
        create(path, (8, 8, 8), np.uint8, 8)
    assert (zarr.open_array(path / "0")[:] == 3).all()
    create(path, (4, 4, 4), np.uint16, 9, overwrite=True)
    assert open_volume(path).shape == (4, 4, 4) and open_volume(path).voxel_size_nm == (9, 9, 9)

    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="thesis"):
            create(tmp_path / "thesis", (8, 8, 8), np.uint8, 8, overwrite=overwrite)
        with pytest.raises(UserError, match="chapter"):
            create(tmp_path / "thesis" / "chapter.tex", (8,) * 3, np.uint8, 8, overwrite=overwrite)
        with pytest.raises(UserError, match="chapter"):  # a file where a parent folder should be
            create(tmp_path / "thesis" / "chapter.tex" / "v", (8,) * 3, np.uint8, 8, overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path):
    write_json(tmp_path / "m.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "m.json", {"a": object()})
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["m.json"]


def test_friendly_io_error():
    assert "space" in str(friendly_io_error(OSError(errno.ENOSPC, "x"), "out/v.zarr"))
    assert "out/v.zarr" in str(friendly_io_error(OSError(errno.ENOSPC, "x"), "out/v.zarr"))
    assert "permission" in str(friendly_io_error(PermissionError(errno.EACCES, "x"), "v"))
    assert "space" in str(
        friendly_io_error(
            ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error_code='28']"), "v"
        )
    )
    assert "space" in str(friendly_io_error(RuntimeError("No space left on device"), "v"))
    assert friendly_io_error(ValueError("shapes differ"), "v") is None
    with pytest.raises(ValueError, match="shapes differ"), writing("v"):
        raise ValueError("shapes differ")


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = (
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode
            == 0
        )
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        array = create(disk / "v", (128, 128, 128), np.uint8, 8)
        noise = np.random.default_rng(0).integers(0, 255, (128, 128, 128), np.uint8)
        with pytest.raises(UserError, match="space") as caught, writing(disk / "v"):
            array.write(noise).result()
        assert str(disk / "v") in str(caught.value)
        with pytest.raises(UserError, match="space"):  # the metadata does not fit either
            for i in range(200):
                create(disk / f"v{i}", (8, 8, 8), np.uint8, 8)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="permission"):
        create(tmp_path / "locked" / "v", (8, 8, 8), np.uint8, 8)


def test_what_was_begun_under_a_partial_name_is_ours(tmp_path):
    """Killed before it wrote any metadata, a volume is begun anew; under another name it may be anything."""
    for path in (tmp_path / "partial.a.ome.zarr", tmp_path / "segment.partial" / "a.ome.zarr"):
        (path / "0").mkdir(parents=True)
        create(path, (4, 4, 4), np.uint8, 8.0, overwrite=True)
    (tmp_path / "a.ome.zarr" / "0").mkdir(parents=True)
    with pytest.raises(UserError, match="not overwritten"):
        create(tmp_path / "a.ome.zarr", (4, 4, 4), np.uint8, 8.0, overwrite=True)
