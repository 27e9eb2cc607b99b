"""Shared settings: quick compilation, a cache of it, and small models."""

import os
import pathlib
import subprocess
import types

import jax
import numpy as np
import pytest
import scipy.ndimage

ROOT = pathlib.Path(__file__).parents[1]
CACHE = os.environ.get("HIS4MAE_TEST_CACHE", str(ROOT / "runs" / "jax_test_cache"))
# Small programs that run once or twice: compiling is most of the suite's time, and twice as much with LLVM's passes.
SETTINGS = {
    "jax_compilation_cache_dir": CACHE,
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_disable_most_optimizations": True,
}
# Loops in place of fusion emitters, in one module: a third of the time that is left. Other versions may not know the
# flags, and end the process at once.
if jax.__version_info__[:2] == (0, 10):
    FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
for name, value in SETTINGS.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)  # for the processes that tests start


@pytest.fixture
def tiny():
    """A configuration whose model compiles in a second."""
    from tiny_config import tiny_config

    c = tiny_config()
    c.train.steps, c.train.log_every = 20, 5
    return c


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
        from his4mae_jax.data.ome_zarr import write as ome_zarr

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


@pytest.fixture
def drawn(monkeypatch):
    """The Figure objects that were saved, to look at their texts and lines."""
    from his4mae_jax.figures import style

    saved = []
    real = style.save
    monkeypatch.setattr(style, "save", lambda figure, path: (saved.append(figure), real(figure, path)))
    return saved


@pytest.fixture
def metrics():
    """One run and one baseline, a class that is absent from the ground truth, and a curve."""
    return {
        "method": "his4mae",
        "clusters": 4,
        "dsc": {
            "one_to_one": {"nucleus": 0.9, "golgi": float("nan"), "mean": 0.9},
            "many_to_one": {"nucleus": 0.95, "golgi": None, "mean": 0.95},
        },
        "baselines": {
            "intensity": {"clusters": 4, "dsc": {"one_to_one": {"nucleus": 0.4, "mean": 0.4}}},
        },
        "curve": [
            {"step": step, "dsc": {"one_to_one": {"nucleus": step / 400, "mean": step / 500}}} for step in (200, 100)
        ],
    }


class Memory:
    """A volume in memory that remembers the largest box read."""

    def __init__(self, array):
        self.array, self.largest = array, 0
        self.shape, self.dtype, self.name, self.voxel_size_nm = array.shape, array.dtype, "memory", (10.0,) * 3

    def read(self, slices):
        box = self.array[slices]
        self.largest = max(self.largest, box.size)
        return box


@pytest.fixture
def memory():
    """The class `Memory`."""
    return Memory


@pytest.fixture
def blobs():
    """Function: a volume of smooth noise in memory."""

    def make(shape, seed=0):
        noise = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
        return Memory(np.uint8(127 + 90 * noise / np.abs(noise).max()))

    return make


@pytest.fixture
def make_encoder(tiny):
    """Function: a `VolumeEncoder` of a small random encoder; keywords are those of `Coverage`, and `batch_fovs`."""
    from his4mae_jax.data.volumes.contrast import Contrast
    from his4mae_jax.inference.coverage import Coverage
    from his4mae_jax.inference.volume_encoder import VolumeEncoder
    from his4mae_jax.pretext import his4mae

    models = his4mae.build(tiny)
    params = jax.jit(lambda: his4mae.init_params(jax.random.key(0), models)["encoder"])()
    params = jax.tree.map(lambda x: x * 3.0, params)  # tokens that differ clearly

    def make(*, models=models, params=params, batch_fovs=None, padding=(), **changes):
        if batch_fovs is None:
            batch_fovs = 64 if changes.get("inference") == "cover" else 8
        coverage = {**dict(axes="z", stride=10, edge_weight=0.25, smooth=0.0, tile=1000), **changes}
        return VolumeEncoder(
            models, params, Contrast(0, 255), Coverage.of_models(models, **coverage), batch_fovs, padding
        )  # fmt: skip

    return make
