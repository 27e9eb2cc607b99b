"""open_volume: what is refused whatever the format, reading ahead, and a real volume."""

import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import zarr

from his4mae_jax.data.volumes.blocks import read_async
from his4mae_jax.data.volumes.crop import Crop
from his4mae_jax.data.volumes.in_memory import from_array
from his4mae_jax.data.volumes.volume import chunks_of, open_volume
from his4mae_jax.errors import UserError


def _random(shape=(9, 20, 30), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def test_not_a_volume(tmp_path, refusal):
    assert "no such file" in refusal(tmp_path / "absent.tif", 8)
    (tmp_path / "empty.tif").touch()
    assert "empty" in refusal(tmp_path / "empty.tif", 8)
    (tmp_path / "v.dat").write_bytes(bytes(100))
    assert "not a TIFF" in refusal(tmp_path / "v.dat", 8)
    (tmp_path / "folder").mkdir()
    assert "holds no volume" in refusal(tmp_path / "folder", 8)
    assert "unknown scheme" in refusal("ftp://bucket/cell.zarr", 8)
    assert "local disks only" in refusal("https://host/cell.tif", 8)
    tifffile.imwrite(tmp_path / "flat.tif", np.zeros((8, 9), np.uint8))
    assert "not a 3D volume" in refusal(tmp_path / "flat.tif", 8)
    tifffile.imwrite(tmp_path / "rgb.tif", _random((4, 8, 9, 3)), photometric="rgb")
    assert "holds colours" in refusal(tmp_path / "rgb.tif", 8)
    zarr.create_array(tmp_path / "none.zarr", shape=(0, 4, 4), dtype=np.uint8, zarr_format=2, chunks=(1, 4, 4))
    assert "is empty" in refusal(tmp_path / "none.zarr", 8)
    loop = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 256, 3, 1, 1, 8)  # a page after itself
    (tmp_path / "loop.tif").write_bytes(loop)
    refusal(tmp_path / "loop.tif", 8)


def test_dtypes(tmp_path, refusal):
    tifffile.imwrite(tmp_path / "complex.tif", _random(dtype=np.complex64), photometric="minisblack")
    message = refusal(tmp_path / "complex.tif", 8)
    assert "complex64" in message and "uint8, uint16, int16, float32" in message
    tifffile.imwrite(tmp_path / "bool.tif", _random() > 100, photometric="minisblack")
    assert open_volume(tmp_path / "bool.tif", 8, image=False).dtype == bool
    assert "bool" in refusal(tmp_path / "bool.tif", 8)
    tifffile.imwrite(tmp_path / "float64.tif", _random(dtype=np.float64), photometric="minisblack")
    assert "cannot hold labels" in refusal(tmp_path / "float64.tif", 8, image=False)


@pytest.mark.parametrize(
    ("dtype", "read_as", "words"),
    [
        (np.int8, np.int16, "int16, exactly"),
        (np.float16, np.float32, "float32, exactly"),
        (np.float64, np.float32, "float32, to 7 digits"),
        (np.int32, np.float32, "exactly to 16777216"),
        (np.uint32, np.float32, "exactly to 16777216"),
        (np.uint64, np.float32, "exactly to 16777216"),
    ],
)
def test_grey_levels_of_other_types(tmp_path, capsys, dtype, read_as, words):
    """Read as what the pipeline takes, and said once; labels keep their type."""
    data = (_random().astype(int) - (100 if np.dtype(dtype).kind != "u" else 0)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        data /= 3
    zarr.create_array(tmp_path / "v.zarr", shape=data.shape, dtype=dtype, chunks=(4, 8, 8))[...] = data
    compression = {"compression": "zlib"} if dtype != np.float16 else {}
    tifffile.imwrite(tmp_path / "v.tif", data, photometric="minisblack", **compression)
    tifffile.imwrite(tmp_path / "mapped.tif", data, photometric="minisblack")
    for name in ("v.zarr", "v.tif", "mapped.tif"):
        for _ in range(2):
            volume = open_volume(tmp_path / name, 8)
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and name in line and words in line
        assert volume.dtype == read_as and volume.chunks == ((4, 8, 8) if name == "v.zarr" else (1, 20, 30))
        part = np.s_[2:9, 3:17, 0:30]
        np.testing.assert_array_equal(volume.read(part), data[part].astype(read_as))
        assert volume.read(part).dtype == read_as
        if np.dtype(dtype).kind != "f":
            assert open_volume(tmp_path / name, 8, image=False).dtype == dtype
    volume = from_array(data, 8)
    assert volume.dtype == read_as and volume.array is data
    np.testing.assert_array_equal(volume.read(part), data[part].astype(read_as))
    assert volume.read(part).dtype == read_as


def test_memory_is_bounded_where_types_are_converted(tmp_path):
    data = np.zeros((64, 512, 512), np.float64)  # 134 MB
    zarr.create_array(tmp_path / "v", data=data + 1.5, chunks=(16, 64, 64))
    code = (
        "import resource, sys\nfrom his4mae_jax.data.volumes.volume import open_volume\n"
        f"volume = open_volume({str(tmp_path / 'v')!r}, 8)\n"
        "volume.read((slice(0, 1),) * 3)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "total = sum(volume.read((slice(z, z + 4), slice(None), slice(None))).sum() for z in range(0, 64, 4))\n"
        "print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    root = pathlib.Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    total, kilobytes = map(float, done.stdout.split())
    assert total == 1.5 * data.size and kilobytes < 100_000


def test_real_epfl_volume():
    root = os.environ.get("HIS4MAE_SHARED_DATA")
    root = pathlib.Path(root) if root else pathlib.Path(__file__).parents[4] / "shared" / "data"
    path = root / "epfl_hippocampus" / "training_10nm.tif"
    if not path.exists():
        pytest.skip("the EPFL volume is not on this machine")
    volume = open_volume(path)
    assert volume.shape == (82, 384, 512) and volume.voxel_size_nm == (10, 10, 10)
    assert volume.read((slice(40, 41), slice(0, 384), slice(0, 512))).std() > 10


def test_reading_ahead_and_natural_blocks(tmp_path):
    """Whatever has a volume's interface can be read ahead, and has blocks."""
    data = _random((20, 70, 80))
    zarr.create_array(tmp_path / "v.zarr", data=data, chunks=(8, 16, 100))
    tifffile.imwrite(tmp_path / "v.tif", data, photometric="minisblack")
    stored, mapped = open_volume(tmp_path / "v.zarr", 8), open_volume(tmp_path / "v.tif", 8)
    assert chunks_of(stored) == (8, 16, 80) and chunks_of(mapped) == (1, 70, 80)
    crop = Crop(stored, (slice(2, 20), slice(3, 60), slice(0, 80)))
    assert chunks_of(crop) == (8, 16, 80)

    class Computed:
        shape = data.shape

        def read(self, slices):
            if slices[0].start == 1:
                raise UserError("the first plane is bad")
            return data[slices]

    assert chunks_of(Computed()) == (20, 64, 64)
    for volume, origin in ((stored, (0, 0, 0)), (mapped, (0, 0, 0)), (crop, (2, 3, 0)), (Computed(), (0, 0, 0))):
        boxes = [(slice(i, i + 3), slice(0, 40), slice(5, 9)) for i in (0, 4, 8)]
        for box, pending in [(box, read_async(volume, box)) for box in boxes]:
            z, y, x = (slice(s.start + o, s.stop + o) for s, o in zip(box, origin, strict=True))
            np.testing.assert_array_equal(pending.result(), data[z, y, x])
    with pytest.raises(UserError, match="first plane"):
        read_async(Computed(), (slice(1, 2), slice(0, 1), slice(0, 1))).result()
    with pytest.raises(IndexError):
        stored.read_async((slice(0, 21), slice(0, 1), slice(0, 1)))


def test_what_is_read_is_the_callers(tmp_path):
    tifffile.imwrite(tmp_path / "v.tif", _random(), photometric="minisblack", compression="zlib")
    volume = open_volume(tmp_path / "v.tif", 8)
    box = (slice(0, 2), slice(0, 5), slice(0, 5))
    first = volume.read(box)
    first[:] = 255
    assert (volume.read(box) != 255).any()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["v.tif", "v.zarr"])
def test_no_permission(tmp_path, refusal, name):
    tifffile.imwrite(tmp_path / "v.tif", _random(), photometric="minisblack")
    zarr.create_array(tmp_path / "v.zarr", data=_random(), zarr_format=2)
    (tmp_path / name).chmod(0)
    assert "no permission" in refusal(tmp_path / name, 8)


def test_a_file_url(tmp_path):
    tifffile.imwrite(tmp_path / "a cell.tif", _random(), photometric="minisblack")
    volume = open_volume((tmp_path / "a cell.tif").as_uri(), 8)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), _random())
