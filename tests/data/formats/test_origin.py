"""Where a volume lies, from the metadata of every format; positions are those of voxel centres, in nm."""

import json

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr

from his4mae_jax.data.stores import placement
from his4mae_jax.data.volumes.crop import Crop
from his4mae_jax.data.volumes.labels import Foreground
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

SIZE = (30.0, 4.0, 5.0)
DATA = np.random.default_rng(0).integers(1, 200, (8, 8, 12)).astype(np.uint8)


def close(volume, expected):
    np.testing.assert_allclose(volume.origin_nm, expected, atol=1e-6)


def ome(path, levels, group=(), version=2, unit="nanometer"):
    """An OME-Zarr image; `levels` and `group` are transformations: ("scale" or "translation", values)."""

    def transforms(pairs):
        return [{"type": kind, kind: list(values)} for kind, values in pairs]

    image = {
        "axes": [{"name": n, "type": "space", "unit": unit} for n in "zyx"],
        "datasets": [{"path": str(i), "coordinateTransformations": transforms(t)} for i, t in enumerate(levels)],
    }
    if group:
        image["coordinateTransformations"] = transforms(group)
    attributes = {"multiscales": [image | {"version": "0.4"}]}
    if version == 3:
        attributes = {"ome": {"version": "0.5", "multiscales": [image]}}
    root = zarr.create_group(path, zarr_format=version, attributes=attributes)
    for i in range(len(levels)):
        data = DATA[:: 2**i, :: 2**i, :: 2**i]
        root.create_array(str(i), shape=data.shape, dtype=data.dtype, chunks=data.shape)[...] = data


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_translations_of_level_and_group(tmp_path, version):
    first = [("scale", SIZE), ("translation", (100, 20, -3))]
    ome(tmp_path / "own", [first, [("scale", (60, 8, 10)), ("translation", (115, 22, -0.5))]], version=version)
    close(open_volume(tmp_path / "own"), (100, 20, -3))
    close(open_volume(tmp_path / "own", target_nm=60), (115, 22, -0.5))
    close(open_volume(tmp_path / "own" / "1"), (115, 22, -0.5))
    ome(tmp_path / "both", [first], group=[("scale", (2, 1, 1)), ("translation", (7, 0, 1000))], version=version)
    close(open_volume(tmp_path / "both"), (207, 20, 997))  # scaled, then moved
    ome(tmp_path / "order", [[("translation", (1, 1, 1)), ("scale", SIZE)]], version=version)
    close(open_volume(tmp_path / "order"), SIZE)
    ome(tmp_path / "um", [[("scale", (0.03, 0.004, 0.005)), ("translation", (1, 2, 3))]], unit="micrometer")
    close(open_volume(tmp_path / "um"), (1000, 2000, 3000))


def test_levels_of_older_files_begin_at_the_corner_of_level_0(tmp_path):
    ome(tmp_path / "v", [[("scale", SIZE)], [("scale", (60, 8, 10))]])
    assert open_volume(tmp_path / "v").origin_nm == (0, 0, 0)
    close(open_volume(tmp_path / "v", target_nm=60), (15, 2, 2.5))
    close(open_volume(tmp_path / "v" / "1"), (15, 2, 2.5))
    moved = [[("scale", SIZE), ("translation", (100, 20, -3))], [("scale", (60, 8, 10))]]
    ome(tmp_path / "moved", moved, group=[("translation", (0, 0, 1000))])
    close(open_volume(tmp_path / "moved", target_nm=60), (115, 22, 999.5))


def test_a_voxel_size_that_is_given_scales_the_position(tmp_path):
    ome(tmp_path / "v", [[("scale", SIZE), ("translation", (300, 40, 50))], [("scale", (60, 8, 10))]])
    close(open_volume(tmp_path / "v", (3, 8, 5)), (30, 80, 50))
    close(open_volume(tmp_path / "v", (3, 8, 5), target_nm=16), (31.5, 84, 52.5))
    ome(tmp_path / "none", [[("scale", SIZE), ("translation", (300, 40, 50))]], unit="pixel")
    close(open_volume(tmp_path / "none", (3, 8, 5)), (30, 80, 50))


def test_a_damaged_position_is_refused(tmp_path, refusal):
    for i, values in enumerate([(0, float("nan"), 0), ("a", "b", "c"), (1, 2)]):
        ome(tmp_path / str(i), [[("scale", SIZE), ("translation", values)]])
        assert "write" in refusal(tmp_path / str(i))


def test_crops_move(tmp_path):
    ome(tmp_path / "v", [[("scale", SIZE), ("translation", (100, 20, -3))], [("scale", (60, 8, 10))]])
    box = f"{tmp_path / 'v'}[2:6, :, 4:10]"
    close(open_volume(box), (160, 20, 17))
    close(open_volume(box, target_nm=60), (175, 22, 19.5))  # one and two of its own voxels further
    inner = Crop(Foreground(open_volume(box)), (slice(1, 2), slice(3, 4), slice(0, 2)))
    close(inner, (190, 32, 17))
    assert np.array_equal(inner.read((slice(None),) * 3), np.ones((1, 1, 2)))


def test_resampling_keeps_the_corner(tmp_path):
    ome(tmp_path / "v", [[("scale", (4, 4, 4)), ("translation", (0, 100, 0))]])
    close(resample(open_volume(tmp_path / "v"), 16), (6, 106, 6))
    close(resample(open_volume(tmp_path / "v"), (4, 2, 8)), (0, 99, 2))
    bare = type("Bare", (), {"voxel_size_nm": (4.0,) * 3, "shape": (8, 8, 8), "name": "v"})()
    assert placement.origin_of(bare) == (0, 0, 0)
    assert resample(bare, 16).origin_nm == (6, 6, 6)


def test_zarr_arrays_of_funlib(tmp_path):
    def write(name, **attributes):
        zarr.create_array(tmp_path / name, shape=DATA.shape, dtype="u1", zarr_format=2, attributes=attributes)[...] = (
            DATA
        )
        return tmp_path / name

    offset = [300, 40, -50]
    close(open_volume(write("a", offset=offset, resolution=list(SIZE)), SIZE), offset)  # no unit: size must be given
    volume = open_volume(write("b", offset=offset, voxel_size=list(SIZE), units=["nm"] * 3))
    assert volume.voxel_size_nm == SIZE
    close(volume, offset)
    close(open_volume(write("c", offset=offset, voxel_size_nm=list(SIZE))), offset)
    close(open_volume(write("d", offset=offset), SIZE), offset)
    for name, attributes in {
        "daisy": {"resolution": list(SIZE), "offset": offset},  # no unit: nm
        "n5-zarr": {"pixelResolution": {"dimensions": list(SIZE[::-1]), "unit": "nm"}, "offset": offset},
        "cosem": {"transform": {"axes": ["x", "y", "z"], "scale": list(SIZE[::-1]), "translate": offset[::-1],
                                "units": ["nm"] * 3}},
    }.items():  # fmt: skip
        volume = open_volume(write(name, **attributes))
        assert volume.voxel_size_nm == SIZE
        close(volume, offset)
    with pytest.raises(UserError, match="damaged attribute transform"):
        open_volume(write("odd", transform={"axes": ["z"], "scale": [4]}))
    for i, odd in enumerate(({}, 3, "left", ["4 nm"] * 3, [[1, 2], [3, 4]], [1, 2], None)):  # attributes of others
        close(open_volume(write(str(i), offset=odd, resolution=odd, voxel_size_nm=8)), (0, 0, 0))
        close(open_volume(write(f"given {i}", offset=odd, resolution=odd, units=odd), 8), (0, 0, 0))


def precomputed(path, data, resolution, offset):
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{path}/",
        "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
        "scale_metadata": {"size": data.shape[::-1], "resolution": resolution, "encoding": "raw",
                           "voxel_offset": offset, "chunk_size": [8, 8, 8]},
    }  # fmt: skip
    ts.open(spec, create=True).result()[..., 0].write(data.T).result()


def test_precomputed_offsets_count_corners(tmp_path):
    precomputed(tmp_path / "v", DATA, [5, 4, 30], [16, -8, 4])
    precomputed(tmp_path / "v", DATA[::2, ::2, ::2], [10, 8, 60], [8, -4, 2])
    close(open_volume(tmp_path / "v"), (4.5 * 30, -7.5 * 4, 16.5 * 5))
    close(open_volume(tmp_path / "v", target_nm=60), (2.5 * 60, -3.5 * 8, 8.5 * 10))
    for origin in ((135.0, -30.0, 82.5), (0.0, 0.0, 0.0), (149.9, -31.9, 84.9)):
        offset = placement.voxel_offset(origin, SIZE)
        assert np.abs(np.subtract(placement.from_voxel_offset(offset, SIZE), origin) / SIZE).max() <= 0.5 + 1e-6


def n5(path, data=DATA, **attributes):
    metadata = {
        "dimensions": data.shape[::-1],
        "blockSize": [4] * 3,
        "dataType": "uint8",
        "compression": {"type": "gzip"},
    }
    spec = {"driver": "n5", "kvstore": f"file://{path}/", "metadata": metadata}
    ts.open(spec, create=True).result().write(data.T).result()
    describe(path, **attributes)


def describe(path, **attributes):
    file = path / "attributes.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(old | attributes))


def cosem(translate, factor=1):
    size = [s * factor for s in SIZE]
    return {"axes": ["z", "y", "x"], "scale": size, "units": ["nm"] * 3} | (
        {"translate": translate} if translate else {}
    )


@pytest.mark.parametrize(
    "attributes",
    [
        {"transform": cosem([100, 20, -3])},
        {"resolution": [5, 4, 30], "units": ["nm"] * 3, "offset": [-3, 20, 100]},
        {"pixelResolution": {"dimensions": [0.005, 0.004, 0.03], "unit": "um"}, "translate": [-0.003, 0.02, 0.1]},
    ],
)
def test_n5(tmp_path, attributes):
    n5(tmp_path / "v", **attributes)
    close(open_volume(tmp_path / "v"), (100, 20, -3))


def test_n5_levels(tmp_path):
    """Levels with positions of their own, without, and those of a group that lists factors."""
    for name, own, group in (
        ("own", [{"transform": cosem([100, 20, -3])}, {"transform": cosem([115, 22, -0.5], 2)}], {}),
        ("first", [{"transform": cosem([100, 20, -3])}, {"transform": cosem(None, 2)}], {}),
        ("group", [{}, {}], {"resolution": [5, 4, 30], "units": ["nm"] * 3, "offset": [-3, 20, 100],
                             "downsamplingFactors": [[1, 1, 1], [2, 2, 2]]}),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        for i, attributes in enumerate(own):
            n5(tmp_path / name / f"s{i}", DATA[:: 2**i, :: 2**i, :: 2**i], **attributes)
        describe(tmp_path / name, **group)
        close(open_volume(tmp_path / name), (100, 20, -3))
        close(open_volume(tmp_path / name, target_nm=60), (115, 22, -0.5))
        close(open_volume(tmp_path / name / "s1"), (115, 22, -0.5))
        close(open_volume(tmp_path / name / "s0"), (100, 20, -3))


def test_tiff_origins_of_imagej(tmp_path):
    about = {"spacing": 0.03, "unit": "um", "axes": "ZYX"}
    where = {"zorigin": -10, "yorigin": 2.5, "xorigin": -4}
    write = dict(imagej=True, resolution=(1 / 0.005, 1 / 0.004))
    tifffile.imwrite(tmp_path / "v.tif", DATA, metadata=about | where, **write)
    np.testing.assert_allclose(open_volume(tmp_path / "v.tif").origin_nm, (300, -10, 20), rtol=1e-5)
    close(open_volume(tmp_path / "v.tif", SIZE), (300, -10, 20))
    tifffile.imwrite(tmp_path / "none.tif", DATA, metadata=about, **write)
    assert open_volume(tmp_path / "none.tif").origin_nm == (0, 0, 0)
    tifffile.imwrite(tmp_path / "odd.tif", DATA, metadata=about | {"xorigin": "left"}, **write)
    assert open_volume(tmp_path / "odd.tif").origin_nm == (0, 0, 0)


def test_tiff_positions_of_ome_xml(tmp_path):
    sizes = {f"PhysicalSize{n}": v for n, v in zip("ZYX", SIZE, strict=True)}
    sizes |= {f"PhysicalSize{n}Unit": "nm" for n in "ZYX"}
    plane = {"PositionX": [0.02] * 8, "PositionXUnit": ["µm"] * 8, "PositionY": [-10] * 8, "PositionYUnit": ["nm"] * 8,
             "PositionZ": [300 + 30 * i for i in range(8)], "PositionZUnit": ["nm"] * 8}  # fmt: skip
    tifffile.imwrite(tmp_path / "v.ome.tif", DATA, metadata={"axes": "ZYX", **sizes, "Plane": plane})
    close(open_volume(tmp_path / "v.ome.tif"), (300, -10, 20))
    plane["PositionXUnit"] = ["reference frame"] * 8  # OME's default: no place in nm
    tifffile.imwrite(tmp_path / "frame.ome.tif", DATA, metadata={"axes": "ZYX", **sizes, "Plane": plane})
    close(open_volume(tmp_path / "frame.ome.tif"), (300, -10, 0))


def test_hdf5_offsets(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["raw"] = DATA
        file["raw"].attrs.update({"resolution": SIZE, "units": ["nm"] * 3, "offset": [300, 40, -50]})
    close(open_volume(tmp_path / "v.h5"), (300, 40, -50))


def mrc(path, data=DATA, **header):
    mrcfile = pytest.importorskip("mrcfile")
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data.astype(np.int16))
        if "order" in header:
            file.header.mapc, file.header.mapr, file.header.maps = header.pop("order")
        file.voxel_size = (50, 40, 300)
        if "origin" in header:
            file.header.origin = header.pop("origin")
        for name, value in header.items():
            setattr(file.header, name, value)


def test_mrc_origins(tmp_path):
    mrc(tmp_path / "none.mrc")
    assert open_volume(tmp_path / "none.mrc").origin_nm == (0, 0, 0)
    mrc(tmp_path / "a.mrc", origin=(-500, 400, 3000))
    close(open_volume(tmp_path / "a.mrc"), (300, 40, -50))
    mrc(tmp_path / "start.mrc", nxstart=-10, nystart=10, nzstart=10)
    close(open_volume(tmp_path / "start.mrc"), (300, 40, -50))
    mrc(tmp_path / "turned.mrc", DATA.T, order=(3, 2, 1), nxstart=10, nystart=10, nzstart=-10)
    close(open_volume(tmp_path / "turned.mrc", SIZE), (300, 40, -50))


@pytest.mark.parametrize("flags, sign", [(0, -1), (4, 1), (5, 1), (3, -1)])
def test_mrc_origins_of_imod_have_the_opposite_sign(tmp_path, flags, sign):
    mrc(tmp_path / "v.mrc", origin=(-500, 400, 3000))
    content = bytearray((tmp_path / "v.mrc").read_bytes())
    content[152:160] = np.array([1146047817, flags], "<i4").tobytes()
    (tmp_path / "v.mrc").write_bytes(content)
    close(open_volume(tmp_path / "v.mrc"), np.array((300, 40, -50)) * sign)
