"""The folders of the volumes of a run."""

import json
import multiprocessing
import os
import shutil

import pytest

from his4mae_jax.errors import UserError
from his4mae_jax.workdir import only_volume, short_name, volume_folder


@pytest.mark.parametrize(
    "spec, name",
    [
        ("data/cell_4.tif", "cell_4"),
        ("/data/training_10nm.tiff", "training_10nm"),
        ("cell.ome.zarr", "cell"),
        ("cell.zarr/s2", "cell"),
        ("runs/demo/phantom/cell_2/image.ome.zarr", "cell_2"),
        ("cell.zarr[0:500, :, 1000:2000]", "cell_0_500_1000_2000"),
        ("s3://bucket/jrc_hela-2/jrc_hela-2.zarr/recon-1/em/fibsem-uint8/s3", "fibsem_uint8"),
        ("https://host/cell.zarr?token=secret", "cell"),
        ("epfl:training", "epfl_training"),
        ("betaseg:high_c1[0:10, :, :]", "betaseg_high_c1_0_10"),
        ("stack.h5:/volumes/raw", "stack"),
        ("../../em_7.mrc", "em_7"),
        ("…", "volume"),
    ],
)
def test_a_folder_is_named_after_its_volume(spec, name):
    assert short_name(spec) == name


def test_each_volume_has_a_folder_of_its_own(tmp_path):
    paths = [tmp_path / "a" / "cell.tif", tmp_path / "b" / "cell.tif"]
    for path in paths:
        path.parent.mkdir()
        path.touch()
    first, second = (volume_folder(tmp_path, path, create=True) for path in paths)
    assert first == tmp_path / "volumes" / "cell" and second.name.startswith("cell-")
    assert [volume_folder(tmp_path, path) for path in paths] == [first, second]
    assert volume_folder(tmp_path, f"{paths[0]}[0:2, :, :]") not in (first, second)


def test_one_volume_written_in_several_ways_has_one_folder(tmp_path, monkeypatch):
    (tmp_path / "cell.tif").touch()
    made = volume_folder(tmp_path / "run", tmp_path / "cell.tif", create=True)
    monkeypatch.chdir(tmp_path)
    assert {volume_folder("run", spec).resolve() for spec in ("cell.tif", "./cell.tif", "run/../cell.tif")} == {made}


def test_a_workdir_can_be_moved_with_the_volumes_in_it(tmp_path):
    inside = tmp_path / "run" / "phantom" / "cell_1" / "image.ome.zarr"
    inside.mkdir(parents=True)
    volume_folder(tmp_path / "run", inside, create=True)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    folder = volume_folder(tmp_path / "moved", tmp_path / "moved" / inside.relative_to(tmp_path / "run"))
    assert folder == tmp_path / "moved" / "volumes" / "cell_1" and folder.exists()


def test_looking_makes_nothing(tmp_path):
    assert volume_folder(tmp_path, "cell.tif") == tmp_path / "volumes" / "cell"
    assert not os.listdir(tmp_path) and only_volume(tmp_path) is None


def test_the_only_volume(tmp_path):
    volume_folder(tmp_path, "cell.tif", create=True, file_voxel_size_nm=(8.0, 4.0, 4.0))
    known = only_volume(tmp_path)
    assert known["volume"] == "cell.tif" and known["file_voxel_size_nm"] == [8, 4, 4]
    volume_folder(tmp_path, "other.tif", create=True)
    assert only_volume(tmp_path) is None


def test_folders_of_the_user_and_damaged_records_are_left(tmp_path):
    mine = tmp_path / "volumes" / "cell"
    mine.mkdir(parents=True)
    with pytest.raises(UserError, match="volumes/cell: in the way"):
        volume_folder(tmp_path, "cell.tif", create=True)
    (mine / "volume.json").write_text("{")
    with pytest.raises(UserError, match="volume.json: damaged"):
        volume_folder(tmp_path, "cell.tif")
    (mine / "volume.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="volume.json: damaged"):
        only_volume(tmp_path)


def _make(workdir, number, out):
    out.put([str(volume_folder(workdir, f"{number % 2}/cell.tif", create=True)) for _ in range(20)])


def test_processes_that_begin_together_agree(tmp_path):
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    processes = [context.Process(target=_make, args=(tmp_path, number, out)) for number in range(4)]
    for process in processes:
        process.start()
    found = [folder for _ in processes for folder in out.get(timeout=60)]
    for process in processes:
        process.join()
    assert len(set(found)) == 2 and sorted(set(map(found.count, set(found)))) == [40]
