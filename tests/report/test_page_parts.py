"""What a page shows of volume and model: bounded reads, features, reconstructions, the record of the stages."""

import types
import xml.etree.ElementTree

import numpy as np
import pytest

from his4mae_jax.clustering.centres import Centres
from his4mae_jax.clustering.choice import Choice
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.grid import values_at
from his4mae_jax.report.html import features, gallery, record, sections, slices
from his4mae_jax.report.html.features import Features

GREY = Contrast(0.0, 255.0)


class Pages:
    """A stack that is decoded page by page, and counts them."""

    def __init__(self, array, origin_nm=(0.0, 0.0, 0.0), size=(10.0, 10.0, 10.0)):
        self.array, self.name, self.shape, self.dtype = array, "stack.tif", array.shape, array.dtype
        self.voxel_size_nm, self.origin_nm = size, origin_nm
        self.chunks, self.decoded = (1, *array.shape[1:]), 0

    def read(self, box):
        self.decoded += box[0].stop - box[0].start
        return self.array[box].copy()


def test_few_pages_of_a_large_compressed_stack_are_decoded(monkeypatch):
    monkeypatch.setattr(slices, "WHOLE_PAGES", 0)
    monkeypatch.setattr(slices, "PLANES", 5)
    z, y, x = np.indices((40, 12, 10))
    image, labels = Pages((6 * z).astype(np.uint8)), Pages(((z // 20) + 1).astype(np.uint8))
    read = slices.read(image, labels, None, GREY, lambda line: None)
    assert image.decoded == 24 + 2 * 5
    across_y = next(each for each in read if each.axis == 1)
    assert across_y.grey.shape == across_y.labels.shape == (5, 10)
    assert across_y.grey[:, 0] == pytest.approx(np.array([4, 12, 20, 28, 36]) * 6 / 255)
    assert across_y.labels[:, 0].tolist() == [1, 1, 2, 2, 2]


def test_labels_and_truth_of_other_grids_lie_where_the_image_does():
    image = Pages(np.zeros((8, 8, 8), np.uint8))
    halves = np.ones((4, 4, 4), np.uint8)
    halves[2:] = 2
    labels = Pages(halves, (5.0, 5.0, 5.0), (20.0, 20.0, 20.0))  # voxels twice as long, of the same corner
    read = slices.read(image, labels, image, GREY, lambda line: None)
    assert [int(each.labels[0, 0]) for each in read if each.axis == 0] == [1] * 4 + [2] * 4
    at = np.array([[3, 0, 0], [4, 7, 7]])
    assert values_at(labels, image, at, np.zeros(2, int)).tolist() == [1, 2]


def sample():
    """Ten voxels of two labels on a line; features grow along it."""
    index = np.stack([np.arange(10) * 8, np.zeros(10, int), np.zeros(10, int)], axis=1)
    label = np.repeat([1, 2], 5)
    z = np.stack([np.arange(10.0), np.zeros(10)], axis=1).astype(np.float32)
    return Features(index, np.zeros(10, int), label, z)


def test_typical_voxels_are_nearest_to_the_centre_and_apart(monkeypatch):
    monkeypatch.setattr(features, "TYPICAL", 1.0)
    centres = Centres(np.array([[1.0, 0.0], [9.0, 0.0]], np.float32), np.eye(2, dtype=np.float32))
    found = features.typical(sample(), centres, 1, 2, 16)
    assert found[:, 0].tolist() == [8, 24]  # the centre, and the next that is not beside it
    assert len(features.typical(sample(), centres, 2, 9, 16)) == 5  # closer ones where there are no others
    assert not len(features.typical(sample(), centres, 3, 2, 16))
    monkeypatch.setattr(features, "TYPICAL", 0.4)
    assert features.typical(sample(), centres, 1, 2, 16)[:, 0].tolist() == [8, 0]  # far ones are not typical


def test_the_plane_is_that_of_most_variance():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 5)) * [1, 10, 0.1, 5, 0.1]
    plane, share, axes = features.principal_plane(z)
    assert np.abs(axes).argmax(axis=0).tolist() == [1, 3] and share[0] > share[1] > 0.1
    assert plane.std(axis=0) == pytest.approx([10, 5], rel=0.2)


def test_boxes_are_chosen_so_that_rare_labels_are_seen():
    counts = [np.array([100, 0, 0]) for _ in range(50)]
    counts[7], counts[40] = np.array([90, 10, 0]), np.array([99, 0, 1])
    chosen = features._varied(counts)
    assert {7, 40} <= set(chosen) and len(chosen) == features.BOXES
    assert features._varied([np.zeros(3, int)] * 4) == []


def test_pieces_are_connected_through_faces():
    block = np.zeros((6, 6, 6), np.uint8)
    block[0, 0, :4], block[2, 2, 2], block[3, 3, 3] = 1, 1, 1
    labels = Pages(block)
    found = gallery.pieces(labels, [1, 2])
    assert found == {1: gallery.Pieces(3, 4000.0, 4000.0)}


def test_what_was_kept_is_of_the_same_run_or_not_taken(tmp_path):
    record.keep(tmp_path, features.FILE, {"step": 1}, a=np.arange(3))
    assert record.kept(tmp_path, features.FILE, {"step": 1})["a"].tolist() == [0, 1, 2]
    assert record.kept(tmp_path, features.FILE, {"step": 2}) is None
    (tmp_path / "report" / features.FILE).write_bytes(b"cut short")
    assert record.kept(tmp_path, features.FILE, {"step": 1}) is None


def test_a_stage_that_did_nothing_keeps_its_record(tmp_path):
    record.note_stage(tmp_path, "train", 12.0, 40)
    record.note_stage(tmp_path, "train", 0.1, 40)
    record.note_stage(tmp_path, "name", 1.0)
    stages = record.stages(tmp_path)
    assert stages["train"]["seconds"] == 12.0 and stages["name"]["seconds"] == 1.0
    assert "CPU" in stages["train"]["device"] and "jax" in stages["train"]["versions"]


def test_points_are_drawn_once_in_the_colour_of_their_label():
    text = features.section(sample(), None, {1: "a <b>", 2: "c"}, {1: "#111111", 2: "#222222"}, None)
    assert text.count("<path") == 2 and "a &lt;b&gt;" in text and "<b>" not in text
    looks = types.SimpleNamespace(text=features.section(None, None, {}, {}, None))
    assert "his4mae report" in looks.text


def test_the_curve_over_numbers_of_clusters():
    found = Choice((2, 3, 4), (0.95, 0.92, 0.4), (0.97, 0.95, 0.6), (-3.0, -2.5, -2.4))
    text = sections.choice(found, 4)
    svg = xml.etree.ElementTree.fromstring(f"<div>{text}</div>").findall(".//svg")
    assert len(svg) == 2 and [len(chart.findall("polyline")) for chart in svg] == [2, 1]
    weakest = svg[0].find("polyline").get("points").split()
    heights = [float(point.partition(",")[2]) for point in weakest]
    assert heights[0] < heights[1] < heights[2]  # SVG counts down
    assert "up to 3 clusters are found again" in text and "weakest of the 4 clusters shown has 0.40" in text
    assert "weakest of" not in sections.choice(found, 3)
    assert "compare_clusters" in sections.choice(None, 3)
    one = sections.choice(Choice((2,), (0.1,), (0.2,), (-1.0,)), 7)
    assert "no number of clusters is found again" in one
