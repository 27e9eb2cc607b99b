"""What `his4mae name` writes."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tifffile

from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes import volume as volumes
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.naming import stage

ALL = (slice(None),) * 3


def read(path):
    return open_volume(path, image=False).read(ALL)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def by_name(labels):
    """Ids of organelles: cytoplasm is cluster 1, mitochondria are clusters 2 and 4."""
    return np.array([0, 1, 2, 0, 2], np.uint8)[labels]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_organelles(named, config, version):
    config.segment.ome_zarr_version = version
    text = named.file.read_text()
    assert text.count("'#56B4E9'") == 1
    named.file.write_text(text.replace("'#56B4E9'", "'#010203'"))
    (path,) = stage.name(config, named.folder, print)
    assert np.array_equal(read(path), by_name(named.labels))
    written = open_volume(path, image=False)
    assert written.voxel_size_nm == named.image.voxel_size_nm and written.origin_nm == named.image.origin_nm
    stored, attributes = ome_zarr.read_group(path)
    assert stored == version
    label = attributes["image-label"]
    assert [(p["label-value"], p["name"]) for p in label["properties"]] == [(1, "cytoplasm"), (2, "mitochondria")]
    assert [c["rgba"] for c in label["colors"]] == [[1, 2, 3, 255], [0xE6, 0x9F, 0x00, 255]]
    models = pytest.importorskip(f"ome_zarr_models.v{version.replace('.', '')}.image_label_types")
    models.LabelBase.model_validate(label) if hasattr(models, "LabelBase") else models.Label.model_validate(label)


def test_coarser_levels(named, config, monkeypatch):
    monkeypatch.setattr("his4mae_jax.data.ome_zarr.pyramid.SMALLEST", 20)
    (path,) = stage.name(config, named.folder, print)
    assert len(ome_zarr.read_group(path)[1]["multiscales"][0]["datasets"]) > 1
    config.segment.pyramid = False
    stage.name(config, named.folder, print)
    assert len(ome_zarr.read_group(path)[1]["multiscales"][0]["datasets"]) == 1


def test_everything_that_can_be_had(named, config):
    config.segment.outputs, config.segment.instances = ("tiff", "precomputed", "cellsketch"), ("mitochondria", 1)
    config.name.masks = True
    lines = []
    paths = stage.name(config, named.folder, lines.append, lambda: named.target)
    expected = {"organelles.ome.zarr", "organelles.tif", "organelles.precomputed", "organelles_cellsketch"}
    for part in ("cytoplasm", "mitochondria"):
        expected |= {f"organelles_{part}{e}" for e in (".ome.zarr", "_instances.ome.zarr", "_instances.csv")}
        expected |= {f"organelles_{part}_instances.precomputed"}
    assert {path.name for path in paths} == expected and all(path.exists() for path in paths)
    organelles = by_name(named.labels)
    assert np.array_equal(tifffile.imread(named.folder / "organelles.tif"), organelles)
    assert np.array_equal(read(named.folder / "organelles_mitochondria.ome.zarr"), organelles == 2)
    ids = read(named.folder / "organelles_mitochondria_instances.ome.zarr")
    assert ids.any() and ((ids > 0) <= (organelles == 2)).all()
    with open(named.folder / "organelles_mitochondria_instances.csv") as file:
        assert len(list(csv.DictReader(file))) == ids.max()
    info = json.loads((named.folder / "organelles.precomputed" / "segment_properties" / "info").read_text())
    assert info["inline"]["properties"][0]["values"] == ["cytoplasm", "mitochondria"]
    assert "cell_1_mitochondria_mask.tif" in os.listdir(named.folder / "organelles_cellsketch")

    before = {p: os.stat(p).st_ino for p in paths}
    stage.name(config, named.folder, lines.append, lambda: named.target)  # once more writes nothing
    assert {p: os.stat(p).st_ino for p in paths} == before
    (named.folder / "organelles.tif").rename(named.folder / "partial.organelles.tif")  # as if stopped
    stage.name(config, named.folder, lines.append, lambda: named.target)
    assert (named.folder / "organelles.tif").exists() and not (named.folder / "partial.organelles.tif").exists()

    config.segment.outputs, config.segment.instances, config.name.masks = (), (), False
    stage.name(config, named.folder, lines.append)
    assert {p for p in os.listdir(named.folder) if p.startswith("organelles")} == {"organelles.ome.zarr"}


def test_names_that_changed_replace_what_was_written(named, config):
    stage.name(config, named.folder, print)
    named.file.write_text(named.file.read_text().replace("cytoplasm", "mitochondria"))
    (path,) = stage.name(config, named.folder, print)
    assert np.array_equal(read(path), np.isin(named.labels, (1, 2, 4)))


def test_nothing_of_the_users_is_removed_or_replaced(named, config):
    config.segment.outputs = ("tiff",)
    (named.folder / "organelles.tif").write_text("by hand")
    with pytest.raises(UserError, match=r"organelles.tif: in the way, and no record"):
        stage.name(config, named.folder, print)
    assert not (named.folder / "organelles.ome.zarr").exists()
    (named.folder / "organelles.tif").unlink()
    stage.name(config, named.folder, print)
    (named.folder / "organelles_notes.csv").write_text("mine")
    config.segment.outputs, config.segment.instances = ("precomputed",), ("all",)
    stage.name(config, named.folder, print)
    assert (named.folder / "organelles_notes.csv").exists() and not (named.folder / "organelles.tif").exists()
    for text in ('{"outputs": ["checkpoints"]}', '{"outputs": ["../x"]}', "[]", "{"):
        (named.folder / "names.json").write_text(text)
        with pytest.raises(UserError, match=r"names.json"):
            stage.name(config, named.folder, print)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: cytoplasm", "name: ' '", "has no name"),
        ("- id: 4", "- id: 9", "there is no cluster 9"),
        ("- id: 4", "- id: 1", "listed twice"),
        ("clusters:\n", "clusters: }\n", "not YAML"),
        ("'#56B4E9'", "blue", "colour is 'blue'"),
        ("name: cytoplasm", "name: ignore", "every cluster is ignored"),
    ],
)
def test_mistakes_leave_what_is_there(named, config, old, new, words):
    stage.name(config, named.folder, print)
    text = named.file.read_text().replace(old, new)
    named.file.write_text(text.replace("mitochondria", "ignore") if "every" in words else text)
    before = tree(named.folder)
    with pytest.raises(UserError, match=words) as error:
        stage.name(config, named.folder, print)
    assert "\n" not in str(error.value) and tree(named.folder) == before


def test_instances_of_names_that_nobody_gave(named, config):
    config.segment.instances = ("golgi",)
    with pytest.raises(UserError, match=r"no cluster has the name 'golgi' in .*; choose of cytoplasm, mitochondria"):
        stage.name(config, named.folder, print)
    config.segment.instances = ("cluster 4", 3)  # a cluster's id or first name is the name it has now; 3 is ignored
    paths = stage.name(config, named.folder, print)
    assert {p.name for p in paths if p.suffix == ".csv"} == {"organelles_mitochondria_instances.csv"}


def test_cellsketch_needs_the_image_of_the_labels(named, config):
    config.segment.outputs = ("cellsketch",)
    named.image.shape = (3, 3, 3)
    with pytest.raises(UserError, match="give the config with which the labels were segmented"):
        stage.name(config, named.folder, print, lambda: named.target)
    with pytest.raises(UserError, match="cellsketch needs the image"):
        stage.name(config, named.folder, print)


def test_cellsketch_has_the_mask_of_the_cell(named, config):
    config.segment.outputs = ("cellsketch",)
    stage.name(config, named.folder, print, lambda: named.target)
    assert len(os.listdir(named.folder / "organelles_cellsketch")) == 3
    config.name.masks = True
    cell = types.SimpleNamespace(**{**vars(named.image), "read": lambda box: np.where(named.grey[box] > 40, 255, 1)})
    stage.name(config, named.folder, print, lambda: dataclasses.replace(named.target, labels=cell))
    assert "cell_1_plasmamembrane_mask.tif" in os.listdir(named.folder / "organelles_cellsketch")


def test_memory_is_that_of_blocks(named, config, monkeypatch):
    boxes, real = [], volumes.Volume.read_async
    monkeypatch.setattr("his4mae_jax.data.ome_zarr.fill.WORKERS", 1)
    monkeypatch.setattr(volumes.Volume, "read_async", lambda self, box: (boxes.append(box), real(self, box))[1])
    monkeypatch.setattr("his4mae_jax.data.ome_zarr.fill.SIDE", 8)
    config.name.masks = True
    stage.name(config, named.folder, print)
    assert len(boxes) > 6 and max(np.prod([b.stop - b.start for b in box]) for box in boxes) <= 8 * 16 * 16


def test_no_model_is_run(named, tmp_path):
    """The whole command, in a process of its own, loads no encoder and starts no JAX device."""
    workdir, folder = tmp_path / "trained", tmp_path / "trained" / "volumes" / "cell_1"
    shutil.copytree(named.folder, folder)
    (folder / "volume.json").write_text(json.dumps({"volume": "cell 1", "identity": "cell 1"}))
    (workdir / "config.json").write_text("{}")
    code = (
        "import sys; from his4mae_jax.cli import command\n"
        f"command.main(['name', '--workdir={workdir}', '--config.name.masks=True',"
        " '--config.report.after_stages=False'])\n"  # what the page shows needs more
        "from jax._src import xla_bridge\n"
        "sys.exit('his4mae_jax.inference' in sys.modules or xla_bridge.backends_are_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(read(folder / "organelles.ome.zarr"), by_name(named.labels))
    done = subprocess.run([sys.executable, "-c", code.replace("masks=True", "masks=maybe")], capture_output=True)
    assert done.returncode == 2
