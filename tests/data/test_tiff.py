"""TIFF: every way to store a stack, voxel sizes from metadata, and damage found when opened."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from his4mae_jax.data.volume import open_volume, tiff_shape

try:
    import imagecodecs
except ImportError:  # the extra "lzw" is not installed
    imagecodecs = None

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
    assert tiff_shape(tmp_path / "described.tif") == data.shape


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
    path = tmp_path / "v.tif"
    tifffile.imwrite(path, _random((20, 64, 64)), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[10].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[start : start + 400] = b"\xff" * 400
    path.write_bytes(content)
    assert "unreadable" in refusal(path, 8)


def test_slices_of_different_shapes_in_one_tiff(tmp_path, refusal):
    with tifffile.TiffWriter(tmp_path / "v.tif") as writer:
        for i in range(4):
            writer.write(np.zeros((8, 8 + i // 2), np.uint8), contiguous=False, metadata=None)
    message = refusal(tmp_path / "v.tif", 8)
    assert "(8, 8)" in message and "(8, 9)" in message


def test_lzw_without_imagecodecs(tmp_path):
    path = tmp_path / "v.tif"
    tifffile.imwrite(path, _random(), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        for page in tif.pages:  # says LZW without being it: writing LZW needs imagecodecs too
            page.tags["Compression"].overwrite(5)
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from his4mae_jax.data.volume import open_volume\n"
        f"open_volume({str(path)!r}, 8)"
    )
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    last = done.stderr.strip().splitlines()[-1]
    assert "UserError" in last and "pip install imagecodecs" in last and str(path) in last
