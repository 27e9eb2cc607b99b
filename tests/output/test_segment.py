"""The segment stage on disk: killed and gone on with, one run at a time, never half there."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage
import tensorstore as ts
from killing import kills

from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.labels import UNLABELLED
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.output import records
from his4mae_jax.output.engine.markers import Written
from his4mae_jax.output.job import Job
from his4mae_jax.output.segment import LOCK
from his4mae_jax.training.run.run_lock import RunLock

ROOT = pathlib.Path(__file__).parents[2]
SHAPE = (40, 72, 70)
OUT = pathlib.Path("volumes/cell")  # of a workdir: the folder of the labels of cell.zarr
CONFIG = """
from his4mae_jax.config import get_default

def get_config():
    c = get_default()
    c.model.fov, c.model.patch_size, c.model.embed_dim, c.model.depth = 20, 5, 8, 1
    c.model.decoder_dim, c.model.decoder_depth, c.model.decoder_num_heads = 8, 1, 2
    c.codebook.size, c.data.crop_min = 6, 10
    c.train.batch_size, c.train.samples_per_epoch, c.train.steps, c.train.log_every = 4, 16, 2, 2
    c.data.train, c.data.test, c.data.file_voxel_size_nm = ("{image}",), "{image}", (8.0, 8.0, 8.0)
    c.segment.stride, c.segment.axes, c.segment.fraction, c.segment.clusters = 10, "zyx", 0.02, 3
    c.report.after_stages = False
    c.segment.tile, c.segment.block, c.segment.batch_fovs, c.segment.restarts = 24, (8, 12, 12), 16, 2
    return c
"""


def textured(shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.uint8(np.clip(127 + 300 * scipy.ndimage.gaussian_filter(noise, 1.5), 1, 255))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a config, its volume, and `run/` trained for two steps."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "cell.zarr"
    ome_zarr.create(path, SHAPE, np.uint8, 8.0, chunks=(16, 16, 16)).write(textured(SHAPE)).result()
    (folder / "config.py").write_text(CONFIG.format(image=path))
    command(folder, folder / "run", "--mode=train").check_returncode()
    return folder


def args(folder, workdir, *more):
    return [sys.executable, "-m", "his4mae_jax.main", f"--config={folder}/config.py", f"--workdir={workdir}", *more]


def command(folder, workdir, *more):
    return subprocess.run(args(folder, workdir, *more), cwd=ROOT, capture_output=True, text=True)


def segment(folder, workdir, *more):
    done = command(folder, workdir, "--mode=segment", *more)
    assert done.returncode == 0, done.stderr
    return done.stderr


def workdir_of(trained, tmp_path, name="run"):
    shutil.copytree(trained / "run", tmp_path / name)
    return tmp_path / name


def tree(folder):
    """The bytes of every file under a folder, by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(trained, tmp_path_factory):
    workdir = workdir_of(trained, tmp_path_factory.mktemp("undisturbed"))
    said = segment(trained, workdir)
    assert "tiles, at most about" in said
    facts = json.loads((workdir / OUT / "segment.json").read_text())
    assert facts["what"]["shape"] == list(SHAPE) and facts["clusters"] == [3] and facts["seconds"] > 0
    return workdir


def same_labels(workdir, other):
    assert tree(workdir / OUT / "labels.ome.zarr") == tree(other / OUT / "labels.ome.zarr")
    assert not (workdir / OUT / "segment.partial").exists()


def kill_segmentations(trained, workdir, times):
    """Segments, killed at `times` random moments before it may end; returns how often it was killed.

    From when it has work to do: one of the first tiles of a process, and a random moment after.
    """
    done = workdir / OUT / "segment.partial" / "done"

    def start():
        return subprocess.Popen(args(trained, workdir, "--mode=segment"), cwd=ROOT, stderr=subprocess.DEVNULL)

    def after():
        if (workdir / OUT / "labels.ome.zarr").exists():
            # Killed while it published, or after: labels get their name when they are whole, and are known to be ours.
            assert "labels.ome.zarr" in json.loads((workdir / OUT / "segment.json").read_text())["files"]
            assert records.segmentation(workdir / OUT) or (workdir / OUT / "segment.partial" / "job.json").exists()

    return kills(
        start, times, lambda: len(list(done.glob("*"))) if done.exists() else -1, more=(0, 0, 1, 2), pause=0.05,
        look=0.005, after=after,
    )  # fmt: skip


def test_killed_and_gone_on_with_equals_undisturbed(trained, undisturbed, tmp_path):
    workdir = workdir_of(trained, tmp_path)
    assert kill_segmentations(trained, workdir, 3) == 3
    with pytest.raises(UserError, match="no segmentation to score"):
        records.segmented(workdir, [3])
    assert "going on" in segment(trained, workdir)
    same_labels(workdir, undisturbed)
    assert "is there" in segment(trained, workdir)  # and once more does nothing
    same_labels(workdir, undisturbed)


@pytest.mark.slow
def test_twenty_kills(trained, undisturbed, tmp_path):
    workdir, killed = tmp_path / "run", 0
    while killed < 20:
        shutil.rmtree(workdir, ignore_errors=True)
        workdir = workdir_of(trained, tmp_path)
        killed += kill_segmentations(trained, workdir, 20 - killed)
        segment(trained, workdir)
        same_labels(workdir, undisturbed)


def test_one_run_at_a_time_segments_a_volume(trained, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    before = tree(workdir)
    with RunLock(workdir / OUT, LOCK) as lock:
        lock.take()
        refused = command(trained, workdir, "--mode=segment", "--config.segment.clusters=2")
    said = refused.stderr.splitlines()[-1]
    assert refused.returncode == 2 and f"another process segments this volume (process {os.getpid()} on " in said
    assert tree(workdir) == before
    same_labels(workdir, undisturbed)


def test_a_job_goes_on_only_where_nothing_has_changed(tmp_path):
    first = Job(tmp_path, {"step": 1}, [])
    first.tiles.mark(Written(0, 1.5, {}))
    same = Job(tmp_path, {"step": 1}, [])
    assert same.id == first.id and same.tiles.missing(2) == [1] and same.tiles.seconds() == 1.5
    another = Job(tmp_path, {"step": 2}, [])
    assert another.id != same.id and another.tiles.missing(2) == [0, 1]


def test_what_a_kill_at_the_very_end_leaves_goes_with_the_next_command(trained, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    facts, left = json.loads((workdir / OUT / "segment.json").read_text()), workdir / OUT / "segment.partial"
    for record in ({"id": facts["job"], "what": facts["what"], "files": facts["files"]}, {"files": facts["files"]}):
        (left / "done").mkdir(parents=True)
        (left / "done" / "0").write_text("{}")
        (left / "job.json").write_text(json.dumps(record))
        if "id" not in record:
            (left / "mine").write_text("the user's")
        assert "is there" in segment(trained, workdir)
        assert not left.exists() or os.listdir(left) == ["mine"]
    (left / "mine").unlink(), left.rmdir()
    same_labels(workdir, undisturbed)


def test_settings_that_change_labels_segment_anew_and_others_do_not(trained, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    said = segment(trained, workdir, "--config.segment.outputs=('tiff',)")
    assert "is there" in said and (workdir / OUT / "labels.tif").exists()
    same_labels(workdir, undisturbed)
    said = segment(trained, workdir, "--config.segment.clusters=2", "--config.segment.probabilities=True")
    assert "centres of 2 clusters" in said and not (workdir / OUT / "labels.tif").exists()
    labels = open_volume(workdir / OUT / "labels.ome.zarr", image=False)
    shares = ts.open(
        {"driver": "zarr", "kvstore": {"driver": "file", "path": str(workdir / OUT / "probabilities.ome.zarr" / "0")}}
    ).result()
    shares, labels = np.asarray(shares.read().result()), labels.read(tuple(slice(n) for n in SHAPE))
    assert shares.shape == (2, *SHAPE) and np.abs(shares.sum(axis=0, dtype=int) - 255).max() <= 1
    clear = np.abs(shares[0].astype(int) - shares[1]) > 2
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(1 + shares.argmax(axis=0)[clear], labels[clear])


def strays_in(workdir):
    """Volumes and notes of the user, of names like ours, and their bytes."""
    names = (
        "labels_corrected.ome.zarr", "labels_copy_of_mine.ome.zarr", "labels_c9.ome.zarr", "probabilities.ome.zarr",
        "baselines", "partial.mine.ome.zarr", "segment.partial/done_by_hand", "figures/mine",
    )  # fmt: skip
    for name in names:
        (workdir / OUT / name).mkdir(parents=True)
        (workdir / OUT / name / "0").write_text("years of work")
    return {name: text for name, text in tree(workdir).items() if text == b"years of work"}


def test_volumes_of_the_user_survive_and_what_is_in_the_way_ends_it_at_once(trained, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    record = json.loads((workdir / OUT / "segment.json").read_text())
    del record["files"]  # as earlier versions wrote it
    (workdir / OUT / "checksums.json").unlink()
    (workdir / OUT / "segment.json").write_text(json.dumps(record))
    strays = strays_in(workdir)
    assert len(strays) == 8
    for changes in (("clusters=2", "outputs=('tiff',)"), ("clusters=3", "outputs=()")):
        segment(trained, workdir, *(f"--config.segment.{change}" for change in changes))
        assert (workdir / OUT / "labels.tif").exists() == (changes[0] == "clusters=2")
        assert {name: text for name, text in tree(workdir).items() if text == b"years of work"} == strays
    before = tree(workdir)
    refused = command(trained, workdir, "--mode=segment", "--config.segment.probabilities=True")
    assert refused.returncode == 2 and "probabilities.ome.zarr: in the way" in refused.stderr.splitlines()[-1]
    assert tree(workdir) == before and "segment: " not in refused.stderr
    # With training to come, it is said before that.
    (tmp_path / "new" / OUT / "labels.ome.zarr").mkdir(parents=True)
    (tmp_path / "new" / OUT / "volume.json").write_text((undisturbed / OUT / "volume.json").read_text())
    refused = command(trained, tmp_path / "new", "--mode=all")
    assert refused.returncode == 2 and "labels.ome.zarr: in the way" in refused.stderr.splitlines()[-1]
    assert sorted(os.listdir(tmp_path / "new" / OUT)) == ["labels.ome.zarr", "volume.json"]


def test_centres_of_one_volume_are_applied_to_another(trained, undisturbed, tmp_path):
    other = tmp_path / "other.zarr"
    ome_zarr.create(other, (24, 40, 44), np.uint8, 8.0).write(textured((24, 40, 44), 1)).result()
    workdir = workdir_of(trained, tmp_path)
    where = (f"--config.segment.volume={other}", f"--config.segment.centres_file={undisturbed / OUT / 'centres.npz'}")
    assert f"from {undisturbed / OUT / 'centres.npz'}" in segment(trained, workdir, *where)
    ours, theirs = (
        centre_files.load(w / "centres.npz")[0] for w in (workdir / OUT.parent / "other", undisturbed / OUT)
    )
    np.testing.assert_array_equal(ours[3].centres_CxM, theirs[3].centres_CxM)
    assert open_volume(workdir / OUT.parent / "other" / "labels.ome.zarr", image=False).shape == (24, 40, 44)
    wrong = command(trained, workdir, "--mode=segment", *where, "--config.segment.clusters=5")
    assert wrong.returncode == 2 and "no centres of 5 clusters" in wrong.stderr.splitlines()[-1]
    centres, facts = centre_files.load(undisturbed / OUT / "centres.npz")
    centre_files.save(tmp_path / "else.npz", centres, **{**facts, "encoder_digest": "another"})
    wrong = command(trained, workdir, "--mode=segment", where[0], f"--config.segment.centres_file={tmp_path}/else.npz")
    assert wrong.returncode == 2 and "another checkpoint or encoder" in wrong.stderr.splitlines()[-1]


def test_several_volumes_are_segmented_one_after_the_other(trained, tmp_path):
    paths = [tmp_path / f"cell_{i}.zarr" for i in (4, 5)]
    for i, path in enumerate(paths):
        ome_zarr.create(path, (24, 40, 44 + i), np.uint8, 8.0).write(textured((24, 40, 44 + i), i)).result()
    workdir = workdir_of(trained, tmp_path)
    flag = f"--config.segment.volume={tuple(map(str, paths))}"
    segment(trained, workdir, flag, "--config.report.after_stages=True")
    shapes = [open_volume(workdir / f"volumes/cell_{i}/labels.ome.zarr", image=False).shape for i in (4, 5)]
    assert shapes == [(24, 40, 44), (24, 40, 45)]
    assert (workdir / "volumes/cell_4/report/index.html").exists()
    named = command(trained, workdir, "--mode=name", flag)
    assert named.returncode == 0, named.stderr
    assert all((workdir / f"volumes/cell_{i}/organelles.ome.zarr").exists() for i in (4, 5))
    refused = command(trained, workdir, "--mode=probe", flag, "--config.probe.labels=points.csv")
    assert refused.returncode == 2 and "names 2 volumes" in refused.stderr.splitlines()[-1]


@pytest.mark.slow
def test_taking_ground_truth_away_keeps_the_labels(trained, tmp_path):
    truth = np.where(textured(SHAPE) > 127, 1, 0).astype(np.uint8)
    truth[:20] = 255  # outside the cell: no centre is fitted there
    ome_zarr.create(tmp_path / "truth.zarr", SHAPE, np.uint8, 8.0).write(truth).result()
    workdir = workdir_of(trained, tmp_path)
    names = "--config.data.class_names=('dark', 'bright')"
    segment(trained, workdir, f"--config.data.test_labels={tmp_path / 'truth.zarr'}", names)
    before = json.loads((workdir / OUT / "segment.json").read_text())
    assert before["what"]["mask"]
    assert "is there" in segment(trained, workdir)
    assert json.loads((workdir / OUT / "segment.json").read_text())["job"] == before["job"]
    centres = segment(trained, workdir, f"--config.data.test_labels={tmp_path / 'truth.zarr'}", names)
    assert "is there" in centres  # and given again


def test_padding_is_neither_sampled_nor_labelled(trained, tmp_path):
    """Constant planes at a face, and the constant corner of a volume that was rotated into its box."""
    array = textured(SHAPE)
    array[:, :, -12:] = 0
    corner = np.add.outer(np.add.outer(2 * np.arange(40), np.arange(72)), np.arange(70)) < 50
    array[corner] = 0
    ome_zarr.create(tmp_path / "padded.zarr", SHAPE, np.uint8, 8.0).write(array).result()
    workdir = workdir_of(trained, tmp_path)
    segment(trained, workdir, f"--config.segment.volume={tmp_path / 'padded.zarr'}")
    labels = open_volume(workdir / OUT.parent / "padded" / "labels.ome.zarr", image=False)
    labels = labels.read(tuple(slice(n) for n in SHAPE))
    empty = labels == UNLABELLED
    assert empty[:, :, -12:].all() and empty[:10, :10, :10].all()
    assert not empty[array > 0].any()
    assert empty[array == 0].mean() > 0.9  # all but the steps of the corner's slope


def test_a_full_disk_midway_is_one_line_and_can_be_gone_on_with(trained, undisturbed, tmp_path):
    disk = tmp_path / "small"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk]).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        workdir = workdir_of(trained, disk)
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(b"0" * (free - 60_000))
        failed = command(trained, workdir, "--mode=segment")
        assert failed.returncode == 2 and "no space left" in failed.stderr.splitlines()[-1], failed.stderr
        assert not (workdir / OUT / "segment.json").exists()
        (disk / "filler").unlink()
        segment(trained, workdir)
        same_labels(workdir, undisturbed)
    finally:
        subprocess.run(["umount", disk])
