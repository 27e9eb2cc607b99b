"""`his4mae check` lists what is damaged, and changes nothing."""

import pathlib
import shutil

import numpy as np
import pytest

from his4mae_jax.cli.command import main as his4mae
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.ome_zarr.checksums import readable
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation.check import check

OUT = pathlib.Path("volumes/cell")


def files(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def found(workdir):
    said = []
    with pytest.raises(UserError) as error:
        check(workdir, said.append)
    lines = [line.removeprefix("damaged: ") for line in said if line.startswith("damaged: ")]
    assert f"{workdir}: {len(lines)} damaged" in str(error.value)
    return lines


def test_a_whole_workdir_is_said_to_be_and_stays_as_it_is(runs):
    workdir, said = runs.copy("whole"), []
    before = files(workdir)
    check(workdir, said.append)
    assert said[-1] == f"check: {workdir} is whole: 2 checkpoints, 1 volumes"
    assert files(workdir) == before


def test_each_damage_is_a_line(runs):
    workdir = runs.copy("whole")
    chunk = next(p for p in (workdir / OUT / "labels.ome.zarr/0").rglob("*") if p.is_file() and p.name[0] != ".")
    chunk.unlink()
    (workdir / "checkpoints/1/about/metadata").write_text("{}")
    (workdir / OUT / "centres.npz").write_bytes(b"")
    (workdir / OUT / "metrics.json").write_text("{")
    with open(workdir / "train.jsonl", "ab") as log:
        log.write(b'{"ste')
    lines = found(workdir)
    for part in (
        "train.jsonl: line 3",
        "checkpoints/1: ",
        "centres.npz: ",
        "labels.ome.zarr: voxels [",
        "metrics.json: ",
    ):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert len(lines) == 5


def test_a_checkpoint_with_arrays_that_cannot_be_read_is_found(runs):
    workdir = runs.copy("whole")
    for path in (workdir / "checkpoints/2/student").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    (line,) = found(workdir)
    assert f"{workdir}/checkpoints/2: this checkpoint cannot be read" in line


def test_a_checkpoint_that_is_not_finite_is_found(runs, monkeypatch):
    """As earlier versions saved them."""
    from his4mae_jax.evaluation import check as stage

    monkeypatch.setattr(stage, "finite", lambda state: {"parameters": False})
    lines = found(runs.copy("whole"))
    assert [line.partition(" ")[0] for line in lines] == ["train:"] * 2 and "not finite after step 1" in lines[0]


@pytest.mark.parametrize("content", [b"", b"[]"])
def test_damaged_settings_do_not_hide_the_rest(runs, content):
    workdir = runs.copy("whole")
    (workdir / "config.json").write_bytes(content)
    (workdir / OUT / "segment.json").write_bytes(content)
    assert [line.partition(": ")[0].removeprefix(f"{workdir}/") for line in found(workdir)] == [
        "config.json", "checkpoints", "volumes/cell/segment.json",
    ]  # fmt: skip


def test_a_chunk_of_any_level_that_cannot_be_decoded_is_found(tmp_path):
    array = ome_zarr.create(tmp_path / "v.zarr", (8, 8, 8), np.uint8, 8.0, chunks=(4, 4, 4))
    array.write(np.random.default_rng(0).integers(1, 9, (8, 8, 8), dtype=np.uint8)).result()
    assert list(readable(tmp_path / "v.zarr", most=64)) == []
    chunks = [p for p in (tmp_path / "v.zarr/0").rglob("*") if p.is_file() and p.name[0] != "."]
    chunks[-1].write_bytes(b"torn")
    (line,) = readable(tmp_path / "v.zarr", most=64)
    assert f"{tmp_path}/v.zarr/0: cannot read the data" in line


def test_the_command_ends_with_a_status(runs, tmp_path, capsys):
    for workdir, status in ((runs.folder / "whole", 0), (tmp_path, 2)):
        try:
            his4mae(["check", f"--workdir={workdir}"])
            ended = 0
        except SystemExit as error:
            ended = error.code or 0
        assert ended == status
    assert f"{tmp_path}: holds no run" in capsys.readouterr().err
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match="holds no run"):
        check(tmp_path, print)
