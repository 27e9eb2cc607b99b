"""Whole runs in a bucket make what runs on a disk make, also through failures of the store and kills."""

import json
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from killing import kills

import his4mae_jax
from his4mae_jax.bucket import lease, transfer
from his4mae_jax.bucket.path import place
from his4mae_jax.cli import stages
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation.check import check
from his4mae_jax.output import records
from his4mae_jax.output.engine.markers import Markers
from his4mae_jax.training.devices.mesh import make_mesh, replicated
from his4mae_jax.training.run.checkpoints import Checkpoints
from his4mae_jax.training.step.state import state_like
from his4mae_jax.workdir import checkpoint_steps

ROOT = pathlib.Path(__file__).parents[2]
OUT = pathlib.PurePosixPath("volumes/cell")
STEPS = 16  # of a training that is killed


def labels_of(workdir):
    """The bytes of every file of the labels, by path."""
    folder = records.volume(place(workdir) / OUT / "labels.ome.zarr")
    names = folder.keys() if not isinstance(folder, pathlib.Path) else [
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    ]  # fmt: skip
    return {name: (folder / name).read_bytes() for name in sorted(names) if name != transfer.MARK}


def same_training(config, workdir, disk):
    """Whether the last states are the same, and the log has every step once."""
    states = []
    for folder in (workdir, disk):
        checkpoints = Checkpoints(folder, config)
        states.append(checkpoints.restore(checkpoints.steps()[-1], state_like(config), replicated(make_mesh()))[0])
        checkpoints.close()
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(one, other)
    logs = [
        [json.loads(line) for line in (place(f) / "train.jsonl").read_bytes().splitlines()] for f in (workdir, disk)
    ]
    assert [(e["step"], e["loss"]) for e in logs[0]] == [(e["step"], e["loss"]) for e in logs[1]]


def run_as_on_a_disk(folder, config, disk):
    """Trains and segments in a bucket, and compares with a disk."""
    for mode in ("train", "segment"):
        stages.run(config, str(folder), mode)
    same_training(config, folder, disk())
    assert labels_of(folder) == labels_of(disk())
    assert json.loads((folder / OUT / "checksums.json").read_bytes()).keys() == {"labels.ome.zarr"}
    assert not (folder / OUT / "segment.partial").exists() and not list(folder.glob("*.lock"))


def test_a_run_in_a_bucket_is_that_on_a_disk(google, clean, make_config, disk):
    run_as_on_a_disk(place("gs://cells/run"), make_config(), disk)


@pytest.mark.slow
def test_and_so_it_is_on_s3(amazon, clean, make_config, disk):
    clean.setenv("HIS4MAE_S3_ENDPOINT", amazon[0])
    run_as_on_a_disk(place("s3://cells/run"), make_config(), disk)


@pytest.mark.slow
def test_a_run_that_is_there(folder, make_config, disk, capsys):
    config = make_config()
    for mode in ("train", "segment"):
        stages.run(config, folder, mode)
    capsys.readouterr()
    for mode in ("train", "segment"):  # once more does nothing
        stages.run(config, folder, mode)
    said = capsys.readouterr().err
    assert "all 4 steps are done" in said and "is there, of this checkpoint" in said
    encoder = his4mae_jax.Encoder.load(str(folder))
    assert encoder.step == 4 and encoder.digest == his4mae_jax.Encoder.load(disk()).digest
    check(str(folder), print)


@pytest.fixture
def trained(folder, make_config):
    """A training of two steps in a bucket."""
    stages.run(make_config(2), folder, "train")
    return folder


@pytest.mark.slow
def test_labels_count_once_their_record_is_there(trained, make_config, monkeypatch):
    config, mark, marked = make_config(2), Markers.mark, []

    def stop(markers, written):
        mark(markers, written)
        marked.append(written.number)
        if len(marked) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Markers, "mark", stop)
        stages.run(config, trained, "segment")
    with pytest.raises(UserError, match="no segmentation to score"):
        records.segmented(trained / OUT, [3])
    stages.run(config, trained, "segment")
    first = labels_of(trained)
    config.segment.clusters = 2
    marked.clear()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Markers, "mark", stop)
        stages.run(config, trained, "segment")
    assert labels_of(trained) == first and records.segmented(trained / OUT, [3])  # whole until others are
    stages.run(config, trained, "segment")
    assert labels_of(trained) != first and len(list((trained / OUT).glob("segmentation-*"))) == 1


@pytest.mark.slow
def test_all_stages_and_outputs(folder, make_config, capsys):
    config = make_config(2)
    config.data.source, config.data.phantom.size, config.data.phantom.cells = "phantom", 64, 1
    config.data.train, config.data.test, config.data.file_voxel_size_nm = (), "", ()
    config.report.after_stages, config.evaluate.baselines = True, ()
    config.segment.instances, config.segment.outputs = ("all",), ("tiff", "precomputed", "cellsketch")
    stages.run(config, folder, "all")
    said = capsys.readouterr().err
    assert "warning" not in said
    out = folder / "volumes" / "cell_1"
    for name in ("metrics.csv", "figures/slices.png", "labels.tif", "instances_cluster1.csv", "clusters.yaml"):
        assert (out / name).stat().st_size > 0
    for name in ("instances_cluster1.ome.zarr", "labels.precomputed", "cellsketch"):
        assert transfer.is_whole(out / name)
    assert b"Slices" in (folder / "report" / "index.html").read_bytes()
    stages.run(config, folder, "name")
    assert transfer.is_whole(out / "organelles.ome.zarr")
    check(folder, print)


def test_what_needs_a_disk_says_so(folder, make_config):
    for mode in ("view", "export", "compare"):
        with pytest.raises(UserError, match=f"`his4mae {mode}` needs a workdir on a disk"):
            stages.run(make_config(), folder, mode)
    for key, value in (("keep_features", True), ("outputs", ("image",))):
        config = make_config()
        config.segment[key] = value
        with pytest.raises(UserError, match=f"in a bucket, and config key segment.{key}"):
            stages.run(config, folder, "all")


@pytest.mark.slow
def test_a_checkpoint_without_its_manifest_is_none(trained, make_config):
    config = make_config(2)
    (trained / "checkpoints" / "2" / "manifest.json").unlink()
    assert checkpoint_steps(trained) == []
    stages.run(config, trained, "train")
    (trained / "checkpoints" / "2" / "student" / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match="checkpoints/2: this checkpoint cannot be read.*delete that folder"):
        his4mae_jax.Encoder.load(str(trained))


@pytest.fixture
def command(make_config, tmp_path):
    """Function that starts a stage as a process of its own."""
    (tmp_path / "config.json").write_text(json.dumps(make_config(STEPS).to_dict()))

    def start(workdir, mode):
        words = [f"--config=saved:{tmp_path}/config.json", f"--workdir={workdir}", f"--mode={mode}"]
        with open(tmp_path / "said.txt", "a") as said:
            return subprocess.Popen([sys.executable, "-m", "his4mae_jax.main", *words], cwd=ROOT, stderr=said)

    def run(workdir, mode):
        assert start(workdir, mode).wait(300) == 0, (tmp_path / "said.txt").read_text()[-3000:]
        return (tmp_path / "said.txt").read_text()

    start.run = run
    return start


@pytest.mark.slow
def test_killed_and_gone_on_with_is_undisturbed(folder, make_config, disk, command):
    """Three kills of a training and three of a segmentation: states, log and labels are those on a disk."""
    config = make_config(STEPS)
    assert kills(lambda: command(folder, "train"), 3, lambda: len(list((folder / "checkpoints").glob("*/*.json")))) == 3
    command.run(folder, "train")
    same_training(config, folder, disk(STEPS))
    done = folder / OUT / "segment.partial" / "done"
    assert kills(lambda: command(folder, "segment"), 3, lambda: len(list(done.iterdir()))) == 3
    said = command.run(folder, "segment")
    assert "going on from step" in said and "tiles are done" in said
    assert labels_of(folder) == labels_of(disk(STEPS))
    assert centre_files.load(folder / OUT / "centres.npz")[1]["step"] == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("every", [5, 17])
def test_through_failures_of_the_store(faulty, make_config, disk, command, every):
    """One request in `every` ends in status 503, a reset, or an answer that is lost."""
    server, folder, config = faulty(every), place(f"s3://cells/through{every}"), make_config(STEPS)
    for mode in ("train", "segment"):
        command.run(folder, mode)
    assert min(server.faults.values()) > 10
    same_training(config, folder, disk(STEPS))
    assert labels_of(folder) == labels_of(disk(STEPS))


@pytest.mark.slow
def test_a_second_run_is_refused_while_the_first_lives(folder, make_config, command, monkeypatch):
    first = command(folder, "train")
    while not (folder / "train.lock").exists():
        time.sleep(0.05)
    monkeypatch.setattr(lease, "_is_gone", lambda there: False)  # as one on another machine
    with pytest.raises(UserError, match="another process trains in this workdir"):
        stages.run(make_config(STEPS), folder, "train")
    assert first.wait(120) == 0
