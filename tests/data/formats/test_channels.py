"""One channel of several, by the path or by the setting; without either a line that says how to choose."""

import json

import h5py
import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr

from his4mae_jax.config import get_small
from his4mae_jax.data import datasets
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (3, 6, 8, 10)).astype(np.uint8)  # c, z, y, x


def _ome(path, order="czyx"):
    axes = [{"name": n, "type": "channel" if n == "c" else "space"} for n in order]
    axes = [one | ({"unit": "nanometer"} if one["type"] == "space" else {}) for one in axes]
    size = dict(zip("czyx", (1, 30, 4, 5), strict=True))
    scale = [{"type": "scale", "scale": [size[n] for n in order]}]
    image = {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group = zarr.create_group(path, zarr_format=2, attributes={"multiscales": [image]})
    group.create_array("0", data=DATA.transpose(["czyx".index(n) for n in order]), chunks=(2, 4, 4, 4))


def _zarr(path, last=False):
    zarr.create_array(path, data=np.moveaxis(DATA, 0, -1) if last else DATA, zarr_format=2)


def _hdf5(path):
    with h5py.File(path, "w") as file:
        file["raw"] = DATA


def _n5(path):
    metadata = {"dimensions": [10, 8, 6, 3], "blockSize": [4, 4, 4, 1], "dataType": "uint8",
                "compression": {"type": "gzip"}}  # fmt: skip
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(path)}, "metadata": metadata}
    ts.open(spec, create=True).result().write(DATA.T).result()


def _precomputed(path):
    data = DATA.transpose(3, 2, 1, 0)
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": str(path)},
            "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 3},
            "scale_metadata": {"size": data.shape[:3], "resolution": [5, 4, 30], "encoding": "raw",
                               "chunk_size": [4, 4, 4]}}  # fmt: skip
    ts.open(spec, create=True).result().write(data).result()


def _tiff(path, axes="ZCYX", **options):
    data = DATA if axes == "CZYX" else DATA.swapaxes(0, 1)
    tifffile.imwrite(path, data, metadata={"axes": axes}, photometric="minisblack", **options)


KINDS = {
    "ome": _ome,
    "ome, last": lambda path: _ome(path, "zyxc"),
    "zarr": _zarr,
    "zarr, last": lambda path: _zarr(path, last=True),
    "v.h5": _hdf5,
    "n5": _n5,
    "precomputed": _precomputed,
    "imagej.tif": lambda path: _tiff(path, imagej=True),
    "packed.tif": lambda path: _tiff(path, imagej=True, compression="zlib"),
    "ome.tif": lambda path: _tiff(path, "CZYX", ome=True),
    "ome packed.tif": lambda path: _tiff(path, ome=True, compression="zlib"),
    "times.tif": lambda path: _tiff(path, "TCYX", imagej=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_channels(tmp_path, refusal, kind):
    path = tmp_path / kind
    KINDS[kind](path)
    message = refusal(path, (30, 4, 5))
    assert "has 3 channels; choose one as " in message and "[c=0] (to 2)" in message and "data.channel" in message
    named = message.partition("choose one as ")[2].partition(" (to")[0]
    np.testing.assert_array_equal(open_volume(named, (30, 4, 5)).read(ALL), DATA[0])
    for channel in (1, 2):
        volume = open_volume(f"{path}[c={channel}]", (30, 4, 5))
        assert volume.voxel_size_nm == (30, 4, 5)
        np.testing.assert_array_equal(volume.read(ALL), DATA[channel])
    for box in ("[c=1, 1:5, :, 2:]", "[c=1][1:5, :, 2:]", " [ c = 1 ] [1:5,:,2:]"):
        volume = open_volume(f"{path}{box}", (30, 4, 5))
        assert volume.origin_nm[0] - open_volume(f"{path}[c=1]", (30, 4, 5)).origin_nm[0] == 30
        np.testing.assert_array_equal(volume.read(ALL), DATA[1, 1:5, :, 2:])
    with pytest.raises(UserError, match="channels 0 to 2, and no channel 3"):
        open_volume(f"{path}[c=3]", (30, 4, 5))
    with pytest.raises(UserError, match="no box"):
        open_volume(f"{path}[c=x]", 8)


def test_volumes_with_one_channel(tmp_path, refusal):
    tifffile.imwrite(tmp_path / "v.tif", DATA[0])
    np.testing.assert_array_equal(open_volume(f"{tmp_path}/v.tif[c=0]", 8).read(ALL), DATA[0])
    with pytest.raises(UserError, match="no axis of channels"):
        open_volume(f"{tmp_path}/v.tif[c=1]", 8)


def test_which_axis_holds_channels_is_not_guessed(tmp_path, refusal):
    zarr.create_array(tmp_path / "v", data=DATA.swapaxes(0, 1), zarr_format=2)  # z, c, y, x, without names
    assert "not a 3D volume" in refusal(tmp_path / "v", 8)
    with pytest.raises(UserError, match="no axis of channels"):
        open_volume(f"{tmp_path / 'v'}[c=1]", 8)


def test_the_setting(tmp_path):
    """It applies to all images, not to labels; a path may name its own channel."""
    _tiff(tmp_path / "v.tif", imagej=True)
    tifffile.imwrite(tmp_path / "labels.tif", DATA[0] % 2)
    config = get_small()
    config.data.update(
        {"train": (f"{tmp_path}/v.tif", f"{tmp_path}/v.tif[c=2, :4, :, :]"), "channel": 1, "axes": "z"},
    )
    config.data.test, config.data.test_labels = f"{tmp_path}/v.tif[1:, :, :]", f"{tmp_path}/labels.tif[1:, :, :]"
    config.data.file_voxel_size_nm, config.data.class_names = (8.0, 8.0, 8.0), ("a", "b")
    first, second = datasets.training_volumes(config, tmp_path)
    np.testing.assert_array_equal(first.read(ALL), DATA[1])
    np.testing.assert_array_equal(second.read(ALL), DATA[2, :4])
    test = datasets.target(config, tmp_path, need_labels=True)
    np.testing.assert_array_equal(test.image.read(ALL), DATA[1, 1:])
    np.testing.assert_array_equal(test.labels.read(ALL), DATA[0, 1:] % 2)
    assert json.dumps(test.image.name).endswith('v.tif[c=1, 1:, :, :]"')
