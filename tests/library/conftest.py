"""A short training by the library, from a volume on disk and from the same voxels in memory."""

import numpy as np
import pytest
import scipy.ndimage
from tiny_config import tiny_config

import his4mae_jax
from his4mae_jax.data.ome_zarr import write as ome_zarr

SHAPE, VOXEL_NM = (24, 56, 50), 8.0


def textured(shape=SHAPE, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.uint8(np.clip(127 + 300 * scipy.ndimage.gaussian_filter(noise, 1.5), 1, 255))


def small_config():
    """A model that compiles in a second, as a user's ConfigDict."""
    c = tiny_config()
    c.train.steps, c.train.log_every = 2, 2
    c.segment.stride, c.segment.axes, c.segment.fraction, c.segment.clusters = 10, "zyx", 0.02, 3
    c.segment.tile, c.segment.block, c.segment.batch_fovs, c.segment.restarts = 24, (8, 12, 12), 16, 2
    return c


@pytest.fixture(scope="session")
def image():
    return textured()


@pytest.fixture(scope="session")
def path(tmp_path_factory, image):
    """The image as an OME-Zarr volume."""
    path = tmp_path_factory.mktemp("volumes") / "cell.ome.zarr"
    ome_zarr.create(path, image.shape, image.dtype, VOXEL_NM, chunks=(16, 16, 16)).write(image).result()
    return path


@pytest.fixture(scope="session")
def encoder(tmp_path_factory, path):
    """Trained on the volume on disk."""
    return his4mae_jax.train(path, small_config(), workdir=tmp_path_factory.mktemp("runs") / "path", log=lambda x: None)


@pytest.fixture(scope="session")
def from_array(encoder, tmp_path_factory, image):
    """An encoder trained on the voxels of `path` in memory."""
    workdir = tmp_path_factory.mktemp("runs") / "array"
    return his4mae_jax.train(image, small_config(), workdir=workdir, voxel_size_nm=8, log=lambda x: None)
