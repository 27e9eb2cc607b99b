"""The name of a volume: boxes, and data sets inside a file."""

import numpy as np
import pytest
import tifffile

from his4mae_jax.data.formats.path import parse, with_channel
from his4mae_jax.data.ome_zarr.write import create
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(0, 200, (12, 20, 30)).astype(np.uint8)


def test_parse():
    assert parse("a/b.zarr").crop is None and parse("a/b.zarr").place == "a/b.zarr"
    found = parse("s3://bucket/v.zarr?endpoint=http://h:1[:5, 10:, :]")
    assert found.place == "s3://bucket/v.zarr?endpoint=http://h:1" and found.crop == ((0, 5), (10, None), (0, None))
    found = parse("data/cell.h5:/volumes/raw [1:2,3:4,5:6]")
    assert (found.place, found.inside, found.crop) == ("data/cell.h5", "/volumes/raw", ((1, 2), (3, 4), (5, 6)))
    assert parse("plain[1].tif").crop is None
    for text in ("v.tif[c=2, :5, 10:, :]", "v.tif[c=2][:5, 10:, :]", "v.tif [ c=2 ] [:5, 10:, :]"):
        found = parse(text)
        assert (found.place, found.channel, found.crop) == ("v.tif", 2, ((0, 5), (10, None), (0, None)))
    assert (parse("v.h5:/raw[c=2]").inside, parse("v.h5:/raw[c=2]").channel) == ("/raw", 2)


def test_with_channel():
    for text, named in {
        "v.tif": "v.tif[c=3]",
        "v.tif[0:1, :, :]": "v.tif[c=3, 0:1, :, :]",
        "epfl:training": "epfl:training[c=3]",
        "v.tif[c=1]": "v.tif[c=1]",
        "v.tif[c=1, 0:1, :, :]": "v.tif[c=1, 0:1, :, :]",
    }.items():
        assert with_channel(text, 3) == named
        assert with_channel(text, None) == text
        assert parse(named).channel == parse(text).channel or parse(named).channel == 3


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "me" / "data").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "me" / "data" / "v.tif", DATA)
    np.testing.assert_array_equal(open_volume("~/data/v.tif", 8).read(ALL), DATA)
    np.testing.assert_array_equal(open_volume("~/data/v.tif[2:4, :, :]", 8).read(ALL), DATA[2:4])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    tifffile.imwrite(tmp_path / "~" / "odd.tif", DATA)  # a folder of that name
    np.testing.assert_array_equal(open_volume("~/odd.tif", 8).read(ALL), DATA)


@pytest.mark.parametrize(
    "box",
    [
        "[0:5, 0:5]",
        "[5:2, :, :]",
        "[3:3, :, :]",
        "[0:5:2, :, :]",
        "[-3:, :, :]",
        "[a:b, :, :]",
        "[c=a]",
        "[c=-1]",
        "[c=1, 2:3]",
    ],
)
def test_no_box(box):
    with pytest.raises(UserError, match="z0:z1"):
        parse(f"v.tif{box}")


def test_a_file_with_brackets_in_its_name(tmp_path):
    path = tmp_path / "v[0:1, 0:1, 0:1]"
    tifffile.imwrite(path, DATA, photometric="minisblack")
    assert open_volume(path, 8).shape == DATA.shape


def test_crop_of_every_kind(tmp_path, refusal):
    tifffile.imwrite(tmp_path / "mapped.tif", DATA, photometric="minisblack")
    tifffile.imwrite(tmp_path / "packed.tif", DATA, photometric="minisblack", compression="zlib")
    create(tmp_path / "v.zarr", DATA.shape, np.uint8, (30, 4, 5)).write(DATA).result()
    for name in ("mapped.tif", "packed.tif", "v.zarr"):
        volume = open_volume(f"{tmp_path / name}[3:9, :7, 5:]", (30, 4, 5))
        assert volume.shape == (6, 7, 25) and volume.voxel_size_nm == (30, 4, 5)
        np.testing.assert_array_equal(volume.read(ALL), DATA[3:9, :7, 5:])
        box = (slice(1, 2), slice(0, 7), slice(3, 4))
        np.testing.assert_array_equal(volume.read(box), DATA[3:9, :7, 5:][box])
        for wrong in ("[0:13, :, :]", "[12:, :, :]", "[:, :, 30:31]"):
            assert "12 x 20 x 30" in refusal(f"{tmp_path / name}{wrong}", 8)
