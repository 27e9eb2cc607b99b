"""Metadata that change what a stored number stands for: applied, or refused."""

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(0, 256, (5, 6, 7)).astype(np.uint8)


def _hdf5(path, data, attributes):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=data).attrs.update(attributes)
    return path


def _zarr(path, data, attributes):
    zarr.create_array(path, data=data, chunks=(3, 4, 7), zarr_format=2, attributes=attributes)
    return path


def _ome(path, data, attributes):
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    image = {"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}
    zarr.create_group(path, zarr_format=2, attributes={"multiscales": [image]})
    zarr.create_array(path / "0", data=data, chunks=(3, 4, 7), zarr_format=2, attributes=attributes)
    return path


def _n5(path, data, attributes):
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"},
            "metadata": {"dimensions": data.shape[::-1], "blockSize": [4] * 3, "dataType": data.dtype.name,
                         **attributes}}  # fmt: skip
    ts.open(spec, create=True).result().write(data.T).result()
    return path


WRITERS = pytest.mark.parametrize("write", [_hdf5, _zarr, _ome, _n5])


@WRITERS
@pytest.mark.parametrize(
    "stored, attributes, expected",
    [
        (DATA, {"scale_factor": 0.5, "add_offset": -3.0}, (DATA * 0.5 - 3).astype(np.float32)),
        (DATA, {"scale_factor": -1, "add_offset": 255}, 255 - DATA),
        (DATA, {"scale_factor": 1.0, "add_offset": 0.0}, DATA),
        (DATA.astype(np.uint16) * 257, {"add_offset": -32768}, (DATA.astype(np.int32) * 257 - 32768).astype(np.int16)),
        (DATA.view(np.int8), {"_Unsigned": "true"}, DATA),
        ((DATA.astype(np.uint16) * 257).view(np.int16), {"_Unsigned": "true"}, DATA.astype(np.uint16) * 257),
        (DATA.view(np.int8), {"_Unsigned": "true", "scale_factor": 2.0}, (DATA * 2.0).astype(np.float32)),
        (DATA, {"scale_factor": [2, 2, 2]}, DATA),  # of a pyramid: no grey levels
    ],
)
def test_cf_attributes(tmp_path, write, stored, attributes, expected):
    volume = open_volume(write(tmp_path / "v.h5", stored, attributes), 8)
    assert volume.dtype == expected.dtype
    np.testing.assert_array_equal(volume.read(ALL), expected)
    box = (slice(2, 5), slice(3, 6), slice(1, 2))
    np.testing.assert_array_equal(volume.read(box), expected[box])


@WRITERS
def test_cf_attributes_of_labels(tmp_path, write, refusal):
    moved = write(tmp_path / "moved.h5", DATA.astype(np.uint32), {"add_offset": -1, "scale_factor": 1})
    np.testing.assert_array_equal(open_volume(moved, 8, image=False).read(ALL), DATA.astype(np.int64) - 1)
    for i, attributes in enumerate([{"scale_factor": 0.1}, {"scale_factor": 0}, {"add_offset": 0.5}]):
        path = write(tmp_path / f"{i}.h5", DATA, attributes)
        assert "its metadata scale values by" in refusal(path, 8, image=False)
    assert "its metadata scale values by 0" in refusal(tmp_path / "1.h5", 8)


def test_many_reads_at_once_of_scaled_values(tmp_path):
    """Threads that wait for other chunks must not use up those that fetch them."""
    data = np.random.default_rng(0).integers(0, 99, (24, 24, 24)).astype(np.uint16)
    zarr.create_array(tmp_path / "v", data=data, chunks=(4, 4, 4), zarr_format=2, attributes={"scale_factor": 0.5})
    volume = open_volume(tmp_path / "v", 8)
    pending = [volume.read_async((slice(i, i + 4), slice(None), slice(None))) for i in range(20)]
    for i, one in enumerate(pending):
        np.testing.assert_array_equal(one.result(), data[i : i + 4] * np.float32(0.5))


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 2}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_whose_0_is_white(tmp_path, refusal, options, dtype):
    data = DATA.astype(dtype) * (1 if dtype == np.uint8 else 257)
    tifffile.imwrite(tmp_path / "v.tif", data, photometric="miniswhite", **options)
    volume = open_volume(tmp_path / "v.tif", 8)
    assert volume.dtype == dtype
    np.testing.assert_array_equal(volume.read(ALL), np.iinfo(dtype).max - data)
    assert "WhiteIsZero" in refusal(tmp_path / "v.tif", 8, image=False)
    tifffile.imwrite(tmp_path / "f.tif", data.astype(np.float32), photometric="miniswhite", **options)
    assert "WhiteIsZero" in refusal(tmp_path / "f.tif", 8)


def test_a_mask_with_imagejs_inverting_table(tmp_path):
    """ImageJ shows the 255 of such a mask as black, and calls it foreground."""
    mask = (DATA > 100).astype(np.uint8) * 255
    tifffile.imwrite(tmp_path / "v.tif", mask, imagej=True, photometric="miniswhite", metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(open_volume(tmp_path / "v.tif", 8, image=False).read(ALL), mask)
    np.testing.assert_array_equal(open_volume(tmp_path / "v.tif", 8).read(ALL), 255 - mask)


def test_slices_some_of_which_have_white_as_0(tmp_path):
    for i, page in enumerate(DATA):
        kind = "miniswhite" if i == 2 else "minisblack"
        tifffile.imwrite(tmp_path / f"{i}.tif", 255 - page if i == 2 else page, photometric=kind)
    np.testing.assert_array_equal(open_volume(tmp_path, 8).read(ALL), DATA)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_imagejs_calibration_of_grey_levels(tmp_path, refusal, compression):
    """Its signed 16-bit images are stored as unsigned ones."""
    signed = (DATA.astype(np.int32) * 200 - 20000).astype(np.int16)
    stored = (signed.astype(np.int32) + 32768).astype(np.uint16)

    def write(name, data, **calibration):
        tifffile.imwrite(tmp_path / name, data, imagej=True, compression=compression,
                         metadata={"axes": "ZYX", "cf": 0, "vunit": "gray value", **calibration})  # fmt: skip
        return tmp_path / name

    for image in (True, False):
        volume = open_volume(write("signed.tif", stored, c0=-32768.0, c1=1.0), 8, image=image)
        assert volume.dtype == np.int16
        np.testing.assert_array_equal(volume.read(ALL), signed)
    inverse = open_volume(write("inverse.tif", DATA, c0=255.0, c1=-1.0), 8)
    np.testing.assert_array_equal(inverse.read(ALL), 255 - DATA)
    line = open_volume(write("line.tif", DATA, c0=1.5, c1=0.25), 8)
    np.testing.assert_allclose(line.read(ALL), 1.5 + 0.25 * DATA.astype(np.float32))
    assert "its metadata scale values" in refusal(tmp_path / "line.tif", 8, image=False)


def _palette(colours):
    return (np.asarray(colours, np.uint16) * 257).astype(np.uint16)


def test_palettes(tmp_path, refusal):
    grey = np.arange(256)[::-1] // 2
    for name, colours in (("grey", [grey] * 3), ("same", [np.arange(256)] * 3), ("fire", [grey, grey // 2, grey])):
        tifffile.imwrite(tmp_path / f"{name}.tif", DATA, photometric="palette", colormap=_palette(colours))
    np.testing.assert_array_equal(open_volume(tmp_path / "grey.tif", 8).read(ALL), grey[DATA])
    np.testing.assert_array_equal(open_volume(tmp_path / "same.tif", 8).read(ALL), DATA)
    assert "palette" in refusal(tmp_path / "fire.tif", 8)
    # The colours of labels are no matter, nor those that ImageJ shows grey levels in.
    np.testing.assert_array_equal(open_volume(tmp_path / "fire.tif", 8, image=False).read(ALL), DATA)
    tifffile.imwrite(tmp_path / "lut.tif", DATA, imagej=True, metadata={"axes": "ZYX"}, photometric="palette",
                     colormap=_palette([grey, grey // 2, grey]))  # fmt: skip
    np.testing.assert_array_equal(open_volume(tmp_path / "lut.tif", 8).read(ALL), DATA)


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True, "photometric": "minisblack"}])
def test_channels_are_no_third_axis(tmp_path, refusal, options):
    for name, data, axes in (("c.tif", DATA[:3], "CYX"), ("z.tif", DATA[:3], "ZYX"), ("t.tif", DATA[:3], "TYX"),
                             ("many.tif", DATA.repeat(2, 0), "CYX")):  # fmt: skip
        tifffile.imwrite(tmp_path / name, data, metadata={"axes": axes}, **options)
        if name == "c.tif":
            assert "3 channels of one section" in refusal(tmp_path / name, 8)
        else:
            np.testing.assert_array_equal(open_volume(tmp_path / name, 8).read(ALL), data)


def _stored_as_colours(path, data, **options):
    tifffile.imwrite(path, np.moveaxis(data, 0, -1 if options.get("planarconfig") != "separate" else 1),
                     photometric="rgb", **options)  # fmt: skip


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"planarconfig": "separate"}, {"imagej": True}, {"tile": (16, 16)}]
)
def test_grey_levels_stored_as_colours(tmp_path, refusal, samples, options):
    """Red, green and blue are the same: those are grey levels. One pixel that differs makes them colours."""
    if options.get("imagej") and samples == 4:
        pytest.skip("ImageJ has no opacity")
    colours = np.stack([DATA] * 3 + [np.full_like(DATA, 255)] * (samples - 3))
    path = tmp_path / "v.tif"
    _stored_as_colours(path, colours, **options)
    for image in (True, False):
        volume = open_volume(path, 8, image=image)
        assert volume.dtype == DATA.dtype and volume.chunks == (1, *DATA.shape[1:])
        np.testing.assert_array_equal(volume.read(ALL), DATA)
    colours[1, 3, 2, 4] += 1
    _stored_as_colours(path, colours, **options)
    volume = open_volume(path, 8)  # only the first page is decoded
    np.testing.assert_array_equal(volume.read(np.s_[:3, :, :]), DATA[:3])
    with pytest.raises(UserError, match="holds colours .* which differ.*data.channel"):
        volume.read(ALL)
    np.testing.assert_array_equal(open_volume(f"{path}[c=1]", 8).read(ALL), colours[1])
    colours[1, 0] += 1
    _stored_as_colours(path, colours, **options)
    assert "holds colours" in refusal(path, 8)
    with pytest.raises(UserError, match=f"no channel {samples}"):
        open_volume(f"{path}[c={samples}]", 8)


def test_colours_of_one_page_are_no_third_axis(tmp_path, refusal):
    tifffile.imwrite(tmp_path / "page.tif", DATA[0, :, :, None].repeat(3, 2), photometric="rgb")
    assert "not a 3D volume" in refusal(tmp_path / "page.tif", 8)
    tifffile.imwrite(tmp_path / "cmyk.tif", DATA[..., None].repeat(4, 3), photometric="separated")
    assert "holds colours" in refusal(tmp_path / "cmyk.tif", 8)
