"""Buckets on loopback, and a small run to carry out in them."""

import numpy as np
import pytest
import scipy.ndimage
from stores import Faulty, GoogleStandIn, s3_server
from tiny_config import tiny_config

from his4mae_jax.bucket import access, probe
from his4mae_jax.bucket.path import place
from his4mae_jax.cli import stages
from his4mae_jax.data.ome_zarr import write as ome_zarr

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "HIS4MAE_S3_CREDENTIALS": "environment"}
SHAPE = (40, 72, 70)


@pytest.fixture(scope="session")
def google():
    """A stand-in of Google's store. TensorStore reads its address once, so there is one for the whole process."""
    server = GoogleStandIn()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        patch.setenv("GCE_METADATA_ROOT", "127.0.0.1:1")
        patch.setenv("HOME", "/nowhere")
        yield server
    server.stop()


@pytest.fixture(scope="session")
def amazon():
    """moto's S3: (endpoint, client of boto3)."""
    pytest.importorskip("moto.server")
    server, endpoint, client = s3_server()
    yield endpoint, client
    client.close()
    server.stop()


@pytest.fixture
def clean(monkeypatch):
    """Nothing that an earlier test found out of a store."""
    for variable in (*access.S3_ENDPOINTS, "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in KEYS.items():
        monkeypatch.setenv(variable, value)
    access.store.cache_clear()
    probe._conditional.clear()
    yield monkeypatch
    access.store.cache_clear()
    probe._conditional.clear()


@pytest.fixture(params=["s3", "gs"])
def folder(request, clean, tmp_path):
    """An empty folder of a bucket of each kind."""
    name = "".join(c for c in tmp_path.name if c.isalnum())
    if request.param == "gs":
        request.getfixturevalue("google")
        return place(f"gs://cells/{name}")
    clean.setenv("HIS4MAE_S3_ENDPOINT", request.getfixturevalue("amazon")[0])
    return place(f"s3://cells/{name}")


@pytest.fixture
def faulty(clean, amazon):
    """Function: S3 with failures in between, one in so many requests."""
    servers = []

    def start(every, hidden=()):
        servers.append(Faulty(amazon[0], every, hidden))
        clean.setenv("HIS4MAE_S3_ENDPOINT", servers[-1].url)
        access.store.cache_clear()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """The path of a volume on the disk."""
    path = tmp_path_factory.mktemp("cell") / "cell.zarr"
    noise = np.random.default_rng(0).normal(size=SHAPE)
    texture = np.uint8(np.clip(127 + 300 * scipy.ndimage.gaussian_filter(noise, 1.5), 1, 255))
    ome_zarr.create(path, SHAPE, np.uint8, 8.0, chunks=(16, 16, 16)).write(texture).result()
    return path


@pytest.fixture(scope="module")
def make_config(cell):
    """Function: the settings of a small run on that volume."""

    def config(steps=4):
        c = tiny_config()
        c.train.steps, c.train.log_every, c.train.checkpoint_every = steps, 1, 2
        c.data.train, c.data.test, c.data.file_voxel_size_nm = (str(cell),), str(cell), (8.0, 8.0, 8.0)
        c.segment.stride, c.segment.axes, c.segment.fraction, c.segment.clusters = 10, "z", 0.02, 3
        c.segment.tile, c.segment.block, c.segment.batch_fovs, c.segment.restarts = 24, (8, 12, 12), 16, 2
        c.report.after_stages = False
        return c

    return config


@pytest.fixture(scope="module")
def disk(make_config, tmp_path_factory):
    """Function: the same run on a disk, trained for so many steps and segmented."""
    runs = {}

    def run(steps=4):
        if steps not in runs:
            runs[steps] = tmp_path_factory.mktemp("disk") / "run"
            for mode in ("train", "segment"):
                stages.run(make_config(steps), runs[steps], mode)
        return runs[steps]

    return run
