"""write_outputs: all that config.segment asks for, nothing of an earlier segmentation, nothing that is not ours."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from his4mae_jax import config as configs
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.output.outputs import prefix, remove_outputs, write_outputs

NAMES = {0: "cluster 0", 1: "cluster 1", 2: "cluster 2"}


@pytest.fixture
def config():
    c = configs.get_default()
    c.segment.outputs = ("precomputed", "tiff", "cellsketch")
    c.segment.instances = (1, "cluster 2")
    c.segment.min_instance_voxels = 5
    c.segment.block = (8, 16, 16)
    return c


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_all_of_it_and_again(tmp_path, label_volume, patches, in_memory, config, version):
    config.segment.ome_zarr_version = version
    configs.validate(config)
    labels = patches((12, 30, 30), 3)
    path = label_volume(labels, version=version)
    five = label_volume(labels + 2, name="labels_c5.ome.zarr", names={i: f"five {i}" for i in range(5)})
    lines = []
    written = write_outputs(config, tmp_path, in_memory(labels), [path, five], NAMES, lines.append)
    instances = [f"instances_cluster{i}{e}" for i in (1, 2) for e in (".ome.zarr", ".csv", ".precomputed")]
    expected = {"labels.tif", "labels.precomputed", "labels_c5.tif", "labels_c5.precomputed", "cellsketch", *instances}
    assert {p.name for p in written} == expected
    assert set(os.listdir(tmp_path)) == expected | {path.name, five.name, "outputs.json"}
    assert all(line.startswith("outputs: ") for line in lines) and len(lines) == 13
    properties = json.loads((tmp_path / "labels_c5.precomputed" / "segment_properties" / "info").read_text())
    assert properties["inline"]["properties"][0]["values"] == [f"five {i}" for i in range(5)]
    assert sorted(os.listdir(tmp_path / "cellsketch"))[:2] == ["cell_7.tif", "cell_7_cluster0_mask.tif"]
    assert len(os.listdir(tmp_path / "cellsketch")) == 1 + 3 + 2
    volume = open_volume(tmp_path / "instances_cluster1.ome.zarr", image=False)
    assert ((volume.read((slice(None),) * 3) > 0) <= (labels == 1)).all()

    before = tree(tmp_path)
    write_outputs(config, tmp_path, in_memory(labels), [path, five], NAMES, lines.append)
    assert tree(tmp_path) == before


def test_nothing_of_an_earlier_segmentation_stays(tmp_path, label_volume, patches, in_memory, config):
    labels = patches((12, 30, 30), 3)
    path = label_volume(labels)
    write_outputs(config, tmp_path, in_memory(labels), [path], NAMES, print)
    (tmp_path / "instances_cluster1.ome.zarr").rename(tmp_path / "partial.instances_cluster1.ome.zarr")  # as if stopped
    config.segment.outputs, config.segment.instances = ("tiff",), ()
    write_outputs(config, tmp_path, in_memory(labels), [path], NAMES, print)
    assert set(os.listdir(tmp_path)) == {"labels.ome.zarr", "labels.tif", "outputs.json"}
    remove_outputs(tmp_path)
    remove_outputs(tmp_path)
    assert os.listdir(tmp_path) == ["labels.ome.zarr"]
    config.segment.outputs = ()
    assert write_outputs(config, tmp_path, in_memory(labels), [path], NAMES, print) == []
    assert os.listdir(tmp_path) == ["labels.ome.zarr"]


def test_what_is_not_ours_stays(tmp_path, label_volume, patches, in_memory, config):
    labels = patches((12, 30, 30), 3)
    path = label_volume(labels)
    (tmp_path / "labels.tif").write_text("corrected by hand")
    with pytest.raises(UserError, match="labels.tif: in the way, and no record"):
        write_outputs(config, tmp_path, in_memory(labels), [path], NAMES, print)
    assert (tmp_path / "labels.tif").read_text() == "corrected by hand"
    (tmp_path / "checkpoints").mkdir()
    for text in ('{"outputs": ["checkpoints"]}', '{"outputs": ["../x"]}', "[]", "{"):
        (tmp_path / "outputs.json").write_text(text)
        with pytest.raises(UserError, match="outputs.json"):
            remove_outputs(tmp_path)
    assert (tmp_path / "checkpoints").is_dir()


def test_which_instances(tmp_path, label_volume, patches, in_memory, config):
    labels = patches((12, 30, 30), 3)
    path = label_volume(labels)
    config.segment.outputs, config.segment.instances = (), ("mitochondria",)
    with pytest.raises(UserError, match=r"segment.instances: .*'mitochondria'; choose of 0 \(cluster 0\), 1"):
        write_outputs(config, tmp_path, in_memory(labels), [path], NAMES, print)
    config.segment.instances, config.segment.pyramid = ("all",), False
    written = write_outputs(config, tmp_path, in_memory(labels), [path], NAMES, print)
    assert {p.name for p in written if p.suffix == ".csv"} == {f"instances_cluster{i}.csv" for i in range(3)}


@pytest.mark.parametrize(
    ("key", "value"),
    [("outputs", ("png",)), ("instances", (-1,)), ("min_instance_voxels", 0), ("ome_zarr_version", "0.6")],
)
def test_settings_that_cannot_work(key, value):
    config = configs.get_default()
    config.segment[key] = value
    with pytest.raises(UserError, match=f"segment.{key}"):
        configs.validate(config)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gs://b/jrc-1.n5/", "jrc_1"), ("/d/high_c4_source.tif", "high_c4_source"), ("ü.zarr", "cell"),
     ("a b.ome.zarr[0:9, 1:2, 3:4]", "a_b"), ("C:\\x\\cell.TIFF", "cell")],
)  # fmt: skip
def test_prefix(in_memory, name, expected):
    assert prefix(in_memory(np.zeros((1, 1, 1)), name=name)) == expected


def test_killed_at_any_time_and_run_again(tmp_path, label_volume, patches, in_memory, config):
    labels = patches((16, 48, 48), 3)
    path = label_volume(labels)
    image = open_volume(path, image=False)
    write_outputs(config, tmp_path, image, [path], NAMES, print)
    whole = tree(tmp_path)
    del whole["outputs.json"]
    script = f"""
import sys
from his4mae_jax import config as configs
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.output.outputs import write_outputs
c = configs.get_default()
c.segment.update({config.segment.to_dict()!r})
image = open_volume({str(path)!r}, image=False)
print("ready", flush=True)
write_outputs(c, {str(tmp_path)!r}, image, [{str(path)!r}], {NAMES!r}, print, segmentation="2")
"""
    for wait in (0.0, 0.1, 0.3):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(wait)
        process.kill()
        process.communicate()
    write_outputs(config, tmp_path, image, [path], NAMES, print, segmentation="2")
    rest = tree(tmp_path)
    assert json.loads(rest.pop("outputs.json"))["of"]["segmentation"] == "2"
    assert rest == whole


def test_a_stopped_call_is_gone_on_with_for_the_same_labels_alone(tmp_path, label_volume, patches, in_memory, config):
    labels = patches((12, 30, 30), 3)
    path, image, lines = label_volume(labels), in_memory(labels), []

    def write(segmentation):
        lines.clear()
        write_outputs(config, tmp_path, image, [path], NAMES, lines.append, segmentation=segmentation)
        return sum("there already" in line for line in lines), (tmp_path / "labels.tif").stat().st_ino

    kept, file = write("a")
    assert not kept
    whole = tree(tmp_path)
    (tmp_path / "instances_cluster1.csv").unlink()
    shutil.rmtree(tmp_path / "cellsketch")
    kept, again = write("a")
    assert again == file and kept == 5  # the other instances, the TIFF, three precomputed volumes
    assert tree(tmp_path) == whole
    config.segment.min_instance_voxels = 6
    assert write("a")[0] == 0
    assert write("a")[0] == 7
    assert write("b")[0] == 0
    assert write(None)[0] == write(None)[0] == 0
