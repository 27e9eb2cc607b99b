"""A folder with labels, names, instances and probabilities, as the stages leave it, over an image of another grid."""

import json
import shutil
import types

import numpy as np
import pytest
import scipy.ndimage

from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.ome_zarr.pyramid import build_pyramid
from his4mae_jax.data.stores.placement import coarser
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.output.instances import label_instances

SIZE, ORIGIN = (10.0, 4.0, 5.0), (35.0, 4002.0, -7.5)  # of the image
FACTOR = (1, 2, 2)  # voxels of the image in one of the labels
NAMES = {1: "nucleus", 2: "mitochondria"}
COLOURS = {1: "#0072B2", 2: "#CC79A7"}


def write(path, array, size, origin, **keywords):
    out = ome_zarr.create(path, array.shape, array.dtype, size, origin_nm=origin, chunks=(4, 8, 8), **keywords)
    out.write(array).result()
    return array


def record(path, names, job="job 1"):
    path.write_text(json.dumps({"outputs": names, "of": {"segmentation": job}}))


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """The folder, the image beside it, and all arrays; to be copied."""
    root = tmp_path_factory.mktemp("view")
    folder, source, rng = root / "run", root / "cell.ome.zarr", np.random.default_rng(0)
    arrays = {"image": write(source, rng.integers(0, 256, (10, 40, 36), np.uint8), SIZE, ORIGIN)}
    build_pyramid(source, levels=3)

    size, origin = tuple(s * f for s, f in zip(SIZE, FACTOR, strict=True)), coarser(ORIGIN, SIZE, FACTOR)
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(4, 10, 20, 18)), (0, 2, 2, 2))
    labels = noise.argmax(axis=0).astype(np.uint8) + 1
    labels[:2, :4, :4] = 0
    clusters = {i: f"cluster {i}" for i in range(1, 5)}
    arrays["labels"] = write(folder / "labels.ome.zarr", np.uint8(labels), size, origin, label_values=clusters)
    build_pyramid(folder / "labels.ome.zarr", levels=2)
    arrays["labels, C = 6"] = write(
        folder / "labels_c6.ome.zarr", np.uint8(labels + 1), size, origin, label_values={1: "a", 2: "b"}
    )
    named = np.array([0, 1, 2, 2, 0], np.uint8)[labels]
    arrays["organelles"] = write(
        folder / "organelles.ome.zarr", named, size, origin, label_values=NAMES, colours=COLOURS
    )
    for of, i, stem in (
        ("labels", 1, "instances_cluster1"), ("labels", 2, "instances_cluster2"),
        ("organelles", 2, "organelles_mitochondria_instances"),
    ):  # fmt: skip
        label_instances(
            folder / f"{of}.ome.zarr", i, folder / f"{stem}.ome.zarr", folder / f"{stem}.csv", min_voxels=3,
            block=(4, 8, 8),
        )  # fmt: skip
    volume = open_volume(folder / "instances_cluster2.ome.zarr", image=False)
    arrays["instances of cluster 2"] = volume.read((slice(None),) * 3)
    scores = rng.integers(0, 256, (4, *labels.shape), np.uint8)
    write(folder / "probabilities.ome.zarr", scores, size, origin, channels=list(clusters.values()))
    arrays |= {f"probability of cluster {i}": scores[i - 1] for i in clusters}
    record(folder / "outputs.json", ["instances_cluster1.ome.zarr", "instances_cluster2.ome.zarr"])
    record(folder / "names.json", ["organelles.ome.zarr", "organelles_mitochondria_instances.ome.zarr"])
    files = ["labels.ome.zarr", "labels_c6.ome.zarr", "probabilities.ome.zarr", "centres.npz"]
    facts = {"clusters": [4, 6], "job": "job 1", "volume": str(source), "seconds": 1.0, "files": files}
    facts["what"] = {"first_label": 1, "contrast": {"low": 20.0, "high": 230.0, "invert": False}}
    (folder / "segment.json").write_text(json.dumps(facts))
    return types.SimpleNamespace(folder=folder, source=source, arrays=arrays)


@pytest.fixture
def shown(template, tmp_path):
    """Function: makes such a folder, perhaps without names; returns it with the image and all arrays."""

    def make(*, named=True, invert=False):
        folder = tmp_path / "run"
        hidden = () if named else ("organelles*", "names.json")
        shutil.copytree(template.folder, folder, ignore=shutil.ignore_patterns(*hidden))
        facts = json.loads((folder / "segment.json").read_text())
        facts["what"]["contrast"]["invert"] = invert
        (folder / "segment.json").write_text(json.dumps(facts))
        arrays = {name: array for name, array in template.arrays.items() if named or name != "organelles"}
        return types.SimpleNamespace(
            folder=folder, image=open_volume(template.source), arrays=arrays, size=SIZE, origin=ORIGIN, names=NAMES,
            colours=COLOURS,
        )  # fmt: skip

    make.record = record
    return make


@pytest.fixture
def said():
    """What a log printed, as a list; its `append` is the log."""
    return []
