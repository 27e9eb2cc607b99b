"""A part of a workdir that was moved to another disk, with a link in its place: what works, and what is one line."""

import os
import pathlib
import shutil

import numpy as np
import pytest

from his4mae_jax.data.ome_zarr import pyramid
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation.check import check
from his4mae_jax.workdir import checkpoint_steps

OUT = pathlib.Path("volumes/cell")
FEATURES = {"segment__keep_features": True, "segment__inference": "expand"}


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def moved(workdir, part, disk):
    """Moves a part of a workdir, or the workdir, elsewhere; returns where it is now."""
    disk.mkdir(exist_ok=True)
    old, new = workdir / part if part else workdir, disk / (part.replace("/", "_") or "run")
    shutil.move(old, new)
    os.symlink(new, old)
    return new


def check_passes(workdir):
    check(workdir, lambda line: None)
    return True


@pytest.mark.parametrize("part", ["volumes/cell/labels.ome.zarr", "volumes/cell", "volumes", "checkpoints", ""])
def test_all_stages_work_through_a_link(runs, tmp_path, part):
    workdir = runs.copy("whole")
    whole = runs.labels(workdir)
    where = moved(workdir, part, tmp_path / "disk")
    for mode in ("segment", "evaluate", "name", "report"):
        assert runs.run(workdir, mode) is None, mode
    assert check_passes(workdir) and runs.labels(workdir) == whole
    link = workdir / part if part else workdir
    assert link.is_symlink() and pathlib.Path(os.readlink(link)) == where


def test_labels_by_a_link_are_replaced_and_what_it_led_to_stays(runs, tmp_path, capsys):
    workdir = runs.copy("whole")
    where = moved(workdir, "volumes/cell/labels.ome.zarr", tmp_path / "disk")
    before = content(where)
    assert runs.run(workdir, "segment", segment__clusters=4) is None
    assert not (workdir / OUT / "labels.ome.zarr").is_symlink() and content(where) == before
    assert f"was a link to {where}, which stays as it is" in capsys.readouterr().err
    assert check_passes(workdir)


def test_damaged_labels_by_a_link_are_made_anew(runs, tmp_path):
    workdir = runs.copy("whole")
    where = moved(workdir, "volumes/cell/labels.ome.zarr", tmp_path / "disk")
    next(p for p in (where / "0").rglob("*") if p.is_file() and p.name[0] != ".").unlink()
    before = content(where)
    assert runs.run(workdir, "segment") is None and content(where) == before
    assert runs.labels(workdir) == runs.labels(runs.folder / "whole")


@pytest.mark.parametrize("part", ["volumes/cell", "volumes", ""])
def test_a_folder_by_a_link_gets_other_labels_and_stays_a_link(runs, tmp_path, part):
    workdir = runs.copy("whole")
    where = moved(workdir, part, tmp_path / "disk")
    (where / "mine.txt").write_text("mine")
    assert runs.run(workdir, "segment", segment__clusters=4) is None
    assert (workdir / part if part else workdir).is_symlink() and (where / "mine.txt").read_text() == "mine"
    assert check_passes(workdir)


@pytest.mark.parametrize("part", ["checkpoints", ""])
def test_a_training_goes_on_through_a_link(runs, tmp_path, part):
    workdir = runs.copy("whole")
    shutil.rmtree(workdir / "checkpoints/2")
    where = moved(workdir, part, tmp_path / "disk")
    assert runs.run(workdir, "train") is None
    assert checkpoint_steps(workdir) == [1, 2] and (workdir / part if part else workdir).is_symlink()
    assert (where / "2" if part else where / "checkpoints/2").is_dir() and check_passes(workdir)


def test_coarser_levels_and_organelles_by_a_link(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(pyramid, "SMALLEST", 16)
    workdir = runs.copy("whole")
    labels = moved(workdir, "volumes/cell/labels.ome.zarr", tmp_path / "disk")
    assert runs.run(workdir, "segment") is None and (labels / "1").is_dir()
    assert runs.run(workdir, "name") is None
    organelles = moved(workdir, "volumes/cell/organelles.ome.zarr", tmp_path / "disk")
    before = content(organelles)
    assert runs.run(workdir, "name") is None and content(organelles) == before
    next(p for p in (organelles / "0").rglob("*") if p.is_file() and p.name[0] != ".").unlink()
    assert runs.run(workdir, "name") is None
    assert content(workdir / OUT / "organelles.ome.zarr") == before  # anew; what the link led to is left alone
    assert not (workdir / OUT / "organelles.ome.zarr").is_symlink() and len(content(organelles)) == len(before) - 1


def test_kept_features_by_a_link(runs, tmp_path):
    workdir = runs.copy("whole")
    assert runs.run(workdir, "segment", **FEATURES) is None
    where = moved(workdir, "volumes/cell/features.zarr", tmp_path / "disk")
    before = content(where)
    assert runs.run(workdir, "segment", segment__clusters=4, **FEATURES) is None
    assert (workdir / OUT / "features.zarr").is_symlink()
    assert runs.run(workdir, "segment", **(FEATURES | {"segment__stride": 5})) is None
    assert not (workdir / OUT / "features.zarr").is_symlink() and content(where) == before
    assert check_passes(workdir)


@pytest.mark.parametrize("part", ["volumes/cell/features.zarr", "volumes/cell", "checkpoints"])
def test_a_probe_works_through_a_link(runs, tmp_path, part):
    workdir, rng = runs.copy("whole"), np.random.default_rng(0)
    rows = [f"{z},{y},{x},{'ab'[i % 2]}" for i, (z, y, x) in enumerate(rng.integers(0, (24, 40, 36), (60, 3)))]
    (tmp_path / "points.csv").write_text("\n".join(["z,y,x,class", *rows]))
    changes = FEATURES | {"probe__labels": str(tmp_path / "points.csv"), "probe__block": 8, "probe__fewest": 1}
    assert runs.run(workdir, "probe", **changes) is None
    moved(workdir, part, tmp_path / "disk")
    assert runs.run(workdir, "probe", **(changes | {"probe__segment": True})) is None
    assert (workdir / part).is_symlink() and check_passes(workdir)


@pytest.mark.parametrize("part", ["volumes/cell/labels.ome.zarr", "volumes/cell", "volumes", "checkpoints", ""])
def test_a_link_that_leads_nowhere_is_one_line(runs, tmp_path, part):
    workdir = runs.copy("whole")
    where = moved(workdir, part, tmp_path / "disk")
    kept = shutil.move(where, tmp_path / "kept")
    before = content(kept)
    for mode in ("segment", "evaluate", "name", "report", "probe", "inspect"):
        error = runs.run(workdir, mode)
        assert f"a link to {where}, which is not there" in error and "\n" not in error, (mode, error)
    error = runs.run(workdir, "train")
    assert error is None if part.startswith("volumes/") else "which is not there" in error
    said = []
    with pytest.raises(UserError, match="damaged"):
        check(workdir, said.append)
    assert sum(f"a link to {where}, which is not there" in line for line in said) == 1
    assert (workdir / part if part else workdir).is_symlink() and not where.exists() and content(kept) == before


def test_features_that_are_not_there_are_told_before_anything_is_encoded(runs, tmp_path):
    workdir = runs.copy("whole")
    os.symlink(tmp_path / "gone", workdir / OUT / "features.zarr")
    assert f"a link to {tmp_path}/gone, which is not there" in runs.run(workdir, "segment", **FEATURES)


def test_a_job_by_a_link_is_refused(runs, tmp_path):
    workdir = runs.copy("half")
    where = moved(workdir, "volumes/cell/segment.partial", tmp_path / "disk")
    before = content(where)
    assert "segment.partial: a link; move what it leads to here" in runs.run(workdir, "segment")
    assert content(where) == before
