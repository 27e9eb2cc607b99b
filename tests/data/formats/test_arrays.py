"""Single files of other fields: .npy, NIfTI and NRRD, whose axes, voxel size and position are read right."""

import numpy as np
import pytest
from absent import open_without

from his4mae_jax.config import get_small
from his4mae_jax.data import datasets
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

nibabel = pytest.importorskip("nibabel")
nrrd = pytest.importorskip("nrrd")
ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (6, 8, 10)).astype(np.uint16)


def _close(volume, size=(30, 5, 4.5), origin=(60, 0, -9)):
    np.testing.assert_allclose(volume.voxel_size_nm, size)
    np.testing.assert_allclose(volume.origin_nm, origin, atol=1e-6)


@pytest.mark.parametrize("array", [DATA, np.asfortranarray(DATA), DATA.astype(">u2"), DATA[None, ..., None]])
def test_npy(tmp_path, refusal, array):
    np.save(tmp_path / "v.npy", array)
    volume = open_volume(tmp_path / "v.npy", (30, 5, 4))
    assert volume.dtype == np.uint16
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    np.testing.assert_array_equal(volume.read(np.s_[1:3, 2:7, 9:10]), DATA[1:3, 2:7, 9:10])
    assert "data.file_voxel_size_nm" in refusal(tmp_path / "v.npy")
    content = (tmp_path / "v.npy").read_bytes()
    for damaged in (content[:-10], content[:20], b"", b"no array"):
        (tmp_path / "v.npy").write_bytes(damaged)
        assert "unreadable .npy" in refusal(tmp_path / "v.npy", 8)
    np.save(tmp_path / "v.npy", np.array([None, 1], object), allow_pickle=True)
    assert "unreadable .npy" in refusal(tmp_path / "v.npy", 8)
    np.save(tmp_path / "v.npy", np.zeros((2, 2, 2), complex))
    assert "no numbers" in refusal(tmp_path / "v.npy", 8)


def _nifti(path, data=DATA, signs=(1, 1, 1), unit="micron", kind=nibabel.Nifti1Image, origin=(-0.009, 0, 0.06)):
    affine = np.diag([0.0045 * signs[0], 0.005 * signs[1], 0.03 * signs[2], 1])
    affine[:3, 3] = [o * s for o, s in zip(origin, signs, strict=True)]
    image = kind(data.T, affine)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "V.NII"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_nifti(tmp_path, name, kind):
    """x is stored fastest; x and y may run against space, as ITK has it."""
    for signs in ((1, 1, 1), (-1, -1, 1)):
        _nifti(tmp_path / name, signs=signs, kind=kind)
        volume = open_volume(tmp_path / name)
        _close(volume)
        assert volume.dtype == np.uint16
        np.testing.assert_array_equal(volume.read(ALL), DATA)
        _close(open_volume(f"{tmp_path / name}[1:, :, 2:]"), origin=(90, 0, 0))


def test_nifti_headers(tmp_path, refusal, capsys):
    path = tmp_path / "v.nii"
    image = nibabel.Nifti1Image(DATA.T, None)  # no position
    image.header.set_zooms((0.0045, 0.005, 0.03))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, path)
    _close(open_volume(path), origin=(0, 0, 0))
    image.header.set_qform(np.diag([0.0045, 0.005, 0.03, 1]) + np.array([[0, 0, 0, -0.009]] + [[0] * 4] * 3), "scanner")
    nibabel.save(image, path)
    _close(open_volume(path), origin=(0, 0, -9))
    _nifti(path, unit="mm", origin=(0, 0, 0))
    assert "beyond" in refusal(path)  # 4 to 30 micrometres: a wrong unit
    _nifti(path, unit="unknown")
    assert "data.file_voxel_size_nm" in refusal(path)
    capsys.readouterr()
    across = np.array([[0, 5, 0, 9], [4, 0, 0, 9], [0, 0, 30, 9], [0, 0, 0, 1]])
    for turned in (np.diag([0.004, -0.005, 0.03, 1]), across):
        nibabel.save(nibabel.Nifti1Image(DATA.T, turned), path)
        np.testing.assert_array_equal(open_volume(path, (30, 5, 4)).read(ALL), DATA)
        assert open_volume(path, (30, 5, 4)).origin_nm == (0, 0, 0)
    assert "v.nii: its axes run across those of space" in capsys.readouterr().err


def test_nifti_values(tmp_path, refusal):
    """Scaled values are what is meant; a fourth axis of times or of values is no channel by itself."""
    path = tmp_path / "v.nii"
    image = nibabel.Nifti1Image(DATA.T.astype(np.float64) * 0.5 - 3, np.eye(4))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, path)
    np.testing.assert_allclose(open_volume(path, 8).read(ALL), DATA * 0.5 - 3, atol=0.01)
    assert "no label ids" in refusal(path, 8, image=False)
    nibabel.save(nibabel.Nifti1Image(np.stack([DATA.T] * 2, -1), np.eye(4)), path)
    assert "not a 3D volume" in refusal(path, 8)
    nibabel.save(nibabel.Nifti1Image(np.stack([DATA.T, DATA.T + 1], -1)[..., None, :], np.eye(4)), path)
    assert "2 channels" in refusal(path, 8)
    np.testing.assert_array_equal(open_volume(f"{path}[c=1]", 8).read(ALL), DATA + 1)
    nibabel.save(nibabel.Nifti1Image((DATA % 3).T.astype(np.int32), np.eye(4)), path)
    assert open_volume(path, 8, image=False).dtype == np.int32
    nibabel.save(nibabel.Nifti1Image(DATA.T.astype(np.complex64), np.eye(4)), path)
    assert "complex64" in refusal(path, 8)


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.nrrd"])
def test_damage(tmp_path, refusal, name):
    if name == "v.nrrd":
        nrrd.write(str(tmp_path / name), DATA.T)
    else:
        _nifti(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for damaged in (content[:-100], content[:60], b"", b"no volume" * 50):
        (tmp_path / name).write_bytes(damaged)
        message = refusal(tmp_path / name, 8)
        assert "unreadable" in message and "copy or export it again" in message


def _units(directions=True, **more):
    if directions:
        header = {"space": "left-posterior-superior", "space directions": np.diag([0.0045, 0.005, 0.03])}
        return header | {"space origin": [-0.009, 0, 0.06], "space units": ["um"] * 3} | more
    header = {
        "spacings": [4.5, 5, 30],
        "units": ["nm"] * 3,
        "axis mins": [-11.25, -2.5, 45],
        "centerings": ["cell"] * 3,
    }
    return header | more


@pytest.mark.parametrize("directions", [True, False])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v.nrrd", {"encoding": "raw"}),
        ("v.nrrd", {"encoding": "gzip"}),
        ("v.nrrd", {"encoding": "raw", "endian": "big"}),
        ("v.nrrd", {"encoding": "bzip2"}),
        ("v.nrrd", {"encoding": "text"}),
        ("v.nhdr", {"encoding": "raw"}),
        ("v.nhdr", {"encoding": "gzip"}),
    ],
)
def test_nrrd(tmp_path, name, options, directions):
    path = tmp_path / name
    data = DATA.astype(">u2") if options.get("endian") == "big" else DATA
    nrrd.write(str(path), data.T, _units(directions) | options, detached_header=name.endswith(".nhdr"))
    volume = open_volume(path)
    _close(volume)
    assert volume.dtype == np.uint16
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    np.testing.assert_array_equal(volume.read(np.s_[1:3, 2:7, 9:10]), DATA[1:3, 2:7, 9:10])


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "i4", "u4", "i8", "f4", "f8"])
def test_nrrd_types(tmp_path, dtype):
    nrrd.write(str(tmp_path / "v.nrrd"), DATA.T.astype(dtype), {"encoding": "raw"})
    np.testing.assert_array_equal(open_volume(tmp_path / "v.nrrd", 8).read(ALL), DATA.astype(dtype))


def test_nrrd_headers(tmp_path, refusal, capsys):
    path = tmp_path / "v.nrrd"
    nrrd.write(str(path), DATA.T, {"spacings": [4.5, 5, 30]})  # no unit
    _close(open_volume(path), origin=(0, 0, 0))
    assert "is taken for nm" in capsys.readouterr().err
    nrrd.write(str(path), DATA.T)
    assert "data.file_voxel_size_nm" in refusal(path)
    flipped = _units(**{"space directions": np.diag([0.0045, -0.005, 0.03])})
    nrrd.write(str(path), DATA.T, flipped)
    _close(open_volume(path), origin=(0, 0, 0))
    assert "without a position" in capsys.readouterr().err
    channels = np.stack([DATA.T, DATA.T + 1])
    directions = np.vstack([np.full(3, np.nan), np.diag([0.0045, 0.005, 0.03])])
    nrrd.write(str(path), channels, _units(**{"space directions": directions, "kinds": ["vector"] + ["domain"] * 3}))
    assert "2 channels" in refusal(path)
    volume = open_volume(f"{path}[c=1]")
    _close(volume)
    np.testing.assert_array_equal(volume.read(ALL), DATA + 1)
    renamed = tmp_path / "v.volume"
    nrrd.write(str(path), DATA.T)
    path.rename(renamed)  # the content says what it is
    np.testing.assert_array_equal(open_volume(renamed, 8).read(ALL), DATA)


@pytest.mark.parametrize("image", ["v.nii", "v.nii.gz", "v.nrrd"])
@pytest.mark.parametrize("labels", ["l.nii", "l.nrrd", "l.npy"])
def test_labels_lie_on_their_image(tmp_path, image, labels):
    ids = (DATA % 3).astype(np.uint8)
    for name, data in ((image, DATA), (labels, ids)):
        if ".nii" in name:
            _nifti(tmp_path / name, data)
        elif name.endswith(".nrrd"):
            nrrd.write(str(tmp_path / name), data.T, _units())
        else:
            np.save(tmp_path / name, data)
    config = get_small()
    config.data.test, config.data.test_labels = f"{tmp_path / image}[1:, :, :]", f"{tmp_path / labels}[1:, :, :]"
    config.data.class_names, config.data.axes, config.segment.axes = ("a", "b", "c"), "z", "z"
    if labels == "l.npy":  # without a position
        config.data.test, config.data.test_labels = str(tmp_path / image), str(tmp_path / labels)
        config.data.file_voxel_size_nm = (30.0, 5.0, 4.5)
    target = datasets.target(config, tmp_path, need_labels=True)
    lost = 6 - target.image.shape[0]
    np.testing.assert_array_equal(target.image.read(ALL), DATA[lost:])
    np.testing.assert_array_equal(target.labels.read(ALL), ids[lost:])


@pytest.mark.parametrize(("package", "extra", "name"), [("nibabel", "nifti", "v.nii"), ("nrrd", "nrrd", "v.nrrd")])
def test_without_the_package(tmp_path, package, extra, name):
    (tmp_path / name).write_bytes(b"NRRD0004\n")
    last = open_without([package], tmp_path / name)
    assert "UserError" in last and f"pip install 'his4mae_jax[{extra}]'" in last


def test_they_are_read_from_disks_only():
    for name in ("v.npy", "v.nii.gz", "v.nrrd"):
        with pytest.raises(UserError, match="local disks only"):
            open_volume(f"https://host/{name}")
