"""Compression that TensorStore refuses: read as it was written, and one clear line where it cannot be."""

import json
import struct

import numcodecs
import numpy as np
import pytest
import zarr
from absent import open_without

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (8, 9, 10)).astype(np.uint16)


def _zarr(path, data=DATA, **options):
    array = zarr.create_array(
        path, shape=data.shape, dtype=data.dtype, chunks=(4, 4, 4), zarr_format=2, fill_value=7,
        attributes={"voxel_size_nm": [30, 4, 5]}, **options,
    )  # fmt: skip
    array[...] = data


def _change(path, **compressor):
    metadata = json.loads((path / ".zarray").read_text())
    metadata["compressor"] |= compressor
    (path / ".zarray").write_text(json.dumps(metadata))


def _n5_lz4(path, data=DATA, block=(4, 4, 4), stored=False):
    """As n5-java writes it: blocks of lz4-java, cut at the edge of the volume."""
    path.mkdir(parents=True)
    attributes = {
        "dimensions": data.shape[::-1], "blockSize": block, "dataType": data.dtype.name,
        "compression": {"type": "lz4", "blockSize": 50}, "pixelResolution": {"dimensions": [5, 4, 30], "unit": "nm"},
    }  # fmt: skip
    (path / "attributes.json").write_text(json.dumps(attributes))
    for index in np.ndindex(*(-(-n // b) for n, b in zip(data.shape[::-1], block, strict=True))):
        box = tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, block, strict=True))
        values = data.T[box]
        plain = values.astype(values.dtype.newbyteorder(">")).tobytes(order="F")
        stream = b""
        for part in (plain[i : i + 50] for i in range(0, len(plain), 50)):
            packed = part if stored else numcodecs.LZ4().encode(part)[4:]
            stream += struct.pack("<8sBiiI", b"LZ4Block", 0x16 if stored else 0x26, len(packed), len(part), 0) + packed
        stream += struct.pack("<8sBiiI", b"LZ4Block", 0x16, 0, 0, 0)
        file = path.joinpath(*map(str, index))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(struct.pack(">HH3I", 0, 3, *values.shape) + stream)


@pytest.mark.parametrize("members", [{"checksum": True}, {"checksum": False}, {"checksum": True, "later": 1}])
def test_zstd_with_a_checksum(tmp_path, web, members):
    """Arrays of the OpenOrganelle bucket."""
    _zarr(tmp_path / "v", compressors=numcodecs.Zstd(3, checksum=members["checksum"]))
    _change(tmp_path / "v", **members)
    for place in (tmp_path / "v", f"{web.url}/v"):
        volume = open_volume(place)
        assert (volume.voxel_size_nm, volume.dtype) == ((30, 4, 5), np.uint16)
        np.testing.assert_array_equal(volume.read(ALL), DATA)
    (tmp_path / "v" / "1.1.1").unlink()
    for place in (tmp_path / "v", f"{web.url}/v"):
        assert (open_volume(place).read(ALL)[4:, 4:8, 4:8] == 7).all()
        with pytest.raises(UserError, match="chunk is missing"):
            open_volume(place, missing_chunks="error").read(ALL)


def test_a_checksum_that_is_wrong(tmp_path):
    _zarr(tmp_path / "v", compressors=numcodecs.Zstd(3, checksum=True))
    chunk = tmp_path / "v" / "0.0.0"
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(UserError, match="copy the volume again"):
        open_volume(tmp_path / "v").read(ALL)


def test_names_of_chunks_are_looked_at_nevertheless(tmp_path, refusal):
    for name in "ab":
        _zarr(tmp_path / name, compressors=numcodecs.Zstd(checksum=True) if name == "a" else numcodecs.LZ4())
        for chunk in [p for p in (tmp_path / name).iterdir() if p.name[0].isdigit()]:
            chunk.rename(chunk.with_name(chunk.name.replace(".", "_")))
        assert "read as empty" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": numcodecs.LZ4()},
        {"compressors": numcodecs.LZMA()},
        {"compressors": numcodecs.Zlib(), "filters": [numcodecs.Delta(dtype="<u2")]},
        {"compressors": numcodecs.LZ4(), "filters": [numcodecs.Shuffle(2)], "order": "F"},
        {"compressors": None, "filters": [numcodecs.CRC32()]},
    ],
)
def test_codecs_of_numcodecs(tmp_path, web, options):
    _zarr(tmp_path / "v", **options)
    for place in (tmp_path / "v", f"{web.url}/v"):
        volume = open_volume(place)
        assert (volume.voxel_size_nm, volume.chunks) == ((30, 4, 5), (4, 4, 4))
        np.testing.assert_array_equal(volume.read(ALL), DATA)
        np.testing.assert_array_equal(volume.read(np.s_[3:6, 2:9, 9:10]), DATA[3:6, 2:9, 9:10])


def test_lz4_without_a_dimension_separator(tmp_path):
    _zarr(tmp_path / "v", compressors=numcodecs.LZ4(), chunk_key_encoding={"name": "v2", "separator": "/"})
    metadata = json.loads((tmp_path / "v" / ".zarray").read_text())
    del metadata["dimension_separator"]
    (tmp_path / "v" / ".zarray").write_text(json.dumps(metadata))
    np.testing.assert_array_equal(open_volume(tmp_path / "v").read(ALL), DATA)


@pytest.mark.parametrize("stored", [False, True])
def test_lz4_in_n5(tmp_path, web, stored):
    _n5_lz4(tmp_path / "v.n5" / "raw", stored=stored)
    for place in (tmp_path / "v.n5" / "raw", f"{web.url}/v.n5/raw"):
        volume = open_volume(place)
        assert (volume.voxel_size_nm, volume.dtype) == ((30, 4, 5), np.uint16)
        np.testing.assert_array_equal(volume.read(ALL), DATA)


def test_zstd_and_blosc_of_n5_with_settings_of_their_writers(tmp_path):
    settings = {
        "zstd": {"level": 3, "nbWorkers": 0, "useChecksums": True},
        "blosc": {"cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0, "nthreads": 2},
    }
    for kind, more in settings.items():
        folder = tmp_path / kind
        (folder / "0" / "0").mkdir(parents=True)
        attributes = {
            "dimensions": DATA.shape[::-1], "blockSize": DATA.shape[::-1], "dataType": "uint16",
            "compression": {"type": kind, **more},
        }  # fmt: skip
        (folder / "attributes.json").write_text(json.dumps(attributes))
        codec = numcodecs.Zstd(checksum=True) if kind == "zstd" else numcodecs.Blosc()
        header = struct.pack(">HH3I", 0, 3, *DATA.shape[::-1])
        (folder / "0" / "0" / "0").write_bytes(header + bytes(codec.encode(DATA.astype(">u2"))))
        np.testing.assert_array_equal(open_volume(folder, 8).read(ALL), DATA)


@pytest.mark.parametrize("kind", ["zarr", "n5"])
def test_damaged_and_missing_chunks(tmp_path, web, kind):
    if kind == "zarr":
        _zarr(tmp_path / "v", compressors=numcodecs.LZ4())
        chunk, fill = tmp_path / "v" / "0.1.0", 7
    else:
        _n5_lz4(tmp_path / "v")
        chunk, fill = tmp_path / "v" / "0" / "1" / "0", 0
    content = chunk.read_bytes()
    for damaged in (content[:20], b"", content[:-30], b"\xff" * len(content)):
        chunk.write_bytes(damaged)
        with pytest.raises(UserError, match="copy the volume again") as caught:
            open_volume(tmp_path / "v").read(ALL)
        assert "\n" not in str(caught.value)
    chunk.unlink()
    assert (open_volume(tmp_path / "v").read(np.s_[:4, 4:8, :4]) == fill).all()
    with pytest.raises(UserError, match="chunk is missing"):
        open_volume(tmp_path / "v", missing_chunks="error").read(ALL)
    web.faults["/v/0"] = 403
    with pytest.raises(UserError, match="access refused"):
        open_volume(f"{web.url}/v").read(ALL)


def test_codecs_that_nobody_knows(tmp_path, refusal):
    _zarr(tmp_path / "v", compressors=numcodecs.LZ4())
    _change(tmp_path / "v", id="brotli9")
    assert "'brotli9'" in refusal(tmp_path / "v")
    _n5_lz4(tmp_path / "w")
    (tmp_path / "w" / "attributes.json").write_text(
        (tmp_path / "w" / "attributes.json").read_text().replace('"lz4"', '"lz5"')
    )
    assert "'lz5'" in refusal(tmp_path / "w")


def test_without_numcodecs(tmp_path):
    _zarr(tmp_path / "v", compressors=numcodecs.LZ4())
    last = open_without(["numcodecs"], tmp_path / "v", None)
    assert "UserError" in last and "'lz4' needs the package numcodecs; pip install 'his4mae_jax[numcodecs]'" in last
