"""Coarser levels, organelles and instances with a chunk that is lost or flipped are found, and made anew."""

import contextlib
import pathlib
import shutil

import numpy as np
import pytest

from his4mae_jax.data.ome_zarr import checksums, pyramid
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation.check import check

OUT = pathlib.Path("volumes/cell")
INSTANCES = {"segment__instances": ("all",), "segment__min_instance_voxels": 1}


def chunks(level):
    return sorted(p for p in level.rglob("*") if p.is_file() and not p.name.startswith("."))


def one_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def damage(workdir):
    said = []
    with contextlib.suppress(UserError):
        check(workdir, said.append)
    return [line.removeprefix("damaged: ") for line in said if line.startswith("damaged: ")]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(pyramid, "SMALLEST", 16)


@pytest.fixture(scope="module")
def named(runs):
    """A run with coarser levels, organelles and instances."""
    workdir = runs.copy("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "SMALLEST", 16)
        assert runs.run(workdir, "segment", **INSTANCES) is None
        assert runs.run(workdir, "name") is None
    assert damage(workdir) == []
    return workdir


DAMAGE = [pathlib.Path.unlink, one_byte, pytest.param(lambda p: p.write_bytes(b""), marks=pytest.mark.slow)]


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize(
    "volume, stage",
    [("labels.ome.zarr/1", "segment"), ("labels.ome.zarr/2", "segment"), ("organelles.ome.zarr/0", "name"),
     ("organelles.ome.zarr/1", "name"), ("instances_one.ome.zarr/0", "segment")],
)  # fmt: skip
def test_it_is_found_and_made_anew(runs, named, small, tmp_path, volume, stage, how, capsys):
    workdir = shutil.copytree(named, tmp_path / "run")
    level = next((workdir / OUT).glob(volume.replace("instances_one", "instances_*")))
    whole = content(level.parent)
    how(chunks(level)[0])
    lines = damage(workdir)
    assert lines and all(line.startswith(f"{level}: voxels [") for line in lines)
    assert all(line.endswith(f"run the {stage} stage again, which makes it anew") for line in lines)
    assert runs.run(workdir, stage, **(INSTANCES if stage == "segment" else {})) is None
    assert "made anew" in capsys.readouterr().err
    assert damage(workdir) == [] and content(level.parent) == whole


def test_a_level_whose_metadata_or_checksums_are_damaged_is_made_anew(tmp_path, small):
    array = ome_zarr.create(tmp_path / "v.ome.zarr", (20, 40, 40), np.uint8, 8.0, chunks=(8, 8, 8), label_values={})
    array.write(np.random.default_rng(0).integers(0, 3, array.shape, dtype=np.uint8)).result()
    assert pyramid.build_pyramid(tmp_path / "v.ome.zarr") == 3
    whole, said = content(tmp_path), []
    assert pyramid.build_pyramid(tmp_path / "v.ome.zarr", log=said.append) == 3 and not said
    for file, damaged in ((".zarray", b"{"), (checksums.KEPT, b"["), (checksums.KEPT, b'{"a": 1}'), (".zarray", None)):
        path = tmp_path / "v.ome.zarr/1" / file
        path.unlink() if damaged is None else path.write_bytes(damaged)
        assert pyramid.build_pyramid(tmp_path / "v.ome.zarr", log=said.append) == 3
        assert said.pop().endswith("the level is made anew") and not said and content(tmp_path) == whole


def test_levels_of_earlier_versions_have_no_checksums(tmp_path, small):
    array = ome_zarr.create(tmp_path / "v.ome.zarr", (20, 40, 40), np.uint8, 8.0, chunks=(8, 8, 8), label_values={})
    array.write(np.random.default_rng(0).integers(0, 3, array.shape, dtype=np.uint8)).result()
    pyramid.build_pyramid(tmp_path / "v.ome.zarr")
    (tmp_path / "v.ome.zarr/1" / checksums.KEPT).unlink()
    before = content(tmp_path)
    assert pyramid.build_pyramid(tmp_path / "v.ome.zarr") == 3 and content(tmp_path) == before
    assert list(checksums.readable(tmp_path / "v.ome.zarr")) == []


def test_organelles_are_not_made_from_damaged_labels(runs, named, tmp_path):
    workdir = shutil.copytree(named, tmp_path / "run")
    chunks(workdir / OUT / "labels.ome.zarr/0")[1].unlink()
    before = content(workdir / OUT)
    assert "labels.ome.zarr: voxels [" in runs.run(workdir, "name")
    assert content(workdir / OUT) == before
