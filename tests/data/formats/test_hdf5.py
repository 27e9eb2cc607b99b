"""HDF5: data sets by path or alone, voxel sizes of known writers, lazily, and damage."""

import concurrent.futures
import subprocess
import sys

import numpy as np
import pytest
from absent import open_without

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

h5py = pytest.importorskip("h5py")
ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (20, 30, 40)).astype(np.uint8)


def _write(path, name="volumes/raw", data=DATA, attributes=None, **options):
    with h5py.File(path, "a") as file:
        item = file.create_dataset(name, data=data, **options)
        item.attrs.update(attributes or {})


@pytest.mark.parametrize("options", [{}, {"chunks": (8, 8, 8)}, {"chunks": (4, 30, 40), "compression": "gzip"}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, ">u2"])
def test_hdf5(tmp_path, options, dtype):
    data = DATA.astype(dtype)
    _write(tmp_path / "v.h5", data=data, attributes={"voxel_size_nm": [30, 4, 5]}, **options)
    for name in ("v.h5", "v.h5:/volumes/raw", "v.h5:volumes/raw"):
        volume = open_volume(f"{tmp_path / name}")
        assert volume.voxel_size_nm == (30, 4, 5) and volume.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(volume.read(ALL), data)
        assert volume.chunks == options.get("chunks", volume.chunks)
    box = (slice(3, 19), slice(7, 8), slice(1, 40))
    np.testing.assert_array_equal(open_volume(f"{tmp_path / 'v.h5'}:/volumes/raw[1:, :, :]").read(box), data[1:][box])


@pytest.mark.parametrize(
    "attributes",
    [
        {"element_size_um": [0.03, 0.004, 0.005]},
        {"resolution": [30.0, 4.0, 5.0], "units": ["nm", "nm", "nm"]},
        {"resolution": [0.03, 0.004, 0.005], "unit": "um"},
        {"voxel_size": np.array([300, 40, 50]), "units": np.bytes_("angstrom")},
    ],
)
def test_voxel_sizes(tmp_path, attributes):
    _write(tmp_path / "v.h5", attributes=attributes)
    np.testing.assert_allclose(open_volume(tmp_path / "v.h5").voxel_size_nm, (30, 4, 5))


def test_voxel_size_without_a_unit(tmp_path, refusal, capsys):
    _write(tmp_path / "v.hdf5", attributes={"resolution": [30, 4, 5]})
    assert open_volume(tmp_path / "v.hdf5").voxel_size_nm == (30, 4, 5)
    assert f"{tmp_path}/v.hdf5:/volumes/raw: the voxel size in its metadata (30, 4, 5, z" in capsys.readouterr().err
    _write(tmp_path / "um.hdf5", attributes={"resolution": [0.03, 0.004, 0.005]})
    assert "data.file_voxel_size_nm" in refusal(tmp_path / "um.hdf5")
    _write(tmp_path / "cubit.h5", attributes={"resolution": [30, 4, 5], "units": "cubit"})
    assert "cubit" in refusal(tmp_path / "cubit.h5")
    _write(tmp_path / "cremi.hdf", attributes={"resolution": [30, 4, 5]})
    with h5py.File(tmp_path / "cremi.hdf", "a") as file:
        file.attrs["file_format"] = "0.2"  # CREMI's mark; its sizes are in nm
    assert open_volume(tmp_path / "cremi.hdf").voxel_size_nm == (30, 4, 5)


def test_which_data_set(tmp_path, refusal):
    _write(tmp_path / "one.h5", "raw", DATA[None, ..., None])  # axes of one element are no matter
    _write(tmp_path / "one.h5", "table", np.zeros((5, 2)))
    np.testing.assert_array_equal(open_volume(tmp_path / "one.h5", 8).read(ALL), DATA)
    path = tmp_path / "v.h5"
    for name, data in (("raw", DATA), ("labels", DATA), ("table", np.zeros((5, 2), int)), ("names", ["a", "b"])):
        _write(path, name, data)
    message = refusal(path, 8)
    assert "/raw" in message and "/labels" in message and "give the path of one" in message
    with pytest.raises(UserError, match="no data set '/nothing'.*/raw"):
        open_volume(f"{path}:/nothing", 8)
    with pytest.raises(UserError, match="not a 3D volume"):
        open_volume(f"{path}:/table", 8, image=False)
    with pytest.raises(UserError, match="no numbers"):
        open_volume(f"{path}:/names", 8)
    with pytest.raises(UserError, match="no such file"):
        open_volume(f"{tmp_path / 'absent.h5'}:/raw", 8)


def test_many_threads(tmp_path):
    _write(tmp_path / "v.h5", chunks=(4, 8, 8), compression="gzip")
    volume = open_volume(tmp_path / "v.h5", 8, cache_bytes=0)
    boxes = [(slice(i % 10, i % 10 + 9), slice(i % 7, 30), slice(0, 40)) for i in range(40)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for box, found in zip(boxes, pool.map(volume.read, boxes), strict=True):
            np.testing.assert_array_equal(found, DATA[box])


def test_damage(tmp_path, refusal):
    path = tmp_path / "v.h5"
    _write(path, chunks=(4, 30, 40), compression="gzip")
    content = path.read_bytes()
    with h5py.File(path) as file:
        chunk = file["volumes/raw"].id.get_chunk_info(3)
    broken = bytearray(content)
    broken[chunk.byte_offset : chunk.byte_offset + 200] = b"\xff" * 200
    path.write_bytes(broken)
    volume = open_volume(path, 8)
    np.testing.assert_array_equal(volume.read((slice(0, 4), *ALL[1:])), DATA[:4])
    with pytest.raises(UserError, match="v.h5.*cannot read the data"):
        volume.read(ALL)
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    assert "unreadable HDF5" in refusal(tmp_path / "cut.h5", 8)


def test_filters_of_hdf5plugin(tmp_path):
    """Written in another process: the filters are there once hdf5plugin was imported."""
    write = f"""
import h5py, hdf5plugin, numpy as np
data = np.load({str(tmp_path / "data.npy")!r})
kinds = dict(bitshuffle=hdf5plugin.Bitshuffle(), lz4=hdf5plugin.LZ4(), blosc=hdf5plugin.Blosc(), zstd=hdf5plugin.Zstd())
with h5py.File({str(tmp_path / "v.h5")!r}, "w") as file:
    for name, options in kinds.items():
        file.create_dataset(name, data=data, chunks=(8, 32, 32), **options)
"""
    data = np.random.default_rng(0).integers(0, 9, (16, 64, 64)).astype(np.uint16)
    np.save(tmp_path / "data.npy", data)
    subprocess.run([sys.executable, "-c", write], check=True)
    said = open_without(["hdf5plugin"], tmp_path / "v.h5:/lz4")
    assert "UserError" in said and "/lz4: its compression, HDF5 lz4 filter (filter 32004), needs" in said
    assert "pip install 'his4mae_jax[hdf5plugin]'" in said
    assert open_without([], tmp_path / "v.h5:/bitshuffle") == str(data.sum())
    for name in ("bitshuffle", "lz4", "blosc", "zstd"):
        np.testing.assert_array_equal(open_volume(f"{tmp_path / 'v.h5'}:/{name}", 8).read((slice(None),) * 3), data)


def test_without_h5py(tmp_path):
    _write(tmp_path / "v.h5")
    said = open_without(["h5py"], tmp_path / "v.h5")
    assert "UserError" in said and "pip install 'his4mae_jax[hdf5]'" in said
