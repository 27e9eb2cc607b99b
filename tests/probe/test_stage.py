"""`his4mae probe` on a trained workdir, then `his4mae segment`: named labels; and bad input, which replaces nothing."""

import csv
import json
import shutil

import numpy as np
import pytest
import scipy.ndimage
from outputs import outputs
from tiny_config import tiny_config

import his4mae_jax
from his4mae_jax.cli import stages
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.inference.tile_computation import TileComputation

SHAPE, VOXEL_NM = (24, 56, 64), 8.0
EVERYTHING = (slice(None),) * 3
HEADER = "z,y,x,class\n"
LABELS = "volumes/cell/labels.ome.zarr"


def small_config():
    c = tiny_config()
    c.train.steps, c.train.log_every = 2, 2
    c.segment.stride, c.segment.axes, c.segment.fraction, c.segment.clusters = 10, "z", 0.02, 3
    c.segment.batch_fovs, c.segment.restarts, c.segment.pyramid = 16, 2, False
    c.probe.folds, c.report.after_stages = 2, False
    return c


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a tissue whose first 8 columns are padding, and of a training on it."""
    folder = tmp_path_factory.mktemp("trained")
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 1.5)
    image = np.uint8(np.clip(127 + 300 * noise, 1, 255))
    image[:, :, :8] = 0
    ome_zarr.create(folder / "cell.ome.zarr", SHAPE, np.uint8, VOXEL_NM, chunks=(16, 16, 16)).write(image).result()
    his4mae_jax.train(folder / "cell.ome.zarr", small_config(), workdir=folder / "run", log=lambda line: None)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """Function: carries out a mode in a copy of the workdir, with `probe.` and `segment.` settings."""
    shutil.copytree(trained / "run", tmp_path / "run")

    def carry_out(mode, workdir=tmp_path / "run", **settings):
        config = small_config()
        config.data.test = str(trained / "cell.ome.zarr")
        config.data.train = (config.data.test,)
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
        stages.run(config, workdir, mode)
        return workdir

    return carry_out


@pytest.fixture
def points(tmp_path):
    """Function: writes a table of points and returns its path."""

    def write(text):
        (tmp_path / "points.csv").write_text(text)
        return str(tmp_path / "points.csv")

    return write


def some(name, count=12, seed=0):
    rng = np.random.default_rng(seed)
    return "".join(f"{rng.integers(24)},{rng.integers(56)},{rng.integers(8, 64)},{name}\n" for _ in range(count))


def names_of(labels):
    properties = ome_zarr.read_group(labels)[1]["image-label"]["properties"]
    return [p["name"] for p in sorted(properties, key=lambda p: p["label-value"]) if p["label-value"]]


def test_points_become_named_labels(run, points, capsys):
    path = points(HEADER + some("mitochondria", 6) + some("background", 30, seed=1))
    workdir = run("probe", probe__labels=path)
    printed = "".join(capsys.readouterr())
    assert "6 of mitochondria, 30 of background" in printed and "label more of them first" in printed
    assert centre_files.class_names(workdir / "probe.npz") == ("mitochondria", "background")
    rows = list(csv.DictReader((workdir / "suggest.csv").read_text().splitlines()))
    assert len(rows) == 30 and all(
        row["class"] == "" and row["guess"] in ("mitochondria", "background") for row in rows
    )
    assert all(int(row["x"]) >= 8 for row in rows)  # not in padding
    run("segment", segment__centres="probe")
    labels = outputs(workdir) / "labels.ome.zarr"
    assert names_of(labels) == ["mitochondria", "background"]
    values = open_volume(labels, image=False).read(EVERYTHING)
    assert not values[:, :, :8].any() and set(np.unique(values[:, :, 8:])) == {1, 2}
    # `suggest.csv` of the probe itself is replaced; one with classes filled in is somebody's labels.
    run("probe", probe__labels=path)
    text = (workdir / "suggest.csv").read_text().replace(",,", ",background,", 1)
    (workdir / "suggest.csv").write_text(text)
    before = (workdir / "probe.npz").read_bytes()
    with pytest.raises(UserError, match="has classes filled in"):
        run("probe", probe__labels=path)
    assert (workdir / "suggest.csv").read_text() == text and (workdir / "probe.npz").read_bytes() == before


def test_a_sparse_label_volume_and_a_hidden_layer(run, label_volume, trained):
    sparse = np.zeros(SHAPE, np.uint8)
    sparse[4:8, 20:24, 30:34], sparse[15:18, 40:44, 12:16] = 1, 2
    path = label_volume(sparse, "sparse.ome.zarr", size=(8, 8, 8), names={1: "rest", 2: "golgi"})
    workdir = run("probe", probe__labels=str(path), probe__hidden=4)
    assert centre_files.load(workdir / "probe.npz")[0][2].hidden is not None
    run("segment", segment__centres="probe")
    assert names_of(outputs(workdir) / "labels.ome.zarr") == ["rest", "golgi"]


def test_clusters_without_labels_stay(run, points, capsys):
    workdir = run("segment")
    clusters = open_volume(outputs(workdir) / "labels.ome.zarr", image=False).read(EVERYTHING)
    inside = np.argwhere(clusters == 2)
    inside = inside[np.random.default_rng(0).choice(len(inside), 25, replace=False)]
    path = points(HEADER + "".join(f"{z},{y},{x},golgi\n" for z, y, x in inside))
    with pytest.raises(UserError, match="all labels are 'golgi'"):
        run("probe", probe__labels=path)
    run("probe", probe__labels=path, probe__keep_clusters=3)
    assert "kept as they are: clusters 1, 3" in "".join(capsys.readouterr())
    run("segment", segment__centres="probe")
    assert names_of(outputs(workdir) / "labels.ome.zarr") == ["golgi", "cluster 1", "cluster 3"]
    labels = open_volume(outputs(workdir) / "labels.ome.zarr", image=False).read(EVERYTHING)
    same = np.array([0, 2, 1, 3])[clusters]  # golgi in place of cluster 2
    assert (labels == same)[:, :, 8:].mean() > 0.7


def test_one_command_fits_and_labels(run, points, tmp_path):
    path = points(HEADER + some("a") + some("b", seed=1))
    workdir = run("probe", probe__labels=path)
    run("segment", segment__centres="probe")
    two = open_volume(workdir / LABELS, image=False).read(EVERYTHING)
    shutil.rmtree(workdir / "volumes")
    run("probe", probe__labels=path, probe__segment=True, report__after_stages=True)
    np.testing.assert_array_equal(open_volume(workdir / LABELS, image=False).read(EVERYTHING), two)
    assert names_of(workdir / LABELS) == ["a", "b"]
    assert (workdir / "report" / "index.html").exists()


def test_kept_features_are_labelled_without_encoding(run, points, monkeypatch, tmp_path):
    path = points(HEADER + some("a") + some("b", seed=1))
    workdir = run("probe", probe__labels=path)
    run("segment", segment__centres="probe")
    direct = open_volume(workdir / LABELS, image=False).read(EVERYTHING)
    run("probe", probe__labels=path, segment__keep_features=True)
    assert (workdir / "volumes" / "cell" / "features.zarr" / "zarr.json").exists()

    def encodes(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(TileComputation, "_lattices", encodes)
    run("probe", probe__labels=path, segment__keep_features=True)
    run("segment", segment__centres="probe", segment__keep_features=True)
    labels = open_volume(workdir / LABELS, image=False).read(EVERYTHING)
    assert (labels == direct).mean() > 0.95  # float16, and a classifier that was fitted on them
    assert not labels[:, :, :8].any()
    with pytest.raises(UserError, match=r"segment.keep_features .*False when segment.inference is .cover."):
        run("segment", segment__keep_features=True, segment__inference="cover")


def test_clusters_to_keep_must_be_there(run, points):
    path = points(HEADER + some("a", 5) + some("b", 5, 1))
    with pytest.raises(UserError, match="centres.npz: not there, and probe.keep_clusters is 3"):
        run("probe", probe__labels=path, probe__keep_clusters=3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HEADER + "1,9,9,a\n2,9,9,a\n", "all labels are 'a'"),
        (HEADER + "1,9,9,a\n2,9,64,b\n", "line 3: voxel (2, 9, 64) is outside the image"),
        (HEADER + "1,9,9,a\n2,9,3,b\n", "line 3: voxel (2, 9, 3) is in the padding"),
        ("p,q,r,class\n1,9,9,a\n", "none are coordinates"),
        ("z,y,x,p,q\n1,9,9,a,b\n", "name that column 'class'"),
    ],
)
def test_bad_points_replace_nothing(run, points, tmp_path, text, says):
    files = {"probe.npz": None, "suggest.csv": "z,y,x,class,guess,probability\n1,2,9,,a,0.5\n"}
    workdir = tmp_path / "run"
    eye = np.eye(2, dtype=np.float32)
    centre_files.save(workdir / "probe.npz", {2: centre_files.Classes(("x", "y"), eye, eye[0])}, probe=True)
    (workdir / "suggest.csv").write_text(files["suggest.csv"])
    before = {name: (workdir / name).read_bytes() for name in files}
    path = points(text)
    with pytest.raises(UserError) as error:
        run("probe", probe__labels=path)
    assert says in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
    assert {name: (workdir / name).read_bytes() for name in files} == before
    assert not list(workdir.glob("*.partial"))


def test_labels_of_another_shape_and_a_missing_probe(run, label_volume, tmp_path):
    path = label_volume(np.ones((4, 4, 4), np.uint8), "other.ome.zarr", size=(8, 8, 8))
    with pytest.raises(UserError, match="labels of 4 x 4 x 4 voxels .* do not fit the image"):
        run("probe", probe__labels=str(path))
    with pytest.raises(UserError, match="probe.labels is empty"):
        run("probe")
    with pytest.raises(UserError, match="run `his4mae probe` first"):
        run("segment", segment__centres="probe")
    (tmp_path / "run" / "probe.npz").write_text("mine")
    with pytest.raises(UserError, match="probe.npz: damaged, or not a centres file"):
        run("probe", probe__labels=str(path))
    assert (tmp_path / "run" / "probe.npz").read_text() == "mine"


def test_a_probe_of_another_checkpoint_is_refused(run, points, tmp_path):
    workdir = run("probe", probe__labels=points(HEADER + some("a") + some("b", seed=1)))
    with np.load(workdir / "probe.npz") as data:
        arrays = dict(data)
    arrays["facts"] = json.dumps({**json.loads(str(arrays["facts"])), "encoder_digest": "other"})
    np.savez(workdir / "probe.npz", **arrays)
    with pytest.raises(UserError, match="another checkpoint or encoder"):
        run("segment", segment__centres="probe")
