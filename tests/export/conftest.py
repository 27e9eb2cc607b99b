"""A workdir with a checkpoint of random weights, a volume, and centres of its encoder."""

import contextlib

import jax
import numpy as np
import pytest
import scipy.ndimage

from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.fit import encoder_digest
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.training.run.checkpoints import Checkpoints, write_config
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.settings import StepSettings
from his4mae_jax.workdir import volume_folder

WINDOW = {"low": 40.0, "high": 200.0, "invert": True}


@pytest.fixture
def config(tiny, tmp_path):
    """A config of one volume, which is there."""
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(24, 30, 30)), 1.5)
    image = np.uint8(np.clip(127 + 300 * noise, 1, 255))
    ome_zarr.create(tmp_path / "cell.zarr", image.shape, image.dtype, 8.0).write(image).result()
    tiny.data.train, tiny.data.test = (str(tmp_path / "cell.zarr"),), str(tmp_path / "cell.zarr")
    tiny.segment.clusters, tiny.segment.stride = 3, 10
    return tiny


@pytest.fixture
def train(tmp_path):
    """Function: the workdir of a config after its first step, and the parameters of its encoder."""

    def make(config, name="run"):
        state = jax.jit(lambda: states.create(StepSettings.from_config(config)))()
        about = {"config": config.to_dict(), "voxel_size_nm": 8.0, "seconds": 0.0}
        with contextlib.closing(Checkpoints(tmp_path / name, config)) as checkpoints:
            checkpoints.save(1, state, about)
        write_config(tmp_path / name, config)
        return tmp_path / name, state.params["encoder"]

    return make


@pytest.fixture
def cluster():
    """Function: writes centres of an encoder, two clusters of three centres and three of three, and returns them."""

    def make(workdir, params, features, digest=None):
        rng = np.random.default_rng(1)
        projection = rng.normal(size=(features, 4)).astype(np.float32)
        points = rng.normal(size=(3, 4)).astype(np.float32)
        centres = {
            2: centre_files.Centres(points, projection, np.array([1, 0, 1])),
            3: centre_files.Centres(points, projection, variance=0.5),
        }
        digest = digest or encoder_digest(params)
        path = volume_folder(workdir, workdir.parent / "cell.zarr", create=True) / "centres.npz"
        centre_files.save(path, centres, contrast=WINDOW, encoder_digest=digest, volume="/home/me/secret/cell.zarr")
        return centres

    return make
