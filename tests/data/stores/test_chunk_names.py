"""Chunks under other names than the metadata give them: read, or refused with what lies there, never zeros."""

import gzip
import json

import numpy as np
import pytest
import tensorstore as ts
import zarr

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (6, 10, 14)).astype(np.uint8)


def _precomputed(path, data=DATA, encoding="raw", offset=(3, 0, -8)):
    scale = {"size": data.T.shape, "resolution": [5, 4, 30], "encoding": encoding, "voxel_offset": offset,
             "chunk_size": [8, 4, 4], "key": "s0"}  # fmt: skip
    kind = "image"
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"], kind = [8, 8, 8], "segmentation"
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{path}/"},
            "multiscale_metadata": {"type": kind, "data_type": data.dtype.name, "num_channels": 1},
            "scale_metadata": scale}  # fmt: skip
    ts.open(spec, create=True).result().write(data.T[..., None]).result()


def _compress(folder, suffix=".gz"):
    """As CloudVolume leaves them on disk."""
    chunks = [p for p in folder.iterdir() if p.name[-1].isdigit()]
    assert chunks
    for chunk in chunks:
        chunk.with_name(chunk.name + suffix).write_bytes(gzip.compress(chunk.read_bytes()))
        chunk.unlink()


@pytest.mark.parametrize("encoding, dtype", [("raw", np.uint8), ("raw", np.uint16), ("png", np.uint8),
                                             ("compressed_segmentation", np.uint32)])  # fmt: skip
def test_gzipped_chunks_of_a_precomputed_volume(tmp_path, encoding, dtype):
    data = DATA.astype(dtype) + np.array(0 if dtype == np.uint8 else 300, dtype)
    _precomputed(tmp_path / "v", data, encoding)
    plain = open_volume(tmp_path / "v", image=encoding != "compressed_segmentation")
    expected, chunks = plain.read(ALL), plain.chunks
    np.testing.assert_array_equal(expected, data)
    _compress(tmp_path / "v" / "s0")
    volume = open_volume(tmp_path / "v", image=encoding != "compressed_segmentation")
    assert (volume.shape, volume.voxel_size_nm, volume.chunks) == (data.shape, (30, 4, 5), chunks)
    assert volume.origin_nm == plain.origin_nm
    np.testing.assert_array_equal(volume.read(ALL), data)
    np.testing.assert_array_equal(volume.read((slice(1, 6), slice(3, 5), slice(7, 14))), data[1:6, 3:5, 7:14])


def test_gzipped_chunks_that_are_missing_or_damaged(tmp_path):
    path = tmp_path / "v"
    _precomputed(path)
    stored = {p.name: p.read_bytes() for p in (path / "s0").iterdir()}
    _compress(path / "s0")
    chunk = path / "s0" / "11-17_4-8_-4--2.gz"
    content = chunk.read_bytes()
    for broken in (content[:-12], b"no gzip at all", gzip.compress(b"too short")):
        chunk.write_bytes(broken)
        with pytest.raises(UserError, match="cannot read the data.*11-17_4-8"):
            open_volume(path).read(ALL)
    chunk.unlink()
    expected = DATA.copy()
    expected[4:6, 4:8, 8:14] = 0
    np.testing.assert_array_equal(open_volume(path).read(ALL), expected)
    with pytest.raises(UserError, match="a chunk is missing"):
        open_volume(path, missing_chunks="error").read(ALL)
    for name, content in stored.items():  # all but one are not compressed
        (path / "s0" / f"{name}.gz").unlink(missing_ok=True)
        (path / "s0" / name).write_bytes(content)
    chunk.write_bytes(gzip.compress(stored[chunk.stem]))
    (path / "s0" / chunk.stem).unlink()
    np.testing.assert_array_equal(open_volume(path, missing_chunks="error").read(ALL), DATA)


def test_chunks_compressed_otherwise_are_refused(tmp_path, refusal):
    _precomputed(tmp_path / "v")
    _compress(tmp_path / "v" / "s0", ".br")
    message = refusal(tmp_path / "v")
    assert ".br" in message and "3-11_0-4_-8--4" in message and "as empty" in message


def _zarr(path, version, separator):
    array = zarr.create_array(
        path, data=DATA, chunks=(4, 4, 4), zarr_format=version,
        chunk_key_encoding={"name": "v2" if version == 2 else "default", "separator": separator},
    )  # fmt: skip
    return path / (".zarray" if version == 2 else "zarr.json"), array


def test_nested_zarr_2_without_a_dimension_separator(tmp_path, refusal):
    file, _ = _zarr(tmp_path / "v", 2, "/")
    metadata = json.loads(file.read_text())
    separator = metadata.pop("dimension_separator")
    file.write_text(json.dumps(metadata))
    np.testing.assert_array_equal(open_volume(tmp_path / "v", 8).read(ALL), DATA)
    assert separator == "/"
    file.write_text(json.dumps(metadata | {"dimension_separator": "."}))  # a plain lie is not guessed at
    message = refusal(tmp_path / "v", 8)
    assert "such as 0.0.0" in message and "/" in message.partition("what lies there is")[2]


def test_zarr_3_with_another_separator(tmp_path, refusal):
    file, _ = _zarr(tmp_path / "v", 3, ".")
    np.testing.assert_array_equal(open_volume(tmp_path / "v", 8).read(ALL), DATA)
    metadata = json.loads(file.read_text())
    metadata["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": "/"}}
    file.write_text(json.dumps(metadata))
    message = refusal(tmp_path / "v", 8)
    assert "such as c/0/0/0" in message and "c." in message.partition("what lies there is")[2]


@pytest.mark.parametrize("rename", [lambda name: f".{name}.icloud", lambda name: f"{name}.gz", lambda name: f"x{name}"])
def test_files_in_place_of_chunks(tmp_path, refusal, rename):
    _zarr(tmp_path / "v", 2, ".")
    for chunk in [p for p in (tmp_path / "v").iterdir() if p.name[0].isdigit()]:
        chunk.rename(chunk.with_name(rename(chunk.name)))
    assert rename("0.0.")[:3] in refusal(tmp_path / "v", 8, image=False)


def test_n5_with_chunks_of_zarr(tmp_path, refusal):
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{tmp_path / 'v'}/"},
            "metadata": {"dimensions": [14, 10, 6], "blockSize": [4, 4, 4], "dataType": "uint8"}}  # fmt: skip
    ts.open(spec, create=True).result().write(DATA.T).result()
    np.testing.assert_array_equal(open_volume(tmp_path / "v", 8).read(ALL), DATA)
    for x in [p for p in (tmp_path / "v").iterdir() if p.is_dir()]:
        for chunk in x.rglob("*"):
            if chunk.is_file():
                chunk.rename(tmp_path / "v" / ".".join(chunk.relative_to(tmp_path / "v").parts))
    assert "such as 0/0/0" in refusal(tmp_path / "v", 8)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_sparse_volume_opens(tmp_path, kept):
    """Notes and what desktops leave behind are nothing in place of chunks."""
    _zarr(tmp_path / "v", 2, ".")
    for chunk in sorted(p for p in (tmp_path / "v").iterdir() if p.name[0].isdigit())[kept:]:
        chunk.unlink()
    for name in (".DS_Store", "README", "notes.txt", "thumbnail.png"):
        (tmp_path / "v" / name).write_text("no chunk")
    found = open_volume(tmp_path / "v", 8).read(ALL)
    np.testing.assert_array_equal(found[:4, :4, :4], DATA[:4, :4, :4] if kept else 0)
    assert not found[4:].any()


def test_an_array_inside_the_folder_of_another_is_not_in_its_place(tmp_path):
    _zarr(tmp_path / "v", 2, ".")
    for chunk in [p for p in (tmp_path / "v").iterdir() if p.name[0].isdigit()]:
        chunk.unlink()
    _zarr(tmp_path / "v" / "raw", 2, ".")
    assert not open_volume(tmp_path / "v", 8).read(ALL).any()
