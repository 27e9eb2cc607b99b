"""Neuroglancer precomputed: scales, offsets, channels, and damage."""

import json

import numpy as np
import pytest
import tensorstore as ts
import tifffile

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (8, 12, 16)).astype(np.uint8)


def _write(path, data=DATA, resolution=(5, 4, 30), offset=(0, 0, 0), channels=1, kind="image"):
    """Adds one scale."""
    stored = np.stack([data.T] * channels, axis=-1)
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{path}/"},
            "multiscale_metadata": {"type": kind, "data_type": data.dtype.name, "num_channels": channels},
            "scale_metadata": {"size": stored.shape[:3], "resolution": resolution, "encoding": "raw",
                               "voxel_offset": offset, "chunk_size": [8, 4, 4]}}  # fmt: skip
    ts.open(spec, create=True).result().write(stored).result()


def test_scales_and_offset(tmp_path, web):
    path = tmp_path / "v"
    _write(path, offset=(16, 8, 4))
    _write(path, DATA[:, ::2, ::2], (10, 8, 30), (8, 4, 4))
    _write(path, DATA[::2, ::4, ::4], (20, 16, 60), (4, 2, 2))
    for place in (path, f"{web.url}/v", f"precomputed://{web.url}/v"):
        for target, step in ((None, (1, 1, 1)), (30, (1, 2, 2)), (60, (2, 4, 4))):
            volume = open_volume(place, target_nm=target)
            assert volume.voxel_size_nm == (30 * step[0], 4 * step[1], 5 * step[2])
            np.testing.assert_array_equal(volume.read(ALL), DATA[tuple(slice(None, None, s) for s in step)])
    assert open_volume(path).chunks == (4, 4, 8)
    np.testing.assert_array_equal(open_volume(f"{path}[0:4, 2:9, :]").read(ALL), DATA[:4, 2:9])
    assert open_volume(path, 3, target_nm=12).voxel_size_nm == (6, 12, 12)  # given: that of the finest


def test_labels(tmp_path):
    labels = DATA.astype(np.uint64) * 10**12
    _write(tmp_path / "v", labels, kind="segmentation")
    volume = open_volume(tmp_path / "v", image=False)
    assert volume.dtype == np.uint64
    np.testing.assert_array_equal(volume.read(ALL), labels)


def test_bad_volumes(tmp_path, refusal):
    _write(tmp_path / "two", channels=2)
    assert "not a 3D volume" in refusal(tmp_path / "two")
    path = tmp_path / "v"
    _write(path)
    chunk = next(p for p in path.rglob("*_*_*") if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(UserError, match="cannot read the data"):
        open_volume(path).read(ALL)
    info = json.loads((path / "info").read_text())
    for broken in ([], [{"key": "5_4_30"}], [info["scales"][0] | {"resolution": "fine"}], 7):
        (path / "info").write_text(json.dumps(info | {"scales": broken}))
        assert "damaged" in refusal(path)
    (path / "info").write_text(json.dumps(info | {"data_type": "text"}))
    assert "damaged or unsupported" in refusal(path)


def test_a_file_named_info_makes_no_precomputed_volume(tmp_path):
    (tmp_path / "info").write_text("taken on Monday")
    for i, page in enumerate(DATA):
        tifffile.imwrite(tmp_path / f"{i}.tif", page)
    np.testing.assert_array_equal(open_volume(tmp_path, 8).read(ALL), DATA)
