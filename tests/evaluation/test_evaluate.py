"""Which segmentation belongs to which volume."""

from his4mae_jax.evaluation.evaluate import same_volume


def test_relative_absolute_and_linked_names_of_one_file_are_one_volume(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cell.tif").touch()
    (tmp_path / "linked").symlink_to("data")
    for name in ("data/cell.tif", "./data/cell.tif", "linked/../data/cell.tif", "linked/cell.tif"):
        assert same_volume(name, str(tmp_path / "data" / "cell.tif"))
    assert not same_volume("data/cell.tif", "data/other.tif")


def test_names_that_are_no_local_path_are_compared_as_text():
    assert same_volume("gs://bucket/cell.zarr", "gs://bucket/cell.zarr")
    assert not same_volume("gs://bucket/cell.zarr", "gs://bucket//cell.zarr")
