"""Tiles labelled by Dask workers: the bytes of one process, whatever becomes of workers and of the command."""

import dataclasses
import pathlib
import pickle
import re
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest
import tiny_onnx

from his4mae_jax import progress
from his4mae_jax.cli import stages, volumes
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.data.datasets import target
from his4mae_jax.errors import UserError
from his4mae_jax.inference.encoders.opening import checkpoints_of
from his4mae_jax.output import opening, segment
from his4mae_jax.output.engine import markers
from his4mae_jax.output.job import Job
from his4mae_jax.output.publish import files_of
from his4mae_jax.training.devices import distributed

ROOT = pathlib.Path(__file__).parents[3]
DONE = pathlib.Path("volumes/cell/segment.partial/done")
TILES = 18


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def when(condition, then):
    """Does something in a thread once a condition holds."""

    def wait():
        limit = time.monotonic() + 60
        while not condition() and time.monotonic() < limit:
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def by_dask(run, dask, **segment):
    return run.config(engine="dask", scheduler=dask.address, **segment)


def test_a_worker_is_killed_in_mid_tile_and_one_comes_late(run, dask, monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET", 0.0), monkeypatch.setattr(progress, "EVERY", 0.5)
    workdir = run.copy()
    first, _ = dask.add(), dask.add()

    def kill():
        dask.slow_down(3.0)  # until the late one is there, which takes long on a busy machine
        first.send_signal(signal.SIGKILL)
        late = dask.add()
        when(lambda: dask.tiles(late), lambda: dask.slow_down(0.1)).join()

    acting = when(lambda: len(dask.tiles(first)) >= 2, kill)
    stages.run(by_dask(run, dask), workdir, "segment")
    acting.join()
    said = capsys.readouterr().err
    assert "fitted by a worker" in said and re.search(r"segment: \d+ % .* voxels\) after .* left  \d worker", said)
    assert run.labels(workdir) == run.labels(run.local())
    assert dask.tiles(dask.workers[2])
    # What the killed one had is begun again, and nothing else.
    assert sorted(set(dask.tiles())) == list(range(TILES)) and len(dask.tiles()) <= TILES + 1


@pytest.fixture
def impatient(monkeypatch):
    """A scheduler that is started after this gives a task of a lost worker to no other one by itself."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")


@pytest.mark.slow
def test_a_tile_that_every_worker_is_lost_with_ends_the_command(run, impatient, dask, capsys):
    (dask.folder / "deadly").write_text("7")
    for _ in range(4):
        dask.add()
    workdir = run.copy()
    with pytest.raises(UserError, match=r"tile 7: every worker that had it was lost, tcp://\S+ last; if it ran out"):
        stages.run(by_dask(run, dask), workdir, "segment")
    assert capsys.readouterr().err.count("workers that had tile 7 were lost; it is given out again") == 2
    assert dask.tiles().count(7) == 3
    (dask.folder / "deadly").unlink()
    stages.run(by_dask(run, dask), workdir, "segment")
    assert run.labels(workdir) == run.labels(run.local())


def hidden_probe(run, local):
    """Classes of a probe with a hidden layer, for the encoder of the run."""
    facts = centre_files.load(local / "volumes/cell/centres.npz")[1]
    rng, path = np.random.default_rng(0), run.folder / "probe.npz"
    dim, hidden = 8, 5
    classes = centre_files.Classes(
        ("membrane", "rest"), rng.normal(size=(2, hidden)).astype(np.float32), np.zeros(2, np.float32),
        (rng.normal(size=(dim, hidden)).astype(np.float32), np.zeros(hidden, np.float32)),
    )  # fmt: skip
    centre_files.save(path, {2: classes}, encoder_digest=facts["encoder_digest"])
    return str(path)


def test_whatever_segment_offers(run, two_workers):
    """Each kind of job by the same workers, and by one process."""
    paths, local = tuple(str(run.folder / f"{name}.zarr") for name in ("cell", "other")), run.local()
    kinds = [
        dict(centres="codebook", axes="z", tile=512),  # one tile, which the fit has encoded
        dict(volume=paths, centres_file=hidden_probe(run, local), clusters=2, tile=40, smooth=0.7,
             probabilities=True, ome_zarr_version="0.5"),
        dict(encoder_file=str(tiny_onnx.write(run.folder)), stride=8, tile=40),
    ]  # fmt: skip
    for kind in kinds:
        workdir = run.copy()
        stages.run(by_dask(run, two_workers, **kind), workdir, "segment")
        run.local(**kind)
        for name in ("cell", "other") if "volume" in kind else ("cell",):
            labels = run.labels(workdir, name)
            assert labels == run.labels(local, name), kind
            assert ("probabilities.ome.zarr" in labels) == ("probabilities" in kind)


def test_a_lost_scheduler_is_one_line_and_what_is_done_is_never_done_twice(run, dask, monkeypatch):
    workdir = run.copy()
    dask.add(), dask.add()
    acting = when(lambda: len(dask.tiles()) >= 5, dask.scheduler.kill)
    with pytest.raises(UserError, match=f"the Dask scheduler at {dask.address} is gone; start it and its workers"):
        stages.run(run.config(engine="dask", scheduler=str(dask.file)), workdir, "segment")
    acting.join()
    done, labelled, write = {int(path.name) for path in (workdir / DONE).iterdir()}, [], opening.TileWriter.write
    assert 2 <= len(done) < TILES

    def noted(self, numbers, bar=None):
        labelled.extend(numbers)
        return write(self, numbers, bar)

    monkeypatch.setattr(opening.TileWriter, "write", noted)
    stages.run(run.config(), workdir, "segment")  # the rest by this process
    assert labelled and not done & set(labelled)
    assert run.labels(workdir) == run.labels(run.local())


@pytest.fixture
def begun(run, monkeypatch, tmp_path):
    """A job of the cell that has begun: its task, the job itself, and the workdir."""
    monkeypatch.setattr(markers, "LATE", 0)
    monkeypatch.chdir(tmp_path)
    config, workdir = run.config(), run.copy()
    volume = volumes.created(config, workdir)
    with checkpoints_of(config, workdir) as checkpoints:
        test = target(config, workdir, need_labels=False)
        task = opening.open_task(config, test, volume, checkpoints, print)
        job = Job(volume, opening.values_of(task), files_of(config))
        opening.make_volumes(task, job)
        opening.fit(task, job.folder)
    return task, job, workdir


@pytest.fixture
def recipe(begun):
    return opening.Recipe.of(*begun)


def test_processes_of_a_run_share_tiles_by_their_number(begun, monkeypatch):
    task, job, _ = begun
    marks = np.ones(TILES, np.uint8)
    marks[[0, 4]] = 0  # done already
    from_first = [np.int32(TILES), marks]
    monkeypatch.setattr(distributed, "of_first", lambda values: from_first.pop(0))
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(distributed, "barrier", lambda name: None)
    segment._write_share(task, job.folder)
    assert sorted(job.tiles.all()) == np.flatnonzero(marks)[1::3].tolist()


def test_a_worker_that_sees_other_files_is_refused(recipe, tmp_path):
    assert len(pickle.dumps(recipe)) < 20_000
    with pytest.raises(UserError, match="segment.partial: not what the command sees there"):
        opening.JobOnWorker(dataclasses.replace(recipe, job="another"))
    with pytest.raises(UserError, match=r"segment.partial: not what .* one file system"):
        opening.JobOnWorker(dataclasses.replace(recipe, job_folder=str(tmp_path / "segment.partial")))
    with pytest.raises(UserError, match="nowhere: where the command was started, and not there for a worker"):
        opening.JobOnWorker(dataclasses.replace(recipe, place=str(tmp_path / "nowhere")))
    other = {**recipe.values, "shape": [1, 2, 3]}
    with pytest.raises(UserError, match=r"cell.zarr: not what the command sees there \(shape: \[40, 72, 70\] here"):
        opening.JobOnWorker(dataclasses.replace(recipe, values=other))


def test_a_worker_writes_nothing_once_the_command_is_gone(recipe):
    job, folder = opening.JobOnWorker(recipe), pathlib.Path(recipe.job_folder)
    before, written = tree(folder), job.label(0)
    assert written.number == 0 and tree(folder) != before
    assert job.label(0) == written  # as its marker says
    before = tree(folder)
    (folder / "job.json").write_text(before["job.json"].decode().replace(recipe.job, "another"))
    with pytest.raises(UserError, match="the command that began this segmentation has ended"):
        job.label(1)
    (folder / "job.json").write_bytes(before["job.json"])
    job.end()
    with pytest.raises(UserError, match="has ended"):
        job.label(1)
    assert tree(folder) == before


def test_a_worker_of_another_version_is_refused(run, dask, tmp_path):
    shutil.copytree(ROOT / "his4mae_jax", tmp_path / "other" / "his4mae_jax")
    with open(tmp_path / "other" / "his4mae_jax" / "errors.py", "a") as file:
        file.write("# changed\n")
    dask.add(package=tmp_path / "other")
    workdir = run.copy()
    dask.wait()
    with pytest.raises(UserError, match=r"worker tcp://\S+ on \S+ runs his4mae_jax .*: install the same on all"):
        stages.run(by_dask(run, dask), workdir, "segment")


def test_a_cluster_of_another_version_is_told(run, old):
    cluster, package = old
    workdir = run.copy()
    with pytest.raises(UserError, match=r"the Dask scheduler at \S+ lacks his4mae_jax, or has another version"):
        stages.run(by_dask(run, cluster), workdir, "segment")
    cluster.add(package=package)
    cluster.wait()
    with pytest.raises(UserError, match=r"worker tcp://\S+ has no his4mae_jax, or another version .*: install"):
        stages.run(by_dask(run, cluster), workdir, "segment")


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        ("tcp://127.0.0.1:9", "no Dask scheduler answers at tcp://127.0.0.1:9"),
        ("nowhere.json", "neither an address such as 'tcp://host:8786' nor a scheduler file"),
        ("carrier://pigeon:1", "no Dask scheduler answers"),
    ],
)
def test_no_scheduler_is_one_line_and_nothing_is_begun(run, scheduler, said, monkeypatch):
    from his4mae_jax.output.engine import client

    monkeypatch.setattr(client, "CONNECT", 1)
    workdir = run.copy()
    with pytest.raises(UserError, match=said) as error:
        stages.run(run.config(engine="dask", scheduler=scheduler), workdir, "segment")
    assert "config key segment.scheduler" in str(error.value)
    assert not (workdir / "volumes/cell/segment.partial").exists()


def test_a_launcher_of_several_processes_is_refused(run, monkeypatch):
    for name, value in {"COORDINATOR_ADDRESS": "a:1", "NUM_PROCESSES": "2", "PROCESS_ID": "0"}.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    with pytest.raises(UserError, match="segment.engine='dask' is for one process"):
        stages.run(run.config(engine="dask", scheduler="tcp://a:1"), run.copy(), "segment")
