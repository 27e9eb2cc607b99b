"""Which chunks are stored, from their names: in every format that can be listed, through every view, never too few."""

import os
import zipfile

import numpy as np
import pytest
import tensorstore as ts

from his4mae_jax.data.stores.chunks import listing
from his4mae_jax.data.stores.chunks.listing import stored_chunks
from his4mae_jax.data.volumes.blocks import boxes, boxes_beside, known_value, stored_of
from his4mae_jax.data.volumes.contrast import with_window
from his4mae_jax.data.volumes.crop import Crop
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.data.volumes.volume import open_volume

SHAPE, CHUNK = (20, 30, 41), (8, 8, 16)
SHARDS = {
    "name": "sharding_indexed",
    "configuration": {
        "chunk_shape": [4, 4, 8], "codecs": [{"name": "bytes"}],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    },
}  # fmt: skip
UINT64 = {
    "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "hash": "murmurhash3_x86_128", "minishard_bits": 1,
    "shard_bits": 2, "minishard_index_encoding": "gzip", "data_encoding": "raw",
}  # fmt: skip


def zarr3(**metadata):
    grid = {"name": "regular", "configuration": {"chunk_shape": CHUNK}}
    return {"driver": "zarr3", "metadata": {"shape": SHAPE, "data_type": "uint8", "chunk_grid": grid, **metadata}}


def precomputed(sharding=None):
    scale = {"size": SHAPE[::-1], "voxel_offset": [-16, 3, 100], "chunk_size": CHUNK[::-1], "resolution": [8, 8, 8],
             "encoding": "raw", "key": "s0", "sharding": sharding}  # fmt: skip
    return {"driver": "neuroglancer_precomputed", "scale_metadata": scale,
            "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1}}  # fmt: skip


FORMATS = {
    "zarr, flat": {"driver": "zarr", "metadata": {"shape": SHAPE, "chunks": CHUNK, "dtype": "|u1", "fill_value": 7}},
    "zarr, nested": {"driver": "zarr", "metadata": {"shape": SHAPE, "chunks": CHUNK, "dtype": "|u1",
                                                    "dimension_separator": "/"}},
    "zarr3": zarr3(fill_value=9),
    "zarr3, flat": zarr3(chunk_key_encoding={"name": "default", "configuration": {"separator": "."}}),
    "zarr3, as zarr 2": zarr3(chunk_key_encoding={"name": "v2", "configuration": {"separator": "/"}}),
    "zarr3, shards": zarr3(codecs=[SHARDS]),
    "n5": {"driver": "n5", "metadata": {"dimensions": SHAPE[::-1], "blockSize": CHUNK[::-1], "dataType": "uint8",
                                        "compression": {"type": "raw"}}},
    "precomputed": precomputed(),
    "precomputed, shards": precomputed(UINT64),
}  # fmt: skip


def write(path, form, filled):
    """Writes noise in the chunks that are `filled`; returns the values of the whole, z, y, x."""
    spec = FORMATS[form] | {"kvstore": {"driver": "file", "path": f"{path}/"}}
    array = ts.open(spec, create=True, delete_existing=True).result()
    zyx = array
    if "precomputed" in form:
        zyx = array[..., 0][ts.d[:].translate_to[0]].transpose([2, 1, 0])
    elif form == "n5":
        zyx = array.transpose([2, 1, 0])
    chunk = (4, 4, 8) if form == "zarr3, shards" else CHUNK
    for box, wanted in zip(boxes(SHAPE, chunk), filled, strict=False):
        if wanted:
            zyx[box] = np.random.default_rng(box[2].start).integers(
                20, 200, [s.stop - s.start for s in box], dtype=np.uint8
            )
    return zyx.read().result()


def some(seed, n=600):
    return np.random.default_rng(seed).random(n) < 0.2


def check(volume, data, seed=0):
    """Every box that is known holds the value it is known to hold, and the others hold something stored."""
    stored, rng = stored_of(volume), np.random.default_rng(seed)
    found = 0
    for _ in range(300):
        low = [int(rng.integers(n)) for n in volume.shape]
        box = tuple(slice(a, int(rng.integers(a, n)) + 1) for a, n in zip(low, volume.shape, strict=True))
        value = known_value(volume, box)
        if value is not None:
            found += 1
            assert (data[box] == value).all()
    assert found
    bounds = stored.bounds()
    outside = np.ones(volume.shape, bool)
    outside[bounds] = False
    assert (data[outside] == stored.value).all()
    block = (5, 7, 6)
    beside = list(boxes_beside(volume, block, stored.value))
    assert beside == [box for box in boxes(volume.shape, block) if not stored.constant(box)]
    assert list(boxes_beside(volume, block, stored.value + 1)) == list(boxes(volume.shape, block))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_list_of_every_format(tmp_path, form, seed):
    data = write(tmp_path / "v", form, some(seed))
    volume = open_volume(tmp_path / "v", 8)
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)
    stored = stored_of(volume)
    assert stored is not None and stored.shape == SHAPE
    chunk = (4, 4, 8) if form == "zarr3, shards" else CHUNK
    expected = [bool((data[box] != stored.value).any()) for box in boxes(SHAPE, chunk)]
    assert stored.filled.ravel().tolist() == expected  # noise: no chunk that is stored is empty
    assert [stored.voxels(box) > 0 for box in boxes(SHAPE, chunk)] == expected
    check(volume, data)


@pytest.mark.parametrize("form", ["zarr, flat", "zarr3, shards", "n5", "precomputed"])
def test_crops_windows_and_other_voxel_sizes(tmp_path, form):
    path, values = tmp_path / "v", np.where(some(3), 1, 0)
    values[: len(values) // 2] = 0
    data = write(path, form, values)
    box = (slice(3, 20), slice(5, 29), slice(7, 41))
    cropped = open_volume(f"{path}[3:20, 5:29, 7:41]", 8)
    check(cropped, data[box])
    check(Crop(open_volume(path, 8), box), data[box])
    check(with_window(open_volume(path, 8), (0, 200), False), data)
    for size in (12, 20, 6):
        again = resample(open_volume(path, 8), size)
        assert stored_of(again).shape == again.shape
        check(again, again.read((slice(None),) * 3))
    np.testing.assert_array_equal(stored_of(cropped).voxels_of(
        [(np.array([0, 4]), np.array([9, 17])), (np.array([2]), np.array([11])), (np.array([0, 5]), np.array([20, 34]))]
    ), [[[stored_of(cropped).voxels((slice(a, b), slice(2, 11), slice(c, d))) for c, d in ((0, 20), (5, 34))]]
        for a, b in ((0, 9), (4, 17))])  # fmt: skip


def test_a_channel_of_several(tmp_path):
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{tmp_path}/v/"}, "metadata": {
        "shape": (2, *SHAPE), "chunks": (1, *CHUNK), "dtype": "|i1"}}  # fmt: skip
    array = ts.open(spec, create=True).result()
    array[0, :8, :8, :16] = 5
    array[1, 8:16, 8:16, 16:32] = 6
    for channel, box in enumerate(
        ((slice(0, 8), slice(0, 8), slice(0, 16)), (slice(8, 16), slice(8, 16), slice(16, 32)))
    ):
        volume = open_volume(f"{tmp_path}/v[c={channel}]", 8)  # int8 is converted when it is read
        assert stored_of(volume).bounds() == box
        check(volume, volume.read((slice(None),) * 3))


def test_a_zip_file_is_listed(tmp_path):
    data = write(tmp_path / "v", "zarr3", some(5))
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as file:
        for path in sorted((tmp_path / "v").rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(tmp_path / "v"))
    check(open_volume(tmp_path / "v.zip", 8), data)


def test_what_is_not_known(tmp_path, monkeypatch):
    path = tmp_path / "v"
    data = write(path, "zarr, nested", some(2))

    def known():
        return stored_of(open_volume(path, 8))

    assert known() is not None
    assert stored_of(open_volume(path, 8, missing_chunks="error")) is None  # a chunk that is missing is an error
    with monkeypatch.context() as patch:
        patch.setattr(listing, "MOST_ON_DISK", 5)
        assert known() is None
    with monkeypatch.context() as patch:  # a folder that cannot be read may hold chunks
        real = os.scandir

        def refused(folder):
            if os.path.basename(folder) == "1":
                raise PermissionError(folder)
            return real(folder)

        patch.setattr(os, "scandir", refused)
        assert known() is None
    write(path, "zarr, nested", np.ones(600, bool))  # all is stored
    assert known() is None
    np.save(tmp_path / "v.npy", data)
    assert stored_of(open_volume(tmp_path / "v.npy", 8)) is None


def test_a_volume_with_many_chunks_takes_a_coarser_grid(tmp_path, monkeypatch):
    data = write(tmp_path / "v", "n5", np.arange(600) % 37 == 0)
    monkeypatch.setattr(listing, "MOST_CELLS", 12)
    monkeypatch.setattr(listing, "_BATCH", 3)
    volume = open_volume(tmp_path / "v", 8)
    assert stored_of(volume).filled.size <= 12
    check(volume, data)


def test_a_web_server_is_not_listed(tmp_path, web):
    data = write(tmp_path / "v", "zarr3", some(4))
    volume = open_volume(f"{web.url}/v", 8)
    assert stored_of(volume) is None
    np.testing.assert_array_equal(volume.read((slice(None),) * 3), data)


def test_nothing_stored_at_all(tmp_path):
    write(tmp_path / "v", "precomputed", np.zeros(600, bool))
    stored = stored_of(open_volume(tmp_path / "v", 8))
    assert not stored.filled.any() and stored.bounds() is None and not list(stored.boxes((8, 8, 8)))


def test_every_other_plane_of_an_array_is_not_known(tmp_path):
    write(tmp_path / "v", "zarr3", some(1))
    array = open_volume(tmp_path / "v", 8).array
    assert stored_chunks(array) is not None
    assert stored_chunks(array[::2][ts.d[:].translate_to[0]]) is None
