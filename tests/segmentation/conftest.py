"""Volumes with structure, on disk and in memory."""

import subprocess
import types

import numpy as np
import pytest
import scipy.ndimage

from his4mae_jax.data import ome_zarr


@pytest.fixture
def patches():
    """Function: labels 0 .. count - 1 in patches, uint8."""

    def make(shape, count=4, seed=0, sigma=2.0):
        noise = np.random.default_rng(seed).normal(size=(count, *shape))
        return scipy.ndimage.gaussian_filter(noise, (0, *[sigma] * 3)).argmax(axis=0).astype(np.uint8)

    return make


@pytest.fixture
def in_memory():
    """Function: an array as a volume."""

    def volume(array, voxel_size_nm=(30.0, 8.0, 4.0), name="somewhere/cell 7.ome.zarr"):
        def read(box):
            return array[box].copy()

        return types.SimpleNamespace(
            name=name, shape=array.shape, dtype=array.dtype, voxel_size_nm=voxel_size_nm, read=read
        )

    return volume


@pytest.fixture
def label_volume(tmp_path):
    """Function that writes labels as an OME-Zarr label volume and returns its path."""

    def write(array, name="labels.ome.zarr", size=(30, 8, 4), names=None, version="0.4", chunks=(8, 16, 16)):
        path = tmp_path / name
        names = {i: f"cluster {i}" for i in range(4)} if names is None else names
        out = ome_zarr.create(
            path, array.shape, array.dtype, size, chunks=chunks, label_values=names, fill_value=255, version=version
        )
        out.write(array).result()
        return path

    return write


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 KB; skips where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)
