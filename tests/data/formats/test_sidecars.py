"""Files beside a volume that name its axes or give its voxel size: WEBKNOSSOS, nnU-Net, BigDataViewer, OME."""

import json

import h5py
import numpy as np
import pytest
import tensorstore as ts
import tifffile

from his4mae_jax.data.volumes.volume import UnlikelyVoxelSize, open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (5, 6, 7)).astype(np.uint8)  # z, y, x


def write(path, stored, driver="zarr", **attributes):
    """An array as it is stored, without names of axes."""
    metadata = {
        "zarr": {"shape": stored.shape, "chunks": stored.shape, "dtype": "|u1"},
        "zarr3": {"shape": stored.shape, "data_type": "uint8"},
        "n5": {"dimensions": stored.shape, "blockSize": stored.shape, "dataType": "uint8",
               "compression": {"type": "raw"}},
    }[driver]  # fmt: skip
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/"}, "metadata": metadata}
    ts.open(spec, create=True).result().write(stored).result()
    if attributes:
        file = path / {"zarr": ".zattrs", "n5": "attributes.json"}[driver]
        file.write_text(json.dumps(attributes | (json.loads(file.read_text()) if file.exists() else {})))


def dataset(folder, *mags, scale=None, **layer):
    """The datasource-properties.json of a dataset with one layer."""
    scale = scale or {"factor": [4, 5, 0.03], "unit": "nanometer"}
    layer = {"name": "color", "dataFormat": "zarr", "mags": list(mags), **layer}
    (folder / "datasource-properties.json").write_text(json.dumps({"dataLayers": [layer], "scale": scale}))


CXYZ = {"c": 0, "x": 1, "y": 2, "z": 3}


@pytest.mark.parametrize("driver", ["zarr", "zarr3", "n5"])
@pytest.mark.parametrize("path", ["./color/2-2-1", "color/2-2-1", "2-2-1", None])
def test_webknossos_axes_and_voxel_size(tmp_path, driver, path):
    write(tmp_path / "color/2-2-1", DATA.T[None], driver)
    mag = {"mag": [2, 2, 1], "axisOrder": CXYZ} | ({"path": path} if path else {})
    dataset(
        tmp_path, {"mag": 1, "path": "./color/1"}, mag, scale={"factor": [0.004, 0.005, 0.03], "unit": "micrometer"}
    )
    volume = open_volume(tmp_path / "color/2-2-1")
    assert volume.voxel_size_nm == pytest.approx((30, 10, 8))
    np.testing.assert_array_equal(volume.read(ALL), DATA)


@pytest.mark.parametrize("scale", [[4, 5, 30], {"factor": [4, 5, 30]}, {"factor": [40, 50, 300], "unit": "angstrom"}])
def test_webknossos_scales(tmp_path, scale):
    write(tmp_path / "cell.zarr/color/1", DATA.transpose(1, 0, 2))
    dataset(tmp_path, {"mag": "1", "path": "cell.zarr/color/1", "axisOrder": {"y": 0, "z": 1, "x": 2}}, scale=scale)
    volume = open_volume(tmp_path / "cell.zarr/color/1")
    assert volume.voxel_size_nm == pytest.approx((30, 5, 4))
    np.testing.assert_array_equal(volume.read(ALL), DATA)


def test_webknossos_layer_that_is_a_group(tmp_path):
    write(tmp_path / "color/s0", DATA, "n5")
    write(tmp_path / "color/s1", DATA[:3], "n5")
    mags = [{"mag": m, "path": f"color/s{i}", "axisOrder": {"z": 0, "y": 1, "x": 2}} for i, m in ((1, [2] * 3), (0, 1))]
    dataset(tmp_path, *mags, scale=[4, 5, 30])
    volume = open_volume(tmp_path / "color")
    assert volume.voxel_size_nm == (30, 5, 4)
    np.testing.assert_array_equal(volume.read(ALL), DATA)


def test_a_size_with_a_unit_goes_before_a_guess(tmp_path, capsys):
    write(tmp_path / "color/1", DATA, "zarr", resolution=[8, 8, 8])
    dataset(tmp_path, {"mag": 1}, scale=[4, 5, 30])
    assert open_volume(tmp_path / "color/1").voxel_size_nm == (30, 5, 4)
    assert "taken for nm" not in capsys.readouterr().err


def test_what_the_volume_says_goes_first_and_contradictions_are_said(tmp_path, capsys):
    own = {"voxel_size_nm": [30, 5, 4], "_ARRAY_DIMENSIONS": ["z", "y", "x"]}
    write(tmp_path / "color/1", DATA, **own)
    dataset(tmp_path, {"mag": 1, "axisOrder": {"z": 0, "y": 1, "x": 2}}, scale=[4, 5, 30])
    open_volume(tmp_path / "color/1")
    assert capsys.readouterr().err == ""
    dataset(tmp_path, {"mag": 1, "axisOrder": {"x": 0, "y": 1, "z": 2}}, scale=[4, 5, 32])
    volume = open_volume(tmp_path / "color/1")
    assert volume.voxel_size_nm == (30, 5, 4)
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    axes, size = capsys.readouterr().err.splitlines()
    file = str(tmp_path / "datasource-properties.json")
    assert axes.startswith("warning: ") and "the axes z, y, x" in axes and f"{file} names x, y, z" in axes
    assert "30 x 5 x 4 nm" in size and f"32 x 5 x 4 nm by {file}" in size


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"dataLayers": 3}', '{"dataLayers": [{"name": "color", "mags": [{"mag": [1, 0, 1]}]}], "scale": 4}',
     '{"dataLayers": [{"name": "color", "mags": [{"mag": 1, "axisOrder": {"x": 0, "y": 0, "z": 1}}]}]}',
     '{"dataLayers": [{"name": "color", "mags": [{"mag": 1}]}], "scale": {"factor": [4, 5, 30], "unit": "parsec"}}',
     '{"dataLayers": [{"name": "color", "mags": [{"mag": 1}]}], "scale": [4, 5, -30]}'],
)  # fmt: skip
def test_a_damaged_datasource_is_one_line(tmp_path, content, capsys):
    write(tmp_path / "color/1", DATA)
    file = tmp_path / "datasource-properties.json"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        open_volume(tmp_path / "color/1")
    assert str(caught.value).startswith(f"{file}: damaged") and "\n" not in str(caught.value)
    write(tmp_path / "color/2", DATA, voxel_size_nm=[30, 5, 4], axes=["z", "y", "x"])
    file.write_text(content.replace('"mag": 1', '"mag": 2').replace("[1, 0, 1]", '"2-0-2", "path": "2"'))
    assert open_volume(tmp_path / "color/2").voxel_size_nm == (30, 5, 4)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {file}: damaged") and "left out" in line


@pytest.mark.parametrize("path", ["../../color/1", "/color/1", "https://host/color/1", "color/11"])
def test_a_datasource_that_lists_other_volumes_says_nothing(tmp_path, path, refusal):
    write(tmp_path / "color/1", DATA)
    dataset(tmp_path, {"mag": 1, "path": path, "axisOrder": {"x": 0, "y": 1, "z": 2}}, scale=[4, 5, 30])
    assert "no voxel size" in refusal(tmp_path / "color/1")


def test_webknossos_of_precomputed(tmp_path, capsys):
    metadata = {"type": "image", "data_type": "uint8", "num_channels": 1}
    scale = {"key": "1", "resolution": [4, 5, 30], "size": [7, 6, 5], "encoding": "raw", "chunk_size": [7, 6, 5]}
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{tmp_path}/color/"},
            "multiscale_metadata": metadata, "scale_metadata": scale}  # fmt: skip
    ts.open(spec, create=True).result().write(DATA.T[..., None]).result()
    for z, lines in ((30, 0), (31, 1)):
        dataset(tmp_path, {"mag": 1, "axisOrder": {"x": 0, "y": 1, "z": 2}}, scale=[4, 5, z])
        volume = open_volume(tmp_path / "color")
        assert volume.voxel_size_nm == (30, 5, 4)
        np.testing.assert_array_equal(volume.read(ALL), DATA)
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_webknossos_on_a_web_server(tmp_path, web):
    write(tmp_path / "color/1", DATA.T[None])
    dataset(tmp_path, {"mag": 1, "axisOrder": CXYZ}, scale=[4, 5, 30])
    volume = open_volume(f"{web.url}/color/1")
    assert volume.voxel_size_nm == (30, 5, 4)
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    write(tmp_path / "color/2", DATA, voxel_size_nm=[30, 5, 4], axes=["z", "y", "x"])
    web.requests.clear()
    open_volume(f"{web.url}/color/2")
    assert not any("datasource" in path for path in web.requests)  # it has all that is needed


@pytest.mark.parametrize("tif, beside", [("case_0000", "case"), ("case_0000", "case_0000"), ("case", "case")])
def test_nnunet_spacing(tmp_path, tif, beside):
    tifffile.imwrite(tmp_path / f"{tif}.tif", DATA)
    (tmp_path / f"{beside}.json").write_text('{"spacing": [3e-5, 5e-6, 4e-6]}')
    assert open_volume(tmp_path / f"{tif}.tif").voxel_size_nm == pytest.approx((30, 5, 4))


def test_nnunet_spacing_that_is_unlikely_is_asked_about(tmp_path):
    tifffile.imwrite(tmp_path / "case_0000.tif", DATA)
    (tmp_path / "case.json").write_text('{"spacing": [30, 5, 4]}')
    with pytest.raises(UnlikelyVoxelSize) as caught:
        open_volume(tmp_path / "case_0000.tif")
    assert f"3e+07 x 5e+06 x 4e+06 nm (z, y, x) in {tmp_path / 'case.json'} are beyond" in str(caught.value)
    assert open_volume(tmp_path / "case_0000.tif", (30, 5, 4)).voxel_size_nm == (30, 5, 4)


@pytest.mark.parametrize("content", ['{"spacing": [1, 1, 1]}', '{"PixelSize": 4}', "[4, 4, 4]"])
def test_json_that_gives_no_size_is_not_taken_for_one(tmp_path, content, refusal):
    tifffile.imwrite(tmp_path / "case.tif", DATA)
    (tmp_path / "case.json").write_text(content)
    assert "no voxel size" in refusal(tmp_path / "case.tif")


@pytest.mark.parametrize("content", ["{", '{"spacing": [1, 2]}', '{"spacing": [1, 0, 2]}', '{"spacing": "wide"}'])
def test_damaged_spacing_is_one_line(tmp_path, content, capsys):
    tifffile.imwrite(tmp_path / "case.tif", DATA)
    (tmp_path / "case.json").write_text(content)
    with pytest.raises(UserError, match="case.json: damaged"):
        open_volume(tmp_path / "case.tif")
    tifffile.imwrite(tmp_path / "case.tif", DATA, description='{"spacing_nm": [30, 5, 4]}', metadata=None)
    assert open_volume(tmp_path / "case.tif").voxel_size_nm == (30, 5, 4)
    assert capsys.readouterr().err.startswith(f"warning: {tmp_path / 'case.json'}: damaged")


XML = """<?xml version="1.0" encoding="UTF-8"?>
<SpimData version="0.2"><BasePath type="relative">.</BasePath><SequenceDescription>
<ImageLoader format="bdv.{kind}"><{kind} type="relative">{file}</{kind}></ImageLoader>
<ViewSetups><ViewSetup><id>0</id><size>7 6 5</size>
<voxelSize><unit>pixel</unit><size>1 1 1</size></voxelSize></ViewSetup>
<ViewSetup><id>1</id><size>7 6 5</size><voxelSize><unit>µm</unit><size>{size}</size></voxelSize></ViewSetup>
</ViewSetups></SequenceDescription></SpimData>"""


def spim(path, kind, file, size="0.004 0.005 0.03"):
    path.write_text(XML.format(kind=kind, file=file, size=size), encoding="utf-8")


def test_bigdataviewer_hdf5(tmp_path, refusal):
    with h5py.File(tmp_path / "cell.h5", "w") as f:
        for setup in (0, 1):
            f[f"s{setup:02}/resolutions"] = np.array([[1.0, 1, 1], [2, 2, 1]])
            for level in (0, 1):
                f[f"t00000/s{setup:02}/{level}/cells"] = DATA
    spim(tmp_path / "cell.xml", "hdf5", "cell.h5")
    volume = open_volume(f"{tmp_path}/cell.h5:/t00000/s01/0/cells")
    assert volume.voxel_size_nm == pytest.approx((30, 5, 4))
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    assert open_volume(f"{tmp_path}/cell.h5:/t00000/s01/1/cells").voxel_size_nm == pytest.approx((30, 10, 8))
    for other in ("s00", "of another file"):
        assert "no voxel size" in refusal(f"{tmp_path}/cell.h5:/t00000/{'s00' if other == 's00' else 's01'}/0/cells")
        spim(tmp_path / "cell.xml", "hdf5", "other.h5")


def test_bigdataviewer_n5(tmp_path):
    for level in (0, 1):
        write(tmp_path / f"cell.n5/setup1/timepoint0/s{level}", DATA.T, "n5")
    (tmp_path / "cell.n5/setup1/attributes.json").write_text('{"downsamplingFactors": [[1, 1, 1], [2, 2, 1]]}')
    spim(tmp_path / "cell.xml", "n5", "cell.n5")
    for path, size in (("", (30, 5, 4)), ("/s0", (30, 5, 4)), ("/s1", (30, 10, 8))):
        volume = open_volume(f"{tmp_path}/cell.n5/setup1/timepoint0{path}")
        assert volume.voxel_size_nm == pytest.approx(size)
        np.testing.assert_array_equal(volume.read(ALL), DATA)


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize("damage", ["cut", "text", "size", "bomb", "utf-16 bomb"])
def test_damaged_or_hostile_xml_is_one_line(tmp_path, damage):
    with h5py.File(tmp_path / "cell.h5", "w") as f:
        f["t00000/s01/0/cells"] = DATA
    spim(tmp_path / "cell.xml", "hdf5", "cell.h5", "0.004 zero" if damage == "size" else "1 1 1")
    text = (tmp_path / "cell.xml").read_text("utf-8")
    if "bomb" in damage:
        text = text.replace("?>", "?>" + BOMB).replace('encoding="UTF-8"', "")
    content = {"cut": text[:300], "text": "no XML"}.get(damage, text)
    (tmp_path / "cell.xml").write_bytes(content.encode("utf-16" if "16" in damage else "utf-8"))
    with pytest.raises(UserError) as caught:
        open_volume(f"{tmp_path}/cell.h5:/t00000/s01/0/cells")
    assert str(caught.value).startswith(f"{tmp_path / 'cell.xml'}: damaged") and "\n" not in str(caught.value)
    assert open_volume(f"{tmp_path}/cell.h5:/t00000/s01/0/cells", 8).voxel_size_nm == (8, 8, 8)


OME = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'


@pytest.mark.parametrize("metadata", ["cell.companion.ome", "../cell.companion.ome", "none.companion.ome"])
def test_companion_of_a_set_of_ome_tiffs(tmp_path, metadata):
    (tmp_path / "set").mkdir()
    only = f'<OME {OME}><BinaryOnly MetadataFile="{metadata}" UUID="urn:uuid:1"/></OME>'
    tifffile.imwrite(tmp_path / "set/cell.ome.tif", DATA, description=only, metadata=None)
    for folder in (tmp_path, tmp_path / "set"):
        (folder / "cell.companion.ome").write_text(
            f'<OME {OME}><Image><Pixels PhysicalSizeX="1"/></Image><Image><Pixels PhysicalSizeX="4" '
            'PhysicalSizeXUnit="nm" PhysicalSizeY="5" PhysicalSizeYUnit="nm" PhysicalSizeZ="0.03"><TiffData>'
            '<UUID FileName="cell.ome.tif">urn:uuid:1</UUID></TiffData></Pixels></Image></OME>'
        )
    if metadata.startswith("cell"):
        assert open_volume(tmp_path / "set/cell.ome.tif").voxel_size_nm == pytest.approx((30, 5, 4))
    else:
        with pytest.raises(UserError, match="no voxel size"):
            open_volume(tmp_path / "set/cell.ome.tif")
