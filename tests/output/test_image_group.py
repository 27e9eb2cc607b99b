"""The image and its labels as one OME-Zarr group, as viewers' own reader finds them."""

import pathlib
import shutil

import numpy as np
import pytest

from his4mae_jax import config as configs
from his4mae_jax.data.ome_zarr.group import list_labels, listed_labels
from his4mae_jax.output.outputs import remove_outputs, write_outputs

NAMES = {1: "cluster 1", 2: "cluster 2", 3: "cluster 3"}
ome_zarr_reader = pytest.importorskip("ome_zarr.reader")


@pytest.fixture
def written(tmp_path, label_volume, patches, in_memory):
    """Function: writes the outputs for labels of 3 clusters; returns the image and the labels."""

    def write(version):
        c = configs.get_default()
        c.segment.outputs, c.segment.block, c.segment.ome_zarr_version = ("image",), (8, 16, 16), version
        labels = patches((12, 30, 30), 3) + 1
        image = np.random.default_rng(0).integers(1, 255, labels.shape, np.uint8)
        path = label_volume(labels, version=version, names=NAMES)
        write_outputs(c, tmp_path, in_memory(image), [path], NAMES, lambda line: None)
        return image, labels

    return write


@pytest.mark.filterwarnings("default")  # of the reader's own dependencies
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_reader_finds_the_labels_with_the_image(tmp_path, written, version):
    from ome_zarr.io import parse_url

    image, labels = written(version)
    nodes = list(ome_zarr_reader.Reader(parse_url(tmp_path / "image.ome.zarr"))())
    volumes = [np.asarray(node.data[0]) for node in nodes if node.data]
    assert len(volumes) == 2
    np.testing.assert_array_equal(volumes[0], image)
    np.testing.assert_array_equal(volumes[1], labels)
    (shown,) = [node for node in nodes if any(type(spec).__name__ == "Label" for spec in node.specs) and node.data]
    assert shown.metadata["properties"][2]["name"] == "cluster 2"  # the reader itself hides labels at first


def test_labels_are_linked_not_copied_and_stay_when_the_image_goes(tmp_path, written):
    written("0.4")
    link = tmp_path / "image.ome.zarr" / "labels" / "labels"
    assert link.is_symlink() and link.resolve() == (tmp_path / "labels.ome.zarr").resolve()
    shutil.move(tmp_path / "image.ome.zarr", tmp_path / "elsewhere")
    shutil.move(tmp_path / "elsewhere", tmp_path / "image.ome.zarr")
    assert link.exists()  # by a path from the image
    remove_outputs(tmp_path)
    assert not (tmp_path / "image.ome.zarr").exists() and (tmp_path / "labels.ome.zarr" / "0").exists()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_by_name_come_first_and_volumes_of_the_user_are_not_listed(tmp_path, written, version):
    written(version)
    (tmp_path / "labels_corrected.ome.zarr").mkdir()
    image = tmp_path / "image.ome.zarr"
    assert listed_labels(image) == ["labels"]
    list_labels(image, ["organelles", *listed_labels(image)], version)
    assert listed_labels(image) == ["organelles", "labels"]


def test_without_links_labels_are_copied(tmp_path, written, monkeypatch):
    def refused(*args, **kwargs):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.symlink", refused)
    _, labels = written("0.4")
    copy = pathlib.Path(tmp_path / "image.ome.zarr" / "labels" / "labels")
    assert not copy.is_symlink() and (copy / "0" / ".zarray").exists()
