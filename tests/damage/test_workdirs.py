"""Damaged files of a workdir: one line that names the file before any long work, or repaired."""

import json
import pathlib
import shutil

import pytest

OUT = pathlib.Path("volumes/cell")
DAMAGE = {
    "cut": lambda b: b[: len(b) // 2],
    "emptied": lambda b: b"",
    "flipped": lambda b: bytes(x ^ 255 if len(b) // 2 <= i < len(b) // 2 + 8 else x for i, x in enumerate(b)),
    "latin-1": lambda b: b'{"a": "\xff\xfe"}',
    "list": lambda b: b"[]",
    "null": lambda b: b"null",
    "nested": lambda b: b"[" * 100_000,
    "shape": lambda b: json.dumps(dict.fromkeys(
        ("clusters", "what", "files", "volume", "job", "of", "outputs", "config", "model", "data", "method"), 3)
    ).encode(),
}  # fmt: skip
JSON = ("cut", "emptied", "latin-1", "list", "null", "nested", "shape")


def damage(path, how):
    if how == "gone":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        path.write_bytes(DAMAGE[how](path.read_bytes()))


def cases(files, hows):
    return [(file, how) for file in files for how in hows]


@pytest.mark.parametrize("mode", ["train", "segment", "evaluate", "report"])
@pytest.mark.parametrize("how", JSON)
def test_damaged_settings_are_told(runs, mode, how):
    workdir = runs.copy("whole")
    damage(workdir / "config.json", how)
    error = runs.run(workdir, mode)
    assert f"{workdir}/config.json: damaged" in error and "delete it and train again" in error
    (workdir / "config.json").unlink()
    assert runs.run(workdir, "train") is None and (workdir / "config.json").exists()  # the remedy is one


@pytest.mark.parametrize("mode", ["segment", "evaluate", "report"])
@pytest.mark.parametrize("how", JSON)
def test_a_damaged_record_of_the_segmentation_is_told(runs, mode, how):
    workdir = runs.copy("whole")
    damage(workdir / OUT / "segment.json", how)
    assert f"{workdir / OUT}/segment.json: damaged" in runs.run(workdir, mode)


@pytest.mark.parametrize("mode", ["train", "segment", "evaluate"])
@pytest.mark.parametrize("how", JSON)
def test_a_checkpoint_with_damaged_facts_is_told(runs, mode, how):
    workdir = runs.copy("whole")
    damage(workdir / "checkpoints/2/about/metadata", how)
    error = runs.run(workdir, mode)
    assert f"{workdir}/checkpoints/2: this checkpoint cannot be read" in error and "delete that folder" in error


@pytest.mark.parametrize("how", ["list", "nested"])
def test_a_checkpoint_that_orbax_cannot_list_is_told(runs, how):
    workdir = runs.copy("whole")
    damage(workdir / "checkpoints/2/_CHECKPOINT_METADATA", how)
    assert f"{workdir}/checkpoints/2: this checkpoint cannot be read" in runs.run(workdir, "segment")
    shutil.rmtree(workdir / "checkpoints/2")
    assert runs.run(workdir, "train") is None  # from the one before


@pytest.mark.parametrize("how", ["cut", "emptied", "flipped", "latin-1", "nested"])
def test_a_damaged_training_log_loses_the_damaged_lines_only(runs, how):
    workdir = runs.copy("whole")
    shutil.rmtree(workdir / "checkpoints/2")
    damage(workdir / "train.jsonl", how)
    assert runs.run(workdir, "evaluate") and runs.run(workdir, "report") is None
    assert runs.run(workdir, "train") is None  # goes on from step 1, and writes the line of step 2 again
    lines = [json.loads(line) for line in (workdir / "train.jsonl").read_text("utf-8").splitlines()]
    assert lines[-1]["step"] == 2


@pytest.mark.parametrize("how", ["cut", "emptied", "flipped", "list", "gone"])
def test_damaged_centres_are_told_and_made_anew(runs, how):
    workdir = runs.copy("whole")
    damage(workdir / OUT / "centres.npz", how)
    for mode in ("evaluate", "report", "name"):
        assert f"{workdir / OUT}/centres.npz: " in runs.run(workdir, mode)
    assert runs.run(workdir, "segment") is None and runs.run(workdir, "evaluate") is None
    assert runs.labels(workdir) == runs.labels(runs.folder / "whole")


@pytest.mark.parametrize("how", ["cut", "emptied", "flipped", "list", "gone"])
def test_a_damaged_file_of_centres_is_told_before_the_training(runs, how, tmp_path):
    path = tmp_path / "centres.npz"
    shutil.copy(runs.folder / "whole" / OUT / "centres.npz", path)
    damage(path, how)
    error = runs.run(tmp_path / "run", "all", segment__centres_file=str(path))
    assert f"{path}: " in error and "segment.centres_file" in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_arrays_of_centres_that_do_not_fit_are_told(runs, tmp_path):
    import numpy as np

    with np.load(runs.folder / "whole" / OUT / "centres.npz") as data:
        arrays = {key: data[key] for key in data.files}
    for key, value in {"centres_3": arrays["centres_3"][:2], "projection_3": arrays["centres_3"] * np.nan}.items():
        np.savez(tmp_path / "centres.npz", **{**arrays, key: value})
        assert "of 3 labels" in runs.run(tmp_path / "run", "all", segment__centres_file=str(tmp_path / "centres.npz"))


MARKERS = cases(["done/0"], ["cut", "emptied", "flipped", "latin-1", "list", "null", "nested", "shape"])
ARRAYS = cases(
    ["centres.npz", "labels.ome.zarr/.zattrs", "labels.ome.zarr/0/.zarray"],
    ["cut", "emptied", "flipped", "nested", "gone"],
)
FOLDERS = cases(["labels.ome.zarr", "labels.ome.zarr/0", "done"], ["gone"])


@pytest.mark.parametrize(("file", "how"), MARKERS + ARRAYS + FOLDERS)
def test_a_damaged_job_is_repaired(runs, file, how):
    workdir = runs.copy("half")
    damage(workdir / OUT / "segment.partial" / file, how)
    assert runs.run(workdir, "segment") is None
    assert runs.labels(workdir) == runs.labels(runs.folder / "whole")
    assert runs.run(workdir, "evaluate") is None


@pytest.mark.parametrize("how", JSON)
def test_a_damaged_job_file_is_told(runs, how):
    workdir = runs.copy("half")
    damage(workdir / OUT / "segment.partial/job.json", how)
    assert f"{workdir / OUT}/segment.partial/job.json: damaged" in runs.run(workdir, "segment")


def test_a_damaged_record_of_the_volume_is_told(runs):
    workdir = runs.copy("whole")
    damage(workdir / OUT / "volume.json", "nested")
    assert f"{workdir / OUT}/volume.json: damaged" in runs.run(workdir, "segment")


def test_a_workdir_that_was_moved_is_scored_as_before(runs):
    moved = runs.copy("whole").rename(runs.folder / "moved elsewhere")
    before = json.loads((moved / OUT / "metrics.json").read_text())
    (moved / OUT / "metrics.json").unlink()
    assert runs.run(moved, "evaluate") is None
    assert json.loads((moved / OUT / "metrics.json").read_text())["dsc"] == before["dsc"]
