"""Instances: block by block as of the whole volume, in an order that blocks do not change."""

import csv
import os
import pathlib
import tempfile
import tracemalloc
import types

import numpy as np
import pytest
import scipy.ndimage
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.files import slugs
from his4mae_jax.output import records
from his4mae_jax.output.components import RANKS
from his4mae_jax.output.instances import COLUMNS, file_names, label_instances

SIZE = (30.0, 8.0, 4.0)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == COLUMNS
        return [{k: float(v) for k, v in row.items()} for row in reader]


def write(volume, label, folder, name=None, **settings):
    """`label_instances` under names as the segment stage has them; what an earlier call wrote goes."""
    paths = [pathlib.Path(folder) / file for file in file_names(name or f"class{label}")]
    for path in paths:
        records.remove(path)
    return label_instances(volume, label, *paths, **settings)


def check(labels, volume, folder, **settings):
    """`label_instances` of label 1 against scipy on the whole volume."""
    found = write(volume, 1, folder, pyramid=False, workers=2, **settings)
    ids = zarr.open_array(found.volume / "0")[:]
    structure = scipy.ndimage.generate_binary_structure(3, RANKS[settings.get("connectivity", 6)])
    whole, count = scipy.ndimage.label(labels == 1, structure)
    sizes = scipy.ndimage.sum_labels(np.ones(labels.shape), whole, range(1, count + 1))
    kept = [i + 1 for i in range(count) if sizes[i] >= settings["min_voxels"]]
    kept.sort(key=lambda i: np.flatnonzero(whole == i)[0])
    expected = np.zeros(count + 1, np.uint32)
    expected[kept] = range(1, len(kept) + 1)
    np.testing.assert_array_equal(ids, expected[whole])
    assert ids.dtype == np.uint32 and found.count == len(kept)

    rows = rows_of(found.table)
    assert [row["id"] for row in rows] == list(range(1, len(kept) + 1))
    for row in rows:
        at = np.argwhere(ids == row["id"])
        assert row["voxels"] == len(at)
        assert row["volume_um3"] == pytest.approx(len(at) * np.prod(SIZE) / 1e9, rel=1e-6)
        for axis, name in enumerate("zyx"):
            assert row[f"{name}_voxel"] == pytest.approx(at[:, axis].mean(), rel=1e-6)
            assert row[f"{name}_nm"] == pytest.approx(at[:, axis].mean() * SIZE[axis], rel=1e-6)
            assert (row[f"{name}_start"], row[f"{name}_stop"]) == (at[:, axis].min(), at[:, axis].max() + 1)
    return found


@settings(deadline=None, max_examples=40)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.sampled_from([0, 1, 255])),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.sampled_from([6, 18, 26]),
    st.integers(1, 6),
)
def test_any_blocks_give_the_components_of_the_whole_volume(labels, block, connectivity, min_voxels):
    volume = types.SimpleNamespace(
        name="v", shape=labels.shape, dtype=labels.dtype, voxel_size_nm=SIZE, read=lambda box: labels[box]
    )
    with tempfile.TemporaryDirectory() as folder:
        check(labels, volume, folder, block=block, connectivity=connectivity, min_voxels=min_voxels)


def test_what_touches_at_corners_alone_stays_apart(tmp_path, in_memory):
    labels = np.zeros((2, 2, 4), np.uint8)
    labels[0, 0, :2] = labels[1, 1, 2:] = 1
    assert check(labels, in_memory(labels), tmp_path, min_voxels=1).count == 2
    assert check(labels, in_memory(labels), tmp_path, min_voxels=1, connectivity=26, block=(1, 1, 2)).count == 1


@pytest.mark.filterwarnings("default")  # the packages' own deprecations are not ours
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_files_that_readers_open(tmp_path, label_volume, patches, version):
    labels = patches((20, 40, 40))
    path = label_volume(labels)
    found = write(path, 2, tmp_path / "out", min_voxels=5, block=(8, 16, 16), version=version)
    assert not [p for p in os.listdir(tmp_path / "out") if "partial" in p]
    volume = open_volume(found.volume, image=False)
    assert volume.voxel_size_nm == SIZE and volume.shape == labels.shape
    assert volume.read((slice(None),) * 3).max() == found.count == len(rows_of(found.table)) > 1

    models = pytest.importorskip(f"ome_zarr_models.v{version.replace('.', '')}")
    models.Image.from_zarr(zarr.open_group(found.volume, mode="r"))
    io, reader = pytest.importorskip("ome_zarr.io"), pytest.importorskip("ome_zarr.reader")
    node = next(iter(reader.Reader(io.parse_url(found.volume))()))
    assert node.data[0].shape == labels.shape


def test_names_of_files():
    assert slugs({0: "../x", 1: "X", 2: "", 3: "cluster 3", 4: "Élan"}) == {
        0: "x", 1: "xid1", 2: "class2", 3: "cluster3", 4: "elan",
    }  # fmt: skip


def test_no_voxel_of_the_class(tmp_path, in_memory):
    labels = np.zeros((3, 4, 5), np.uint8)
    assert check(labels, in_memory(labels), tmp_path, min_voxels=1).count == 0


def test_memory_does_not_grow_with_the_volume(tmp_path, patches):
    slab = patches((16, 64, 64))  # read again and again
    slab[1::4, 1::4, 1::4] = 1  # and single voxels, which no table may keep

    def peak(depth):
        volume = types.SimpleNamespace(
            name="v", shape=(depth, 64, 64), dtype=np.dtype(np.uint8), voxel_size_nm=SIZE,
            read=lambda box: slab[: box[0].stop - box[0].start, box[1], box[2]],
        )  # fmt: skip
        tracemalloc.start()
        write(volume, 1, tmp_path, min_voxels=50, block=(16, 32, 32), pyramid=False, workers=1)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(16)
    assert peak(512) < 2 * peak(32)  # the larger one's ids alone would be 8 MB


def test_a_full_disk(small_disk, in_memory):
    labels = np.random.default_rng(0).integers(0, 2, (64, 64, 64), np.uint8)
    with pytest.raises(UserError, match="space"):
        write(in_memory(labels), 1, small_disk, min_voxels=1, block=(16, 16, 16))
    assert os.listdir(small_disk) == []
