"""TIFF: every way to store a stack, voxel sizes from metadata, and damage found when opened."""

import concurrent.futures
import errno
import gc
import os
import pathlib
import struct

import numpy as np
import pytest
import tifffile
from absent import open_without

from his4mae_jax.data.formats import slices
from his4mae_jax.data.formats.tiff.stack import _Pages
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

try:
    import imagecodecs
except ImportError:  # the extra "lzw" is not installed
    imagecodecs = None

ALL = (slice(None),) * 3
NM = {"spacing_nm": 8}
needs_lzw = pytest.mark.skipif(imagecodecs is None, reason="LZW needs imagecodecs")


def _random(shape=(9, 20, 30), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"compression": "zlib"},
        pytest.param({"compression": "lzw", "predictor": True}, marks=needs_lzw),
        {"compression": "zlib", "tile": (16, 16)},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_tiff(tmp_path, options, dtype):
    data = _random(dtype=dtype)
    tifffile.imwrite(tmp_path / "v.tif", data, photometric="minisblack", metadata=NM, **options)
    volume = open_volume(tmp_path / "v.tif")
    assert volume.voxel_size_nm == (8, 8, 8) and volume.dtype == dtype
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    box = (slice(3, 4), slice(0, 7), slice(29, 30))
    np.testing.assert_array_equal(volume.read(box), data[box])
    with pytest.raises(IndexError):
        volume.read((slice(0, 10), slice(0, 1), slice(0, 1)))


def test_tiff_pages_on_their_own(tmp_path):
    data = _random()
    with tifffile.TiffWriter(tmp_path / "v.tif") as writer:
        for page in data:
            writer.write(page, contiguous=False, metadata=None)
    np.testing.assert_array_equal(open_volume(tmp_path / "v.tif", 8).read((slice(None),) * 3), data)
    with tifffile.TiffWriter(tmp_path / "described.tif") as writer:
        for page in data:
            writer.write(page, contiguous=False)
    volume = open_volume(tmp_path / "described.tif", 8)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)


def test_tiff_voxel_sizes(tmp_path, refusal):
    data = _random(dtype=np.uint16)
    tifffile.imwrite(tmp_path / "j.tif", data, photometric="minisblack", metadata={"spacing_nm": [30, 4, 5]})
    assert open_volume(tmp_path / "j.tif").voxel_size_nm == (30, 4, 5)
    tifffile.imwrite(
        tmp_path / "i.tif",
        data,
        imagej=True,
        resolution=(1 / 0.005, 1 / 0.004),
        metadata={"spacing": 0.03, "unit": "um", "axes": "ZYX"},
    )
    volume = open_volume(tmp_path / "i.tif")
    np.testing.assert_allclose(volume.voxel_size_nm, (30, 4, 5), rtol=1e-5)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    tifffile.imwrite(
        tmp_path / "o.ome.tif",
        data,
        photometric="minisblack",
        metadata={
            "axes": "ZYX",
            "PhysicalSizeZ": 0.03,
            "PhysicalSizeY": 4,
            "PhysicalSizeYUnit": "nm",
            "PhysicalSizeX": 50,
            "PhysicalSizeXUnit": "Å",
        },
    )
    np.testing.assert_allclose(open_volume(tmp_path / "o.ome.tif").voxel_size_nm, (30, 4, 5))
    tifffile.imwrite(tmp_path / "none.tif", data, photometric="minisblack")
    assert "data.file_voxel_size_nm" in refusal(tmp_path / "none.tif")
    for bad in (0, -3, (1, 2), float("nan"), "wide"):
        assert "voxel size" in refusal(tmp_path / "none.tif", bad)


@pytest.mark.parametrize(
    "units, spacing, size",
    [
        ({"unit": "nm", "zunit": "um"}, 0.05, (50, 4, 5)),
        ({"unit": "um", "zunit": "nm"}, 50, (50, 4000, 5000)),
        ({"unit": "micron", "yunit": "nm", "zunit": "nm"}, 50, (50, 4, 5000)),
        ({"unit": "um", "zunit": "micron"}, 0.05, (50, 4000, 5000)),
    ],
)
def test_imagejs_units_of_each_axis(tmp_path, units, spacing, size):
    tifffile.imwrite(tmp_path / "v.tif", _random(), imagej=True, resolution=(1 / 5, 1 / 4),
                     metadata={"axes": "ZYX", "spacing": spacing, "zorigin": -2, **units})  # fmt: skip
    volume = open_volume(tmp_path / "v.tif", image=False)
    np.testing.assert_allclose(volume.voxel_size_nm, size, rtol=1e-5)
    np.testing.assert_allclose(volume.origin_nm, (100, 0, 0), rtol=1e-5)


@pytest.mark.parametrize(
    "size", [(0.05, 4, 4), (50_000, 4, 4), (50_000,) * 3, (210, 4, 4), (4, 0.07, 3), (25_400_000 / 72,) * 3]
)
def test_a_voxel_size_that_is_not_plausible_must_be_confirmed(tmp_path, refusal, size):
    path = tmp_path / "v.tif"
    tifffile.imwrite(path, _random(), photometric="minisblack", metadata={"spacing_nm": size})
    message = refusal(path)
    assert " x ".join(f"{s:g}" for s in size) in message and "data.file_voxel_size_nm" in message
    assert open_volume(path, size).voxel_size_nm == size
    assert open_volume(path, image=False).voxel_size_nm == size  # labels are compared with their image
    for fine in ((0.1,) * 3, (10_000,) * 3, (200, 4, 4)):
        tifffile.imwrite(path, _random(), photometric="minisblack", metadata={"spacing_nm": fine})
        assert open_volume(path).voxel_size_nm == fine


def test_folder_of_slices(tmp_path, refusal):
    data = _random((12, 8, 9))
    for i, page in enumerate(data):
        tifffile.imwrite(tmp_path / f"s_{i}.TIF", page, metadata=NM, compression="zlib" if i % 2 else None)
    (tmp_path / "notes.txt").write_text("not a slice")
    volume = open_volume(tmp_path)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    assert volume.voxel_size_nm == (8, 8, 8)
    tifffile.imwrite(tmp_path / "s_5.TIF", data[5, 1:])
    assert "s_5.TIF" in refusal(tmp_path)
    tifffile.imwrite(tmp_path / "s_5.TIF", data, photometric="minisblack")
    assert "not a 2D slice" in refusal(tmp_path)


@pytest.mark.parametrize(
    "names, missing",
    [
        (["s_0", "s_1", "s_3"], "without number 2;"),
        ([f"cell2_{i:04d}_8nm" for i in range(8, 30) if i not in (9, 20)], "without numbers 9, 20;"),
        ([f"{i}" for i in range(0, 100, 10) if i != 50], "without number 50;"),
        ([f"s{i}" for i in range(30) if i % 3 != 1], "without numbers 1, 4, 7, 10, 13, 16, 19, 22, ...;"),
        ([f"s{i}" for i in range(5, 12)], None),
        ([f"s{i}" for i in range(0, 50, 5)], None),
        (["s_1632", "s_1701", "s_2412", "s_3355"], None),  # times
        (["a_1", "a_3", "b_1"], None),
        (["front", "middle", "rear"], None),
        (["s_7"], None),
    ],
)
def test_a_folder_that_lacks_one_of_its_numbers(tmp_path, refusal, names, missing):
    for name in names:
        tifffile.imwrite(tmp_path / f"{name}.tif", _random((4, 5)))
    if missing:
        assert missing in refusal(tmp_path, 8)
    else:
        assert open_volume(tmp_path, 8).shape == (len(names), 4, 5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        pytest.param({"compression": "lzw"}, marks=needs_lzw),
        {"bigtiff": True},
        {"imagej": True},
        {"ome": True},
        {"contiguous": False},
    ],
)
@pytest.mark.parametrize("kept", [0.98, 0.6, 0.05, 0.002])
def test_truncated_tiff_is_found_when_opened(tmp_path, options, kept, refusal):
    path, data = tmp_path / "v.tif", _random((20, 32, 32))
    if "contiguous" in options:
        with tifffile.TiffWriter(path) as writer:
            for page in data:
                writer.write(page, metadata=None, **options)
    else:
        tifffile.imwrite(path, data, **({} if "imagej" in options else {"photometric": "minisblack"}), **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    message = refusal(path, 8)
    assert "truncated" in message or "unreadable" in message or "not a TIFF" in message


@pytest.mark.parametrize("back_to", [0, 3, 149])
def test_a_circular_chain_of_pages_is_refused(tmp_path, back_to, refusal):
    """tifffile follows one of more than 100 pages until memory ends."""
    path = tmp_path / "v.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in _random((150, 4, 4)):
            writer.write(page, contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as tif:
        end, offset = tif.pages.next_page_offset, tif.pages[back_to].offset
    content = bytearray(path.read_bytes())
    content[end : end + 4] = struct.pack("<I", offset)
    path.write_bytes(content)
    assert "circular" in refusal(path, 8)


def test_imagej_stack_over_one_header(tmp_path, refusal):
    """ImageJ writes stacks over 4 GB with one header, and the rest of the slices behind it."""
    path, data = tmp_path / "v.tif", _random((20, 32, 32))
    tifffile.imwrite(
        path, data[0], metadata=None, description="ImageJ=1.54f\nimages=20\nslices=20\nunit=nm\nspacing=8\n"
    )
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[0]
    content = path.read_bytes()[:offset] + data.tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(open_volume(path, 8).read((slice(None),) * 3), data)
    path.write_bytes(content[:-1000])
    assert "truncated" in refusal(path, 8)


def test_damaged_compressed_tiff(tmp_path, refusal):
    """A page that cannot be unpacked is reported when it is read, the first one when the file is opened."""
    path, data = tmp_path / "v.tif", _random((20, 64, 64))
    tifffile.imwrite(path, data, photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as tif:
        starts = [tif.pages[i].dataoffsets[0] for i in (0, 10)]
    content = bytearray(path.read_bytes())
    content[starts[1] : starts[1] + 400] = b"\xff" * 400
    path.write_bytes(content)
    volume = open_volume(path, 8)
    np.testing.assert_array_equal(volume.read((slice(0, 10), *ALL[1:])), data[:10])
    with pytest.raises(UserError, match="v.tif.*unreadable"):
        volume.read(ALL)
    content[starts[0] : starts[0] + 400] = b"\xff" * 400
    path.write_bytes(content)
    assert "unreadable" in refusal(path, 8)


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"tile": (16, 16)}, {"predictor": True}])
def test_compressed_pages_are_read_on_demand(tmp_path, options, monkeypatch):
    path, data = tmp_path / "v.tif", _random((12, 40, 50), np.uint16)
    tifffile.imwrite(path, data, photometric="minisblack", compression="zlib", **options)
    read, page_of = [], _Pages.read
    monkeypatch.setattr(_Pages, "read", lambda self, box: (read.append(box[0].start), page_of(self, box))[1])
    volume = open_volume(path, 8)
    assert volume.chunks == (1, 40, 50) and not read
    box = (slice(3, 6), slice(5, 9), slice(0, 50))
    np.testing.assert_array_equal(volume.read(box), data[box])
    np.testing.assert_array_equal(volume.read(box), data[box])
    assert sorted(read) == [3, 4, 5]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, page in enumerate(pool.map(lambda i: volume.read((slice(i, i + 1), *ALL[1:])), range(12))):
            np.testing.assert_array_equal(page[0], data[i])


def test_the_file_is_closed_with_its_volume(tmp_path):
    path = tmp_path / "v.tif"
    tifffile.imwrite(path, _random(), photometric="minisblack", compression="zlib")
    files = pathlib.Path("/proc/self/fd")
    if not files.exists():
        pytest.skip("needs /proc")
    links = lambda: [os.readlink(f) for f in files.iterdir() if f.is_symlink()]  # noqa: E731
    volume = open_volume(path, 8)
    volume.read(ALL)
    assert str(path) in links()
    del volume
    gc.collect()
    assert str(path) not in links()


def test_a_folder_of_many_slices(tmp_path, monkeypatch, refusal):
    """Of many slices some headers are looked at; a bad one among the others is reported when it is read."""
    data = _random((40, 8, 9))
    for i, page in enumerate(data):
        tifffile.imwrite(tmp_path / f"s{i}.tif", page)
    monkeypatch.setattr(slices, "MOST_CHECKED", 4)
    tifffile.imwrite(tmp_path / "s5.tif", data[5, 1:])
    volume = open_volume(tmp_path, 8)
    np.testing.assert_array_equal(volume.read((slice(6, 40), *ALL[1:])), data[6:])
    with pytest.raises(UserError, match="s5.tif.*differs"):
        volume.read(ALL)
    (tmp_path / "s5.tif").write_bytes((tmp_path / "s6.tif").read_bytes()[:-20])
    with pytest.raises(UserError, match="s5.tif.*truncated"):
        volume.read(ALL)
    (tmp_path / "s5.tif").unlink()
    with pytest.raises(UserError, match="s5.tif.*no such file"):
        volume.read(ALL)
    (tmp_path / "s5.tif").touch()
    assert "empty" in refusal(tmp_path, 8)


def test_a_unit_that_is_not_known(tmp_path, refusal):
    tifffile.imwrite(
        tmp_path / "i.tif", _random(), imagej=True, resolution=(1, 1), metadata={"spacing": 1, "unit": "pixel"}
    )
    assert "'pixel'" in refusal(tmp_path / "i.tif") and "data.file_voxel_size_nm" in refusal(tmp_path / "i.tif")


def test_slices_of_different_shapes_in_one_tiff(tmp_path, refusal):
    with tifffile.TiffWriter(tmp_path / "v.tif") as writer:
        for i in range(4):
            writer.write(np.zeros((8, 8 + i // 2), np.uint8), contiguous=False, metadata=None)
    message = refusal(tmp_path / "v.tif", 8)
    assert "(8, 8)" in message and "(8, 9)" in message


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("thumbnail", [np.ones((4, 5), np.uint8), np.ones((20, 30, 3), np.uint8)])
def test_a_page_of_another_kind_beside_a_stack_is_left_out(tmp_path, capsys, thumbnail, first):
    data = _random()
    path = tmp_path / "v.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in [thumbnail, *data] if first else [*data, thumbnail]:
            writer.write(page, contiguous=False, metadata=None, photometric="rgb" if page.ndim == 3 else "minisblack")
    volume = open_volume(path, 8)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    open_volume(path, 8)
    shape = " x ".join(map(str, thumbnail.shape))
    assert capsys.readouterr().err == f"{path}: left out 1 page of another kind ({shape})\n"


def test_a_thumbnail_in_a_folder_of_slices(tmp_path, capsys):
    data = _random()
    for index, plane in enumerate(data):
        with tifffile.TiffWriter(tmp_path / f"{index}.tif") as writer:
            writer.write(plane, metadata=None)
    np.testing.assert_array_equal(open_volume(tmp_path, 8).read((slice(None),) * 3), data)


def test_lzw_without_imagecodecs(tmp_path):
    path = tmp_path / "v.tif"
    tifffile.imwrite(path, _random(), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:  # says LZW without being it: writing LZW needs imagecodecs too
            page.tags["Compression"].overwrite(5)
    last = open_without(["imagecodecs"], path)
    assert "UserError" in last and "pip install imagecodecs" in last and str(path) in last


def test_more_files_than_a_process_may_have_open(tmp_path, monkeypatch, refusal):
    tifffile.imwrite(tmp_path / "v.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack")

    def none_left(*args, **options):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(tifffile, "TiffFile", none_left)
    assert "ulimit -n" in refusal(tmp_path / "v.tif", 8)
