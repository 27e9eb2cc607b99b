"""The name of a volume: boxes, data sets inside a file, and the level that is chosen."""

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from his4mae_jax.data.formats.path import parse
from his4mae_jax.data.ome_zarr.write import create
from his4mae_jax.data.stores.levels import Level, OpenOptions, choose
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


@pytest.mark.parametrize(
    "box", ["[0:5, 0:5]", "[5:2, :, :]", "[3:3, :, :]", "[0:5:2, :, :]", "[-3:, :, :]", "[a:b, :, :]"]
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


SIZES = [(30.0, 4.0, 5.0), (30.0, 8.0, 10.0), (60.0, 16.0, 20.0), (120.0, 32.0, 40.0)]


@pytest.mark.parametrize(
    "target, level",
    [(None, 0), (1, 0), (29, 0), (29.9, 1), (30, 1), (60, 2), (59, 1), (1e5, 3), ((30, 8, 8), 0), ((30, 8, 10), 1)],
)
def test_choose(target, level):
    levels = [Level(str(i), size, ("nm",) * 3) for i, size in enumerate(SIZES)]
    target = target if target is None or isinstance(target, tuple) else (target,) * 3
    found, size, factors = choose(levels, OpenOptions(target_nm=target))
    assert (int(found.path), size) == (level, SIZES[level])
    assert factors == tuple(a / b for a, b in zip(SIZES[level], SIZES[0], strict=True))


def test_choose_by_a_size_that_is_given():
    """A given size is that of level 0; the others follow, whatever unit the metadata have."""
    levels = [Level(str(i), size, ("pixel",) * 3) for i, size in enumerate(SIZES)]
    assert choose(levels, OpenOptions(target_nm=(1e3,) * 3))[:2] == (levels[0], None)
    assert levels[0].unknown_units == ("pixel",)
    found, size, _ = choose(levels, OpenOptions(voxel_size_nm=(3.0, 0.4, 0.5), target_nm=(6.0,) * 3))
    assert found is levels[2] and size == (6.0, 1.6, 2.0)
    levels = [Level("0"), Level("1")]
    options = OpenOptions(voxel_size_nm=(4.0,) * 3, target_nm=(100.0,) * 3)
    assert choose(levels, options) == (levels[0], (4.0,) * 3, (1.0,) * 3)


@given(st.lists(st.floats(1, 100), min_size=1, max_size=6), st.floats(0.5, 200))
def test_the_level_chosen_is_the_coarsest_that_is_fine_enough(sizes, target):
    sizes = sorted(sizes)
    levels = [Level(str(i), (s, s, s), ("nm",) * 3) for i, s in enumerate(sizes)]
    _, size, _ = choose(levels, OpenOptions(target_nm=(target,) * 3))
    fine = [s for s in sizes if s <= target * 1.01]
    assert size[0] == (max(fine) if fine else sizes[0])
