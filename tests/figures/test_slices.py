"""Slices with labels over them: what they show, what they read, and true scale bars."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from his4mae_jax import palette
from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.figures import slices

NAMES = ["unrecognized", "nucleus", "granules"]


class ArrayVolume:
    def __init__(self, array, voxel_size_nm=(16.0, 16.0, 16.0)):
        self.array, self.name = array, "cell.tif"
        self.shape, self.dtype, self.voxel_size_nm = array.shape, array.dtype, voxel_size_nm
        self.read_voxels = 0

    def read(self, where):
        box = self.array[where]
        assert min(box.shape) == 1, "only slices may be read"
        self.read_voxels += box.size
        return box


class Grey:
    @staticmethod
    def apply(array):
        return array.astype(np.float32) / 255


@pytest.fixture
def labelled():
    shape = (12, 20, 30)
    truth = np.zeros(shape, np.uint8)
    truth[3:9, 4:16, 5:20] = 1
    truth[:, :, 28:] = IGNORE
    clusters = np.array([3, 1], np.uint8)[np.minimum(truth, 1)]
    clusters[5:7, 9:12, 14:16] = 2
    grey = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return ArrayVolume(grey), ArrayVolume(clusters), ArrayVolume(truth)


def test_slices_show_image_truth_and_prediction(tmp_path, drawn, labelled):
    image, clusters, truth = labelled
    path = tmp_path / "slices.png"
    slices.slice_overlays(image, clusters, truth, [1, None, 0], NAMES, path, contrast=Grey, title="C = 3")
    figure = drawn[0]
    assert len(figure.axes) == 9 * 3
    assert [ax.get_title() for ax in figure.axes[:3]] == ["image", "ground truth", "prediction"]
    key = [text.get_text() for text in figure.legends[0].get_texts()]
    assert key == [*NAMES, "cluster 2: no class"]
    places = [ax.get_ylabel().split("\n")[0] for ax in figure.axes[::3]]
    assert places[:3] == ["z = 3", "z = 6", "z = 9"] and places[-1] == "x = 22"
    # Ground truth and prediction show the nucleus in the same colour.
    colours = []
    for ax in figure.axes[4:6]:
        overlay = ax.images[1].get_array()
        high, wide = overlay.shape[:2]
        colours.append(overlay[int(high * 7.5 / 20), int(wide * 7.5 / 30)])
    np.testing.assert_array_equal(colours[0], colours[1])
    assert tuple(colours[0][:3]) == pytest.approx(to_rgb(palette.colour(2)))
    unannotated = figure.axes[4].images[1].get_array()[:, -1]
    assert (unannotated[:, 3] == 0).all()
    assert image.read_voxels == clusters.read_voxels == 3 * (20 * 30 + 12 * 30 + 12 * 20)
    assert imread(path).shape[1] > 1000


def test_slices_without_truth_give_each_cluster_a_colour(tmp_path, drawn, labelled):
    image, clusters, _ = labelled
    path = tmp_path / "slices.png"
    slices.slice_overlays(image, clusters, None, None, NAMES, path, contrast=Grey)
    assert len(drawn[0].axes) == 9 * 2
    key = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert key == ["cluster 1", "cluster 2", "cluster 3"]


def test_a_cluster_of_no_class_is_outlined_and_the_image_stays_visible_within():
    labels = np.ones((9, 9), np.uint8)
    labels[2:7, 2:7] = 2
    looks = {1: ("red", slices.FILLED), 2: ("blue", slices.OUTLINED)}
    alpha = slices.overlay_rgba(labels, looks, ("", ""), labels.shape)[..., 3]
    assert alpha[4, 4] < 0.15 < alpha[0, 0] and alpha[2, 4] > 0.9


def test_clusters_of_one_name_are_one_entry_of_the_key(tmp_path, drawn, labelled):
    image, clusters, _ = labelled
    names, colours = {1: "nucleus", 2: "ignore", 3: "nucleus"}, {1: "#112233", 2: "#445566", 3: "#112233"}
    slices.slice_overlays(
        image, clusters, None, None, NAMES, tmp_path / "slices.png", contrast=Grey, names=names, colours=colours,
        hidden={2},
    )  # fmt: skip
    key = drawn[0].legends[0]
    assert [text.get_text() for text in key.get_texts()] == ["nucleus"]
    assert key.get_patches()[0].get_facecolor()[:3] == pytest.approx(to_rgb("#112233"))


def test_assignment_may_name_its_classes(labelled):
    looks = {0: ("red", slices.FILLED), 1: ("blue", slices.FILLED)}
    by_name = slices.looks_by_class(["b", None, "a"], ["a", "b"], looks)
    assert by_name == slices.looks_by_class([1, None, 0], ["a", "b"], looks)
    assert by_name[1] == ("blue", slices.FILLED)
    assert by_name[2] == (palette.colour(3), slices.OUTLINED)  # a colour that neither class has


@pytest.mark.parametrize(
    "voxel_size_nm, labels",
    [((16, 16, 16), ["100 nm"] * 6 + ["50 nm"] * 3), ((50, 400, 800), ["5 µm"] * 6 + ["2 µm"] * 3)],
)
def test_scale_bars_are_true_to_the_voxel_size(tmp_path, drawn, labelled, voxel_size_nm, labels):
    image, clusters, truth = labelled
    image.voxel_size_nm = voxel_size_nm
    path = tmp_path / "slices.png"
    slices.slice_overlays(image, clusters, truth, [1, 1, 0], NAMES, path, contrast=Grey)
    bars = drawn[0].axes[::3]
    assert [ax.texts[0].get_text() for ax in bars] == labels
    for ax, label in zip(bars, labels, strict=True):
        length = float(np.ptp(ax.lines[0].get_xdata()))  # the axes are in nm
        number, unit = label.split()
        assert length == pytest.approx(float(number) * {"nm": 1, "µm": 1000}[unit])


def test_large_slices_are_reduced_and_read_in_strips(monkeypatch):
    monkeypatch.setattr(slices, "MAX_SIDE", 10)
    monkeypatch.setattr(slices, "STRIP", 200)
    array = np.random.default_rng(0).integers(0, 256, (3, 25, 33)).astype(np.uint8)
    grey = slices.read_slice(ArrayVolume(array), 0, 1, Grey.apply, average=True)
    assert grey.shape == (7, 9)
    assert grey[0, 0] == pytest.approx(array[1, :4, :4].mean() / 255, abs=1e-6)
    assert grey[-1, -1] == pytest.approx(array[1, 24:, 32:].mean() / 255, abs=1e-6)
    labels = slices.read_slice(ArrayVolume(array), 0, 1)
    np.testing.assert_array_equal(labels, array[1, ::4, ::4])


def test_of_large_slices_what_is_not_stored_is_not_read(monkeypatch):
    monkeypatch.setattr(slices, "MAX_SIDE", 16)
    monkeypatch.setattr(slices, "PART", 8)
    array = np.zeros((3, 40, 60), np.uint8)
    array[:, 8:16, 16:32] = np.random.default_rng(0).integers(1, 256, (3, 8, 16))
    whole, sparse = ArrayVolume(array), ArrayVolume(array)
    edges = tuple(np.arange(0, n + 1, side) for n, side in zip(array.shape, (3, 8, 4), strict=True))
    sparse.stored = Stored(edges, array.reshape(1, 3, 5, 8, 15, 4).any(axis=(1, 3, 5)), 0)
    for axis in range(3):
        for how in ({}, {"apply": Grey.apply, "average": True}):
            one, other = (slices.read_slice(volume, axis, 1, **how) for volume in (whole, sparse))
            np.testing.assert_array_equal(one, other)
    assert sparse.read_voxels < 0.2 * whole.read_voxels
