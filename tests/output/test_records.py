"""What is ours in a workdir, what is the user's, and what a kill between the two leaves."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax import config as configs
from his4mae_jax.errors import UserError
from his4mae_jax.output import records
from his4mae_jax.output.job import Job, check_folder
from his4mae_jax.output.outputs import remove_outputs
from his4mae_jax.output.publish import check_free, files_of, publish

ROOT = pathlib.Path(__file__).parents[2]
EARLIER = ["centres.npz", "labels.ome.zarr", "labels_c3.ome.zarr", "probabilities.ome.zarr"]
LATER = ["labels.ome.zarr", "labels_c5.ome.zarr", "centres.npz"]


def put(path, text, folder):
    """A file, or a folder with one."""
    if folder:
        path.mkdir(parents=True)
        path = path / "0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def earlier_run(workdir):
    """What a segmentation and its outputs leave."""
    for name in [*EARLIER, "labels.tif", "cellsketch"]:
        put(workdir / name, "earlier", folder="zarr" in name or name == "cellsketch")
    (workdir / "segment.json").write_text(json.dumps({"clusters": [2, 3], "files": EARLIER}))
    (workdir / "outputs.json").write_text(json.dumps({"outputs": ["labels.tif", "cellsketch"], "of": None}))


def whole_job(workdir, files=LATER, what="later"):
    """A job all of whose tiles are done; it is made if it is not there."""
    job = Job(workdir, {"what": what}, files)
    if not any(job.folder.glob("*.made")):
        for name in files:
            put(job.folder / name, what, folder="zarr" in name)
            (job.folder / f"{name}.made").touch()
    return job


def end(workdir, files=LATER, what="later"):
    """The end of the segment stage: nothing where the segmentation is there, else the rest of the job."""
    facts = records.segmentation(workdir)
    if facts.get("what") == {"text": what}:
        return
    records.check_free(workdir, files, records.recorded_labels(workdir))
    check_folder(workdir, files)
    job = whole_job(workdir, files, what)
    publish(job, files, workdir, {"clusters": [2, 5], "what": {"text": what}})


PIECES = st.sampled_from(
    ["labels", "labels_c", "_c3", "_c5", "3", "probabilities", "centres", "instances_", "cell", "sketch", "baselines",
     "partial.", "segment", "corrected", "mine", " copy", "outputs", ".ome.zarr", ".zarr", ".tif", ".npz", ".csv",
     ".json", ".precomputed", ".draft", ".made", ".partial", "done", "claims", "ß", "-"]
)  # fmt: skip
NAMES = st.lists(PIECES, min_size=1, max_size=4).map("".join)


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(NAMES, st.booleans(), max_size=12), st.dictionaries(NAMES, st.booleans(), max_size=4))
def test_strays_of_the_user_survive_whatever_their_names(strays, in_job):
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        earlier_run(workdir)
        ours = {p.name for p in workdir.iterdir()} | {"segment.partial"}
        users = [workdir / name for name in strays if name not in ours]
        users += [workdir / "segment.partial" / name for name in in_job if name != "job.json"]
        for path in users:
            put(path, "the user's", folder={**in_job, **strays}[path.name])
        before = {name: text for name, text in tree(workdir).items() if text == "the user's"}
        whole = tree(workdir)
        try:
            records.check_free(workdir, LATER, records.recorded_labels(workdir))
            check_folder(workdir, LATER)
        except UserError as error:
            assert "in the way" in str(error) and "\n" not in str(error)
            assert tree(workdir) == whole
            return
        end(workdir)
        end(workdir, ["labels.ome.zarr", "centres.npz"], "another")
        remove_outputs(workdir)
        after = tree(workdir)
        assert {name: text for name, text in after.items() if text == "the user's"} == before
        rest = {name for name in after if name not in before}
        assert rest == {"labels.ome.zarr/0", "centres.npz", "segment.json"}


KILLS = """
import json, os, pathlib, shutil, signal, sys, warnings
sys.path.insert(0, {tests!r})
warnings.simplefilter("ignore")
import test_records as t
from his4mae_jax.output import records

workdir, step, killed = pathlib.Path({folder!r}) / "run", 0, 0
USERS = ["labels_corrected.ome.zarr", "labels_c3_mine.ome.zarr", "labels_c9.ome.zarr", "partial.labels.tif.mine"]
EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "open")
while True:
    step += 1
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir()
    t.earlier_run(workdir)
    t.whole_job(workdir)
    for name in USERS:
        t.put(workdir / name, "the user's", folder=True)
    child = os.fork()
    if not child:
        left = step
        def hook(event, args):
            global left
            if event in EVENTS and (event != "open" or args[1] not in (None, "r", "rb")):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        t.end(workdir)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        assert status == 0, status
        break
    killed += 1
    facts = records.segmentation(workdir)
    if facts:  # that of one of the two, with all its files
        text = "later" if facts.get("what") else "earlier"
        files = t.LATER if facts.get("what") else t.EARLIER
        assert all(t.tree(workdir)[n + "/0" if "zarr" in n else n] == text for n in files), step
    if step % 2:
        t.end(workdir)
        expected = {{n + "/0" if "zarr" in n else n for n in t.LATER}}
    else:  # settings have changed since
        t.end(workdir, ["labels.ome.zarr", "labels_c3.ome.zarr", "centres.npz"], "another")
        expected = {{"labels.ome.zarr/0", "labels_c3.ome.zarr/0", "centres.npz"}}
    after = t.tree(workdir)
    assert all(after.pop(name + "/0") == "the user's" for name in USERS), step
    litter = {{n for n in after if n.endswith(".tmp")}}
    if facts.get("what") and step % 2:  # killed after all was done: the rest of the job goes with the next one
        litter |= {{n for n in after if n.startswith("segment.partial/")}}
    assert set(after) - litter == expected | {{"segment.json"}}, (step, sorted(after))
print(killed)
"""


def test_killed_at_every_change_of_the_disk_while_it_publishes(tmp_path):
    """The next run is refused nothing, whether it is the same or another, and nothing of the user goes."""
    script = KILLS.format(tests=str(pathlib.Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


@pytest.mark.parametrize(
    ("clusters", "settings", "expected"),
    [
        ([4], {"clusters": 4}, {"labels.ome.zarr", "centres.npz"}),
        ([4, 6], {"clusters": 6, "probabilities": True},
         {"labels.ome.zarr", "labels_c4.ome.zarr", "probabilities.ome.zarr", "centres.npz"}),
        ([7], {"clusters": 4, "probabilities": False}, {"labels.ome.zarr", "centres.npz"}),  # a supervised method
    ],
)  # fmt: skip
def test_records_of_earlier_versions(tmp_path, clusters, settings, expected):
    record = {"clusters": clusters, "step": 1, "what": {"clusters": clusters, "settings": settings}}
    (tmp_path / "segment.json").write_text(json.dumps(record))
    assert records.recorded_labels(tmp_path) == expected
    with pytest.raises(UserError, match="segment.json: the labels count from 0"):
        records.segmented(tmp_path, clusters)
    record["what"]["first_label"] = 1
    (tmp_path / "segment.json").write_text(json.dumps(record))
    assert records.segmented(tmp_path, clusters) == record


def test_an_earlier_version_that_was_killed_while_it_published(tmp_path):
    """It had removed segment.json; its job says what it made, and what of that has moved."""
    job = tmp_path / "segment.partial"
    what = {"clusters": [4, 6], "settings": {"clusters": 4}}
    put(job / "job.json", json.dumps({"what": what, "id": "1"}), folder=False)
    for name in ("labels.ome.zarr", "labels_c6.ome.zarr"):
        (job / f"{name}.made").touch()
    put(tmp_path / "labels.ome.zarr", "moved", folder=True)
    put(job / "labels_c6.ome.zarr", "not yet", folder=True)
    put(job / "centres.npz", "not yet", folder=False)
    assert records.recorded_labels(tmp_path) == {"labels.ome.zarr"}


def test_a_record_that_was_changed_removes_nothing(tmp_path):
    put(tmp_path / "checkpoints", "weeks", folder=True)
    for text in ('{"files": ["checkpoints"]}', '{"files": ["../x"]}', '{"files": 3}', "[]", "{"):
        (tmp_path / "segment.json").write_text(text)
        with pytest.raises(UserError, match="segment.json: "):
            records.recorded_labels(tmp_path)
    assert (tmp_path / "checkpoints").is_dir()


@pytest.mark.parametrize("name", ["labels.ome.zarr", "labels_c6.ome.zarr", "centres.npz", "probabilities.ome.zarr",
                                  "labels.tif", "partial.labels.tif", "segment.partial/labels.ome.zarr",
                                  "segment.partial", "instances_cluster1.csv", "labels_c6.precomputed"])  # fmt: skip
def test_whatever_is_in_the_way_is_an_error_before_any_work(tmp_path, name):
    config = configs.get_default()
    config.segment.outputs, config.segment.instances = ("tiff", "precomputed"), (1,)
    config.segment.probabilities, config.evaluate.clusters = True, (6,)
    check_free(config, tmp_path, ())
    assert set(files_of(config)) == {
        "labels.ome.zarr", "labels_c6.ome.zarr", "centres.npz", "probabilities.ome.zarr", "checksums.json",
    }  # fmt: skip
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name}: in the way") as error:
        check_free(config, tmp_path, ())
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == [name.split("/")[0]]
