"""A folder as the segment stage leaves it, without a model."""

import json
import types

import numpy as np
import pytest

from his4mae_jax import config as configs
from his4mae_jax.data.datasets import Target
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.naming import stage

SIZE, ORIGIN = (30.0, 8.0, 4.0), (15.0, 80.0, 400.0)


def write_centres(path, clusters=4, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {f"centres_{clusters}": rng.normal(size=(clusters, 3)), f"projection_{clusters}": np.eye(3)}
    np.savez(path, facts="{}", **{key: array.astype(np.float32) for key, array in arrays.items()})


@pytest.fixture
def segmented(tmp_path, patches):
    """Function: writes labels 1 .. 4 (0 in a corner), centres and record into a folder; returns it with both arrays."""

    def make(name="run", seed=0, job="job 1", image_name="cell 1"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        labels = patches((12, 40, 40), 4, seed=seed) + 1
        labels[:3, :8, :8] = 0
        out = ome_zarr.create(
            folder / "labels.ome.zarr", labels.shape, np.uint8, SIZE, origin_nm=ORIGIN, chunks=(8, 16, 16),
            label_values={i: f"cluster {i}" for i in range(1, 5)}, overwrite=True,
        )  # fmt: skip
        out.write(labels).result()
        write_centres(folder / "centres.npz", seed=seed)
        facts = {"clusters": [4], "job": job, "what": {"first_label": 1}, "volume": image_name, "seconds": 1.0}
        (folder / "segment.json").write_text(json.dumps(facts))
        grey = (10 * labels + np.random.default_rng(1).integers(0, 5, labels.shape)).astype(np.uint8)
        image = types.SimpleNamespace(
            name=image_name, shape=grey.shape, dtype=grey.dtype, voxel_size_nm=SIZE, origin_nm=ORIGIN,
            read=lambda box: grey[box].copy(),
        )  # fmt: skip
        return types.SimpleNamespace(
            folder=folder, labels=labels, grey=grey, image=image, target=Target(image, None, ()),
            file=folder / "clusters.yaml",
        )  # fmt: skip

    return make


@pytest.fixture
def config():
    c = configs.get_default()
    c.segment.block, c.segment.min_instance_voxels = (8, 16, 16), 5
    return c


@pytest.fixture
def named(segmented, config):
    """A segmented folder whose clusters have names: 1 cytoplasm, 2 and 4 mitochondria, 3 ignored."""
    run = segmented()
    stage.after_segment(config, run.folder, run.target, [].append)
    text = run.file.read_text()
    for i, name in {1: "cytoplasm", 2: "mitochondria", 3: "Ignore", 4: "mitochondria"}.items():
        text = text.replace(f"name: cluster {i}", f"name: {name}")
    run.file.write_text(text + "# mine\n")
    return run
