"""Runs with a frozen encoder in a workdir where nothing was trained: every stage, and what has no meaning there."""

import json

import numpy as np
import pytest
import scipy.ndimage
import tiny_onnx

from his4mae_jax.cli import stages
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.config import get_default
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.naming import clusters_file
from his4mae_jax.workdir import volume_folder


@pytest.fixture
def config(tmp_path):
    """A volume of three textures with its ground truth, and an encoder."""
    rng, shape = np.random.default_rng(0), (12, 40, 44)
    truth = np.zeros(shape, np.uint8)
    truth[:, 5:25, 4:20], truth[:, 10:35, 26:40] = 1, 2
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 0.7)
    image = np.uint8(np.clip(np.choose(truth, [60, 120, 190]) + 20 * noise, 1, 255))
    for name, array in (("cell", image), ("truth", truth)):
        ome_zarr.create(tmp_path / f"{name}.zarr", shape, np.uint8, 8.0).write(array).result()
    config = get_default()
    config.data.test, config.data.test_labels = str(tmp_path / "cell.zarr"), str(tmp_path / "truth.zarr")
    config.data.class_names = ("outside", "nucleus", "mitochondria")
    config.segment.encoder_file = str(tiny_onnx.write(tmp_path))
    config.segment.update(stride=8, fraction=0.1, mask_margin=0, clusters=3)
    config.evaluate.baselines = ()
    return config


def run(config, workdir, *modes, **segment):
    config = config.copy_and_resolve_references()
    config.segment.update(segment)
    for mode in modes:
        stages.run(config, workdir, mode)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def folder_of(config, workdir):
    return volume_folder(workdir, config.data.test)


def labels(workdir, name="labels.ome.zarr"):
    return open_volume(workdir / name, image=False).read((slice(None),) * 3)


def test_every_stage_without_a_training(config, tmp_path, capfd):
    workdir = tmp_path / "run"
    run(config, workdir, "all")
    said = capfd.readouterr().err
    assert "train: skipped" in said and "encoder.yaml" in said and "warning" not in said
    folder = folder_of(config, workdir)
    assert not (workdir / "checkpoints").exists() and set(np.unique(labels(folder))) == {1, 2, 3}
    metrics, segmentation = read(folder / "metrics.json"), read(folder / "segment.json")
    assert metrics["method"] == "encoder" and metrics["seconds"]["train"] == 0 and "curve" not in metrics
    assert metrics["dsc"]["one_to_one"]["mean"] > 0.6
    assert segmentation["encoder_file"] == config.segment.encoder_file and segmentation["step"] == 0
    digest = segmentation["what"]["settings"]["encoder_file"]
    assert centre_files.load(folder / "centres.npz")[1]["encoder_digest"] == digest
    page = (workdir / "report" / "index.html").read_text(encoding="utf-8")
    assert "frozen encoder encoder" in page and "trained to" not in page and "No features at hand" in page

    file = folder / "clusters.yaml"
    config.name.from_truth = "many_to_one"
    run(config, workdir, "name")
    names = {c.name for c in clusters_file.read(file).clusters}
    assert {"outside", "mitochondria"} <= names <= set(config.data.class_names)
    assert len(np.unique(labels(folder, "organelles.ome.zarr"))) == len(names)

    truth = labels(tmp_path, "truth.zarr")
    points = np.argwhere(truth < 3)[::97]
    rows = [f"{z},{y},{x},{config.data.class_names[truth[z, y, x]]}" for z, y, x in points]
    (tmp_path / "points.csv").write_text("z,y,x,class\n" + "\n".join(rows))
    config.probe.labels = str(tmp_path / "points.csv")
    run(config, workdir, "probe")
    run(config, workdir, "segment", "evaluate", centres="probe")
    scored = read(folder / "metrics.json")
    assert scored["dsc"]["one_to_one"]["mean"] > 0.7 and scored["method"] == "encoder"
    run(config, workdir, "report")
    assert "No features at hand" not in (workdir / "report" / "index.html").read_text(encoding="utf-8")


def test_labels_are_of_what_the_encoders_files_hold(config, tmp_path, capfd):
    workdir = tmp_path / "run"
    run(config, workdir, "segment")
    folder = folder_of(config, workdir)
    job = read(folder / "segment.json")["job"]
    same = tiny_onnx.describe(tmp_path, name="again.yaml")
    run(config, workdir, "segment", encoder_file=str(same))
    assert read(folder / "segment.json")["job"] == job and "is there" in capfd.readouterr().err
    other = tiny_onnx.describe(tmp_path, name="other.yaml", mean=[0.1, 0.2, 0.3])
    with pytest.raises(UserError, match="another checkpoint or encoder"):
        run(config, workdir, "segment", encoder_file=str(other), centres_file=str(folder / "centres.npz"))
    assert read(folder / "segment.json")["job"] == job
    run(config, workdir, "segment", encoder_file=str(other))
    assert read(folder / "segment.json")["job"] != job
    assert read(workdir / "config.json")["segment"]["encoder_file"] == str(other)


def test_what_it_has_no_use_for(config, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match="is an ONNX file already"):
        run(config, workdir, "export")
    config.data.test = str(tmp_path / "nowhere.zarr")
    (tmp_path / "encoder.onnx").unlink()
    with pytest.raises(UserError, match="no file .*encoder.onnx"):  # before the volume is looked for
        run(config, workdir, "segment")
    assert not workdir.exists()


def test_voxels_have_the_size_that_the_file_asks_for(config, tmp_path):
    path = tiny_onnx.describe(tmp_path, voxel_size_nm=16.0)
    with pytest.raises(UserError, match="but the model was trained at 16 nm"):
        run(config, tmp_path / "other", "segment", encoder_file=str(path))


def test_inspect_measures_it_and_no_training(config, tmp_path):
    config.data.train = (config.data.test,)
    run(config, tmp_path / "run", "inspect")
    record = read(tmp_path / "run" / "inspect" / "inspect.json")
    assert set(record["estimate"]) == {"device", "dtype", "segmentation"}
    assert record["estimate"]["segmentation"]["fovs"] == 12 * 4 * 4
