"""create: valid OME-Zarr that other readers open, and clear lines when a disk refuses."""

import errno
import json
import os
import subprocess

import numpy as np
import pytest
import zarr

from his4mae_jax.data.ome_zarr import create, friendly_io_error, write_json, writing
from his4mae_jax.data.volume import open_volume
from his4mae_jax.errors import UserError

NAMES = {0: "unrecognized", 1: "nucleus", 255: "outside"}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, bool])
def test_what_is_written_is_read(tmp_path, dtype):
    data = (np.random.default_rng(0).random((70, 20, 33)) * 3).astype(dtype)
    with writing(tmp_path / "v"):
        create(tmp_path / "a" / "v.zarr", data.shape, dtype, (30, 4, 5)).write(data).result()
    volume = open_volume(tmp_path / "a" / "v.zarr", image=dtype is np.float32)
    assert volume.voxel_size_nm == (30, 4, 5) and volume.dtype == dtype
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a" / "v.zarr" / "0")[:], data)


def test_unwritten_voxels_hold_the_fill_value(tmp_path):
    array = create(tmp_path / "v", (70, 8, 8), np.uint8, 8, fill_value=255)
    array[:64].write(1).result()
    read = zarr.open_array(tmp_path / "v" / "0")[:]
    assert (read[:64] == 1).all() and (read[64:] == 255).all()


@pytest.mark.filterwarnings("default")  # the packages' own deprecations are not ours
def test_valid_for_the_ome_zarr_packages(tmp_path):
    models = pytest.importorskip("ome_zarr_models.v04")
    path = tmp_path / "labels.zarr"
    create(path, (20, 30, 40), np.uint8, 16, label_values=NAMES).write(1).result()
    group = zarr.open_group(path, mode="r")
    image = models.Image.from_zarr(group)
    (scales,) = image.attributes.multiscales
    assert [(a.name, a.unit) for a in scales.axes] == [(n, "nanometer") for n in "zyx"]
    label = group.attrs["image-label"]
    assert {p["label-value"]: p["name"] for p in label["properties"]} == NAMES
    assert [c["label-value"] for c in label["colors"]] == list(NAMES)
    assert all(len(c["rgba"]) == 4 for c in label["colors"])

    io = pytest.importorskip("ome_zarr.io")
    reader = pytest.importorskip("ome_zarr.reader")
    node = next(iter(reader.Reader(io.parse_url(path))()))
    assert node.data[0].shape == (20, 30, 40) and np.asarray(node.data[0]).all()


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
