"""--mode=inspect: what it finds, what it draws, and estimates that follow the counts."""

import json
import os

import matplotlib.image
import numpy as np
import pytest

from his4mae_jax.data import datasets
from his4mae_jax.data.ome_zarr.write import create
from his4mae_jax.errors import UserError
from his4mae_jax.models.kernels.batches import MAX_FOVS
from his4mae_jax.report import contact_sheet, estimate, inspect


@pytest.fixture
def volumes(tmp_path, tiny, monkeypatch):
    """An isotropic volume in padding, an anisotropic one, and a config that names both."""
    monkeypatch.setattr(estimate, "SECONDS", 0.0)  # one run a measurement
    rng = np.random.default_rng(0)
    padded = np.zeros((40, 50, 60), np.uint16)
    padded[5:, :44, 8:] = rng.integers(700, 900, (35, 44, 52))
    thick = rng.integers(1, 250, (12, 70, 80), np.uint8)
    for name, data, size in (("padded", padded, (8.0, 8.0, 8.0)), ("thick", thick, (40.0, 4.0, 4.0))):
        create(tmp_path / f"{name}.ome.zarr", data.shape, data.dtype, size, chunks=(16, 16, 16)).write(data).result()
    tiny.data.train = (str(tmp_path / "padded.ome.zarr"), str(tmp_path / "thick.ome.zarr"))
    tiny.data.test = tiny.data.train[0]
    tiny.data.voxel_size_nm, tiny.segment.stride, tiny.segment.axes = 8.0, 10, "zyx"
    return tiny


@pytest.fixture
def unmeasured(volumes, monkeypatch):
    """The same, with a step of half a second and 10 MB."""
    monkeypatch.setattr(estimate, "_measure", lambda *args: (0.5, 1e7))
    return volumes


def _inspect(config, folder):
    lines = []
    paths = inspect.inspect(config, folder, lines.append)
    assert all(path.exists() for path in paths)
    return json.loads((folder / "inspect" / "inspect.json").read_text()), lines


def test_facts(unmeasured, tmp_path, drawn):
    found, lines = _inspect(unmeasured, tmp_path / "run")
    assert os.listdir(tmp_path / "run") == ["inspect"]
    padded, thick = found["volumes"]
    assert padded["roles"] == "train, test" and thick["roles"] == "train"
    assert padded["content_box"] == [[5, 40], [0, 44], [8, 60]] and padded["slices_across"] == "zyx"
    assert padded["stored"] == {
        "shape": [40, 50, 60], "voxel_size_nm": [8, 8, 8], "dtype": "uint16", "bytes": 240_000, "chunks": [16, 16, 16]
    }  # fmt: skip
    assert 700 <= padded["contrast"]["low"] < 705 and 895 < padded["contrast"]["high"] < 900
    assert sum(padded["histogram"]["counts"]) == 35 * 44 * 52  # no padding
    assert len(padded["histogram"]["edges"]) == len(padded["histogram"]["counts"]) + 1 <= inspect.BINS + 2
    assert thick["shape"] == [12, 35, 40] and thick["voxel_size_nm"] == [40, 8, 8] and thick["in_plane_nm"] == 8
    assert thick["slices_across"] == "z"
    text = "\n".join(lines)
    for part in ("resampled to 12x35x40", "anisotropic: slices are taken across z only", "is [5:40, 0:44, 8:60]",
                 "the model sees 160 nm at once and 40 nm as one token",
                 "by percentiles", "training takes about", "segmenting", "fields of view"):  # fmt: skip
        assert part in text, part
    (figure,) = drawn
    titles = [ax.get_title() for sub in figure.subfigs for ax in sub.axes]
    assert titles[:3] == ["z = 22", "y = 22", "x = 34"]
    assert titles[4:7] == ["z = 6", "y = 17, not sliced", "x = 20, not sliced"]
    squares = [len(ax.patches) for sub in figure.subfigs for ax in sub.axes[:3]]
    assert squares == [4, 4, 4, 4, 0, 0]
    assert all(len(sub.axes[0].texts) == 1 for sub in figure.subfigs)  # scale bars
    image = matplotlib.image.imread(tmp_path / "run" / "inspect" / "contact_sheet.png")
    assert image.shape[1] > 1000 and 0.1 < image[..., :3].mean() < 0.99


def test_a_position_is_printed(tiny, tmp_path):
    data = np.random.default_rng(0).integers(1, 250, (24, 24, 32), np.uint8)
    create(tmp_path / "v.zarr", data.shape, data.dtype, 8.0, origin_nm=(1000, 0, -4.5)).write(data).result()
    facts, _ = inspect.look(tiny, "test", datasets.open_image(f"{tmp_path / 'v.zarr'}[:, 2:, :]", tiny))
    assert facts["stored"]["origin_nm"] == [1000, 16, -4.5]
    assert "  its first voxel lies at 1000, 16, -4.5 nm (z, y, x)" in inspect.describe(facts)
    create(tmp_path / "w.zarr", data.shape, data.dtype, 8.0).write(data).result()
    facts, _ = inspect.look(tiny, "test", datasets.open_image(str(tmp_path / "w.zarr"), tiny))
    assert not any("lies at" in line for line in inspect.describe(facts))


def test_a_lost_section_is_said_and_drawn(unmeasured, tmp_path, drawn):
    data = np.random.default_rng(0).integers(100, 200, (24, 40, 40), np.uint8)
    data[11] = 0
    create(tmp_path / "lost.ome.zarr", data.shape, data.dtype, 8.0).write(data).result()
    unmeasured.data.test = str(tmp_path / "lost.ome.zarr")
    unmeasured.data.train = (unmeasured.data.test,)
    found, lines = _inspect(unmeasured, tmp_path / "run")
    (facts,) = found["volumes"]
    assert facts["left_out"] == "z 11" and facts["contrast"]["low"] >= 100 and facts["grey"]["min"] >= 100
    assert "inspect:   lost or saturated, and left out of the window of grey levels: z 11" in lines
    (figure,) = drawn
    dashed = [[line.get_ydata()[0] for line in ax.lines if line.is_dashed()] for ax in figure.subfigs[0].axes[:3]]
    assert dashed == [[], [11.5 * 8], [11.5 * 8]]  # nm, in the planes across y and x


def test_estimates(volumes, tmp_path):
    found = _inspect(volumes, tmp_path / "run")[0]["estimate"]
    training, segmentation = found["training"], found["segmentation"]
    assert training["steps"] == 20 and training["seconds"] == pytest.approx(20 * training["seconds_per_step"])
    assert training["images_per_s"] == pytest.approx(4 / training["seconds_per_step"])
    assert training["memory_bytes"] > 240_000 + 12 * 35 * 40  # the volumes are held
    assert training["checkpoint_bytes"] > 13 * 1000
    # Slices one patch apart across each axis of the content, 35 x 44 x 52, at stride 10.
    assert segmentation["fovs"] == 7 * 4 * 5 + 9 * 3 * 5 + 11 * 3 * 4
    assert segmentation["seconds"] >= 0.999 * segmentation["fovs"] / segmentation["fovs_per_s"]
    assert segmentation["label_bytes"] == 35 * 44 * 52  # padding is not written


def test_estimates_follow_the_counts(unmeasured, tmp_path):
    found = _inspect(unmeasured, tmp_path / "run")[0]["estimate"]
    training, segmentation = found["training"], found["segmentation"]
    held = 240_000 + 12 * 35 * 40  # the volumes are kept in memory
    assert training["seconds"] == 20 * 0.5 and training["images_per_s"] == 4 / 0.5
    assert training["memory_bytes"] == 1e7 + held
    assert segmentation["fovs_per_s"] == MAX_FOVS / 0.5
    unmeasured.evaluate.clusters, unmeasured.train.steps, unmeasured.train.batch_size = (4, 6), 40, 64
    assert segmentation["feature_bytes"] == 0
    unmeasured.segment.keep_features = True
    unmeasured.data.in_memory_gb, unmeasured.train.microbatch = 0.0, 16  # 4 parts, 2 of which are measured
    more = _inspect(unmeasured, tmp_path / "run")[0]["estimate"]
    assert more["training"]["seconds"] == 40 * 0.5 * 64 / 32
    assert more["training"]["memory_bytes"] == 1e7  # not more for more parts
    assert more["segmentation"]["label_bytes"] == 2 * 35 * 44 * 52  # 4 is the headline's
    assert more["segmentation"]["feature_bytes"] == int(2 * 8 * 35 * 44 * 52 / 5**3)


def test_estimates_of_another_method(volumes, tmp_path):
    volumes.method, volumes.segment.axes = "maester", "z"
    found = _inspect(volumes, tmp_path / "run")[0]["estimate"]
    assert found["training"]["seconds"] > 0 and found["segmentation"]["fovs"] == 35 * 4 * 5


def test_a_supervised_method_without_labels_is_estimated_and_refused(volumes, tmp_path):
    volumes.method, volumes.supervised.classes, volumes.segment.axes = "segmenter", 3, "z"
    with pytest.raises(UserError, match="data.train_labels holds 0 paths for 2 volumes"):
        _inspect(volumes, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "inspect" / "inspect.json").read_text())["estimate"]
    assert found["training"]["seconds"] > 0 and found["segmentation"]["fovs"] == 35 * 4 * 5


def test_cover_stride_is_counted_as_such(unmeasured, tmp_path):
    unmeasured.segment.inference, unmeasured.data.train = "cover", ()
    found = _inspect(unmeasured, tmp_path / "run")[0]
    assert "training" not in found["estimate"] and found["volumes"][0]["roles"] == "test"
    assert found["estimate"]["segmentation"]["fovs"] > 10 * (7 * 4 * 5 + 9 * 3 * 5 + 11 * 3 * 4)


def test_one_page_for_some_rows(volumes, tmp_path, monkeypatch):
    monkeypatch.setattr(contact_sheet, "ROWS", 1)
    monkeypatch.setattr(inspect, "_estimates", lambda *args: ())
    inspect.inspect(volumes, tmp_path / "run", print)
    folder = tmp_path / "run" / "inspect"
    assert sorted(os.listdir(folder)) == ["contact_sheet.png", "contact_sheet_2.png", "inspect.json"]
    (folder / "contact_sheet_mine.png").write_bytes(b"a user's own")
    volumes.data.train = volumes.data.train[:1]
    inspect.inspect(volumes, tmp_path / "run", print)
    assert sorted(os.listdir(folder)) == ["contact_sheet.png", "contact_sheet_mine.png", "inspect.json"]


def test_an_edited_record_removes_nothing_but_pages(volumes, tmp_path, monkeypatch):
    monkeypatch.setattr(inspect, "_estimates", lambda *args: ())
    inspect.inspect(volumes, tmp_path / "run", print)
    folder = tmp_path / "run" / "inspect"
    (folder / "notes.txt").write_text("a user's own")
    (folder / "inspect.json").write_text(json.dumps({"pages": ["notes.txt", "contact_sheet_9.png"]}))
    (folder / "contact_sheet_9.png").write_bytes(b"")
    inspect.inspect(volumes, tmp_path / "run", print)
    assert sorted(os.listdir(folder)) == ["contact_sheet.png", "inspect.json", "notes.txt"]


def test_findings_are_kept_when_measuring_fails(volumes, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(estimate, "segmentation", fail)
    lines = []
    with pytest.raises(RuntimeError, match="the device is gone"):
        inspect.inspect(volumes, tmp_path / "run", lines.append)
    folder = tmp_path / "run" / "inspect"
    assert sorted(os.listdir(folder)) == ["contact_sheet.png", "inspect.json"]
    found = json.loads((folder / "inspect.json").read_text())
    assert len(found["volumes"]) == 2 and found["estimate"]["training"]["steps"] == 20
    assert any(line.endswith("contact_sheet.png") for line in lines)


def test_a_run_of_days_says_what_to_change(unmeasured, tmp_path):
    _, lines = _inspect(unmeasured, tmp_path / "run")
    assert not any("more than a day" in line for line in lines)
    unmeasured.train.steps = 10**6
    _, lines = _inspect(unmeasured, tmp_path / "run")
    assert any("more than a day: set train.steps" in line for line in lines)


def test_a_window_of_the_config(volumes):
    volumes.data.contrast_window, volumes.data.invert = (650, 850), True
    role, volume, _ = datasets.all_volumes(volumes, None)[0]
    padded, _ = inspect.look(volumes, role, volume)
    assert padded["contrast"] == {"low": 650, "high": 850, "invert": True} and padded["contrast_from"] == "window"
    assert padded["clipped"] == pytest.approx(0.245, abs=0.01)


def test_only_the_middle_of_a_large_plane_is_read(tmp_path, monkeypatch, drawn):
    class Huge:
        """A volume of terabytes."""

        name, shape, dtype, voxel_size_nm = "huge", (9000, 8000, 7000), np.dtype(np.uint8), (8.0, 8.0, 8.0)
        largest = 0

        def read(self, slices):
            sides = [s.stop - s.start for s in slices]
            self.largest = max(self.largest, int(np.prod(sides)))
            return np.random.default_rng(0).integers(0, 255, sides, np.uint8)

    volume = Huge()
    box = tuple(slice(0, n) for n in volume.shape)
    entry = contact_sheet.Entry(
        "huge", volume, box, "zyx", contact_sheet.Contrast(0, 255), np.arange(5.0), np.array([1, 2, 3, 4])
    )
    contact_sheet.contact_sheet([entry], 80, 5, tmp_path / "sheet.png")
    assert volume.largest <= contact_sheet.SHOWN**2
    assert drawn[0].subfigs[0].axes[0].get_title() == "z = 4500, middle 1024 voxels"


def test_refused(volumes, tmp_path):
    volumes.data.train, volumes.data.test = (), ""
    with pytest.raises(UserError, match="name a volume to look at"):
        inspect.inspect(volumes, tmp_path / "run", print)
    assert not (tmp_path / "run").exists()


def test_edges_of_integers_lie_between_levels():
    for values in (np.array([3, 9], np.uint8), np.array([-300, 900], np.int16), np.array([0, 65535], np.uint16)):
        edges = inspect._edges(values)
        width = np.diff(edges)
        assert (edges % 1 == 0.5).all() and (width == width[0]).all() and len(width) <= inspect.BINS + 1
        assert edges[0] < values[0] and values[1] < edges[-1] and np.histogram(values, edges)[0].sum() == 2


@pytest.fixture
def labelled(unmeasured, tmp_path):
    """The padded volume as training and test volume, with ids 0 to 2 in slabs across x."""
    labels = np.full((40, 50, 60), 255, np.uint8)
    labels[:, :, 8:30], labels[:, :, 30:50], labels[:, :, 50:] = 0, 1, 2
    path = tmp_path / "truth.ome.zarr"
    create(path, labels.shape, labels.dtype, 8.0, chunks=(16, 16, 16)).write(labels).result()
    unmeasured.data.train = unmeasured.data.train[:1]
    unmeasured.data.test_labels, unmeasured.data.class_names = str(path), ("matrix", "nucleus", "<b>$granules$")
    return unmeasured


def test_labels_are_compared_and_drawn(labelled, tmp_path, drawn):
    found, lines = _inspect(labelled, tmp_path / "run")
    (report,) = found["labels"]
    rows = [(row["id"], row["name"], row["voxels"]) for row in report["rows"]]
    assert rows == [
        (0, "matrix", 44_000),
        (1, "nucleus", 40_000),
        (2, "<b>$granules$", 20_000),
        (255, "not scored", 16_000),
    ]
    assert 600 < report["rows"][1]["mean_grey"] < 900
    assert any("1 nucleus 33 %" in line for line in lines)
    (figure,) = drawn
    images, overlays = figure.subfigs
    assert [len(ax.images) for ax in images.axes[:3]] == [1, 1, 1]
    assert [len(ax.images) for ax in overlays.axes[:3]] == [2, 2, 2]
    listed = [text.get_text() for text in overlays.axes[3].texts]
    assert listed[1].startswith("1 nucleus: 33 %, grey ") and len(listed) == 4


def test_ids_without_a_name_end_it_after_all_is_written(labelled, tmp_path):
    labelled.data.class_names = ("matrix", "nucleus")
    with pytest.raises(UserError, match="label id 2 without a name"):
        inspect.inspect(labelled, tmp_path / "run", print)
    found = json.loads((tmp_path / "run" / "inspect" / "inspect.json").read_text())
    assert found["labels"][0]["errors"] and found["estimate"]["segmentation"]
    assert (tmp_path / "run" / "inspect" / "contact_sheet.png").exists()


def test_names_without_an_id_are_reported(labelled, tmp_path):
    labelled.data.class_names = ("matrix", "nucleus", "granules", "golgi")
    _, lines = _inspect(labelled, tmp_path / "run")
    assert any("no voxel is labelled 3 (golgi)" in line for line in lines)


def test_labels_that_do_not_fit_do_not_keep_the_images_from_being_shown(labelled, tmp_path):
    labelled.data.test_labels = labelled.data.train[0] + "[0:20, :, :]"
    with pytest.raises(UserError):
        inspect.inspect(labelled, tmp_path / "run", print)
    assert (tmp_path / "run" / "inspect" / "contact_sheet.png").exists()
