"""`his4mae init`: the config that it writes for volumes of the user's own."""

import pathlib

import numpy as np
import pytest
import tifffile

from his4mae_jax import config as configs
from his4mae_jax.cli import config_file
from his4mae_jax.cli.new_config import init
from his4mae_jax.data import datasets
from his4mae_jax.errors import UserError


@pytest.fixture
def volume(tmp_path, monkeypatch):
    """Function: noise as a TIFF in the current folder, with the ids of a label volume beside it if need be."""
    monkeypatch.chdir(tmp_path)

    def write(name="cell.tif", shape=(40, 60, 64), ids=None, labels="cell_mitochondria.tif"):
        rng = np.random.default_rng(0)
        tifffile.imwrite(name, rng.integers(20, 200, shape, np.uint8))
        if ids is not None:
            tifffile.imwrite(labels, rng.choice(np.array(ids, np.uint16), shape))
        return name

    return write


def written(*specs, size=(20.0, 20.0, 20.0), path="mine.py"):
    init(specs, path, size)
    config = config_file.load(path)
    configs.validate(config)
    return config


def test_the_config_is_for_the_volume_and_prints_the_next_commands(volume, capsys):
    config = written(volume())
    assert config.data.train == ("cell.tif",) and config.data.test == "cell.tif" and config.data.test_labels == ""
    assert config.data.file_voxel_size_nm == (20.0,) * 3 and config.data.voxel_size_nm == 0
    assert config.model == configs.get_small().model and 0 < config.train.steps < 50_000
    out, err = capsys.readouterr()
    assert "his4mae all --config=mine.py --workdir=runs/mine" in out and "his4mae inspect" in out
    assert "40 x 60 x 64 voxels" in err and "uint8" in err and "grey levels 20 to 199" in err
    assert "40 x 60 x 64 voxels" in pathlib.Path("mine.py").read_text()


def test_it_is_named_after_the_volume_and_overwrites_nothing(volume):
    init([volume("Cell 1.ome.tif")], None, (20.0,) * 3)
    before = pathlib.Path("cell_1.py").read_text()
    with pytest.raises(UserError, match="cell_1.py: is there already"):
        init(["Cell 1.ome.tif"], None, (20.0,) * 3)
    assert pathlib.Path("cell_1.py").read_text() == before
    with pytest.raises(UserError, match="ends in .py"):
        init(["Cell 1.ome.tif"], "mine.txt", (20.0,) * 3)


def test_fine_voxels_are_resampled_to_the_size_of_the_small_model(volume):
    config = written(volume(shape=(90, 90, 90)), size=(5.0,) * 3)
    assert config.data.voxel_size_nm == 15 and datasets.training_volumes(config, "")[0].shape == (30, 30, 30)


def test_serial_sections_are_sliced_in_their_plane(volume, capsys):
    config = written(volume(shape=(12, 80, 80)), size=(50.0, 10.0, 10.0))
    assert "slices are taken across z only" in capsys.readouterr().err
    assert datasets.training_volumes(config, "")[0].voxel_size_nm == (50.0, 15.0, 15.0)


def test_a_thin_volume_is_sliced_across_its_thin_axis(volume):
    config = written(volume(shape=(12, 80, 80)))
    assert config.data.axes == config.segment.axes == "z"


@pytest.mark.parametrize(
    ("ids", "names", "binary"),
    [
        ((0, 1), ("background", "mitochondria"), False),
        ((0, 255), ("background", "mitochondria"), True),
        ((0, 1, 2, 255), ("class 0", "class 1", "class 2"), False),
        (tuple(range(40)), ("background", "mitochondria"), True),
    ],
)
def test_labels_beside_a_volume_are_found_and_named(volume, ids, names, binary):
    config = written(volume(ids=ids))
    assert config.data.test_labels == "cell_mitochondria.tif" and config.data.class_names == names
    assert config.data.binary_labels == binary
    target = datasets.target(config, "", need_labels=True)
    assert target.labels.shape == (40, 60, 64)


def test_other_neighbours_are_no_labels(volume):
    volume("cell_2.tif")  # an image of the same shape whose name begins alike, but given as a volume itself
    volume("seg.tif", shape=(40, 60, 63))  # another shape
    volume("aaa.tif")  # another name
    config = written(volume(), "cell_2.tif")
    assert config.data.test_labels == "" and config.data.train == ("cell.tif", "cell_2.tif")


def test_of_a_large_volume_the_centre_is_segmented_with_its_labels(volume):
    config = written(volume(shape=(20, 300, 600), ids=(0, 1)))
    target = datasets.target(config, "", need_labels=True)
    assert target.image.shape == target.labels.shape == (20, 256, 256)
    assert config.data.test.endswith("[0:20, 22:278, 172:428]") and config.data.train == ("cell.tif",)


def test_volumes_of_two_voxel_sizes_are_brought_to_one(volume):
    for name, size in (("a.tif", 20), ("b.tif", 30)):
        data = np.random.default_rng(0).integers(0, 255, (40, 60, 64), np.uint8)
        tifffile.imwrite(
            name, data, imagej=True, resolution=(1000 / size,) * 2, metadata={"spacing": size / 1000, "unit": "um"}
        )
    config = written("a.tif", "b.tif", size=None)
    assert config.data.voxel_size_nm == 30
    assert len(datasets.training_volumes(config, "")) == 2


def test_what_cannot_be_used_is_refused_and_nothing_is_written(volume, tmp_path):
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match="nowhere.tif: no such file"):
        init(["nowhere.tif"], "mine.py", None)
    name = volume()
    with pytest.raises(UserError, match="no voxel size; give it in nm as --voxel-size"):
        init([name], "mine.py", None)
    tifffile.imwrite("far.tif", np.ones((9, 9, 9), np.uint8), metadata={"spacing_nm": 50_000})
    with pytest.raises(UserError, match="far.tif: voxels of 50000 x .*confirm this one, as --voxel-size=Z,Y,X"):
        init(["far.tif"], None, None)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "cell.tif", tmp_path / "far.tif"}
