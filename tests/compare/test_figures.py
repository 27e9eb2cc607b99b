"""A comparison's figures: what is drawn from its runs, and that runs that are not there are told and left out."""

import json
import sys

import jax
import ml_collections
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from outputs import outputs

from his4mae_jax import palette
from his4mae_jax.clustering import centres
from his4mae_jax.compare import features_umap
from his4mae_jax.compare import figures as comparison
from his4mae_jax.compare.rows import plan
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.errors import UserError
from his4mae_jax.training.run.checkpoints import Checkpoints
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.settings import StepSettings
from his4mae_jax.workdir import volume_folder

ROWS = (
    ("HiS4MAE", ()),
    ("not run", ("train.lr=1e-3",)),
    ("K = 12", ("codebook.size=12",)),
    ("MAESTER", ("method=maester",)),
    ("ViT", ("method=vit",)),
)
SHAPE = (24, 28, 32)
CONTRAST = {"low": 0.0, "high": 255.0, "invert": False}


@pytest.fixture
def truth():
    """Three classes in boxes, the last columns not annotated."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:20, 4:16, 4:16] = 1
    labels[10:20, 18:26, 4:26] = 2
    labels[:, :, 28:] = 255
    return labels


@pytest.fixture
def config(tmp_path, tiny, truth):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, SHAPE).astype(np.uint8)
    for name, array in (("image", image), ("truth", truth)):
        ome_zarr.create(tmp_path / f"{name}.ome.zarr", SHAPE, np.uint8, 10).write(array).result()
    tiny.data.train, tiny.data.train_labels = ("train.tif",), ("train_labels.tif",)
    tiny.data.test, tiny.data.test_labels = (str(tmp_path / f"{name}.ome.zarr") for name in ("image", "truth"))
    tiny.data.class_names = ("rest", "nucleus", "granules")
    tiny.segment.stride, tiny.segment.clusters, tiny.segment.axes = 10, 4, "zx"
    tiny.compare.rows, tiny.compare.seeds = ROWS, (0, 1)
    return tiny


def finish(run, labels, dsc, steps=(10, 20)):
    """Writes what a finished run leaves behind, but for checkpoints."""
    volume_folder(run.folder, run.settings["data"]["test"], create=True)
    clusters = 3 if run.settings["method"] == "vit" else 4
    one = {"one_to_one": {"rest": 0.5, "nucleus": dsc, "granules": None, "mean": dsc}}
    curve = [{"step": step, "dsc": {"one_to_one": {"mean": dsc * step / 20}}} for step in steps]
    (run.folder / "row.json").write_text(json.dumps(run.settings))
    (run.outputs / "metrics.json").write_text(json.dumps({"clusters": clusters, "dsc": one, "curve": curve}))
    facts = {"volume": run.settings["data"]["test"], "step": 20, "clusters": [clusters], "what": {"first_label": 1}}
    (run.outputs / "segment.json").write_text(json.dumps(facts))
    with open(run.folder / "train.jsonl", "w") as file:
        for step in (4, 8):
            entry = {"step": step, "loss_recon": (1 + run.seed) / step}
            if run.settings["method"] == "his4mae":
                entry |= {"perplexity": 2.0 + run.seed, "dead_fraction": 0.25}
            file.write(json.dumps(entry) + "\n")
    ome_zarr.create(run.outputs / "labels.ome.zarr", SHAPE, np.uint8, 10).write(labels).result()
    eye = np.eye(clusters, dtype=np.float32)
    centres.save(run.outputs / "centres.npz", {clusters: centres.Centres(eye, eye)}, contrast=CONTRAST)


@pytest.fixture
def workdir(tmp_path, config, truth):
    """All rows but one are finished, MAESTER with one seed only, and number their clusters in their own ways."""
    swapped = np.where(truth == 255, 1, np.array([4, 1, 2], np.uint8)[np.minimum(truth, 2)])
    swapped[10, 20, 20] = 3  # a cluster that is left over
    folder = tmp_path / "compare"
    scores = {"HiS4MAE": (0.8, 0.9), "K = 12": (0.7, 0.4), "MAESTER": (0.6,), "ViT": (0.9, 0.9)}
    for run in plan(config, folder):
        if run.seed < len(scores.get(run.name, ())):
            finish(
                run, np.where(truth == 255, 0, 1 + truth) if run.name == "ViT" else swapped, scores[run.name][run.seed]
            )
    return folder


def draw(config, workdir, *figures):
    config.compare.figures = figures
    said = []
    return [path.name for path in comparison.draw(config, workdir, said.append)], said


def test_slices_show_each_finished_row_in_the_colours_of_its_classes(config, workdir, drawn):
    made, said = draw(config, workdir, "slices")
    assert made == ["slices_z.png", "slices_x.png"]
    assert sorted(made) == sorted(path.name for path in (workdir / "figures").iterdir())
    assert any("not run without seed 0, 1" in line for line in said)
    assert any("MAESTER without seed 1" in line for line in said)
    figure = drawn[0]
    rows = [ax.get_ylabel() for ax in figure.axes[::3]]
    assert [row.split("\n")[0] for row in rows] == ["image", "ground truth", "HiS4MAE", "K = 12", "MAESTER", "ViT"]
    assert rows[2].endswith("DSC 1.000, seed 0")  # but for one voxel all are right
    assert [ax.get_title() for ax in figure.axes[:3]] == ["z = 6 (25 %)", "z = 12 (50 %)", "z = 18 (75 %)"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["rest", "nucleus", "granules"]
    for column in range(3):
        overlays = [ax.images[1].get_array() for ax in figure.axes[3 + column :: 3]]
        for overlay in overlays[1:]:  # the numbers of the clusters are another matter
            np.testing.assert_array_equal(overlay, overlays[0])
    high, wide = overlays[0].shape[:2]
    nucleus = overlays[0][int(high * 10.5 / 28), int(wide * 10.5 / 32)]
    assert tuple(nucleus[:3]) == pytest.approx(to_rgb(palette.colour(2)))
    assert (overlays[-1][:, int(wide * 30 / 32) :, 3] == 0).all()  # predicted there, too, but not scored


def test_a_cluster_of_no_class_is_outlined_and_in_the_key(config, workdir, drawn, truth):
    (outputs(workdir / "his4mae" / "seed0") / "labels.ome.zarr").rename(workdir / "gone")  # and a row without labels
    labels = 1 + np.where(truth == 255, 0, truth)
    labels[:, 2:4, :10] = 4
    path = outputs(workdir / "maester" / "seed0") / "labels.ome.zarr"
    ome_zarr.create(path, SHAPE, np.uint8, 10, overwrite=True).write(labels).result()
    _, said = draw(config, workdir, "slices")
    assert any("without HiS4MAE" in line and "labels.ome.zarr" in line for line in said)
    figure = drawn[0]
    assert [ax.get_ylabel().split("\n")[0] for ax in figure.axes[6::3]] == ["K = 12", "MAESTER", "ViT"]
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1] == "cluster of no class"
    overlay = figure.axes[9].images[1].get_array()
    high, wide = overlay.shape[:2]
    edge, middle = (overlay[int(high * 2.02 / 28) : int(high * y / 28), int(wide * 5 / 32), 3] for y in (2.2, 3.0))
    assert edge.max() > 0.9 and middle.min() < 0.15
    assert tuple(overlay[int(high * 3 / 28), int(wide * 5 / 32), :3]) == pytest.approx(to_rgb(palette.colour(4)))


def test_curves_are_means_over_the_seeds_with_their_range(config, workdir, drawn):
    made, said = draw(config, workdir, "curves")
    assert made == ["curves.png", "codebook_health.png"]
    dsc, loss = drawn[0].axes
    assert [line.get_label() for line in dsc.lines] == ["HiS4MAE", "K = 12", "MAESTER", "ViT"]
    x, y = dsc.lines[0].get_data()
    assert list(x) == [10, 20] and list(y) == pytest.approx([0.425, 0.85])
    at_20 = {tuple(point) for point in np.round(dsc.collections[0].get_paths()[0].vertices, 6) if point[0] == 20}
    assert {y for _, y in at_20} == {0.8, 0.9}
    assert len(dsc.collections) == 3  # MAESTER has one seed, hence no band
    assert list(loss.lines[0].get_ydata()) == pytest.approx([1.5 / 4, 1.5 / 8])
    assert len({line.get_color() for line in dsc.lines}) == 4
    perplexity, dead = drawn[1].axes
    assert [line.get_label() for line in perplexity.lines] == ["HiS4MAE", "K = 12"]
    assert list(perplexity.lines[0].get_xdata()) == [1, 2]  # epochs of 4 steps
    assert list(perplexity.lines[0].get_ydata()) == [2.5, 2.5] and list(dead.lines[0].get_ydata()) == [0.25, 0.25]


def test_rows_keep_their_looks_while_others_are_missing(config, workdir, drawn):
    draw(config, workdir, "curves")
    (outputs(workdir / "his4mae" / "seed0") / "metrics.json").unlink()
    (outputs(workdir / "his4mae" / "seed1") / "metrics.json").unlink()
    draw(config, workdir, "curves")
    before, after = ({line.get_label(): line.get_color() for line in f.axes[0].lines} for f in (drawn[0], drawn[2]))
    assert "HiS4MAE" in before and "HiS4MAE" not in after
    assert after == {name: before[name] for name in after}


def test_one_training_is_drawn_once(config, workdir, drawn, truth):
    config.compare.rows = (*ROWS, ("C = 5", ("segment.clusters=5",)))
    for run in plan(config, workdir):
        if run.name == "C = 5":
            finish(run, truth, 0.5)
    _, said = draw(config, workdir, "curves")
    assert any("C = 5: its training is that of HiS4MAE" in line for line in said)
    assert "C = 5" in [line.get_label() for line in drawn[0].axes[0].lines]
    assert "C = 5" not in [line.get_label() for ax in (drawn[0].axes[1], *drawn[1].axes) for line in ax.lines]


def test_codebook_sizes_have_mean_spread_and_seeds(config, workdir, drawn):
    made, said = draw(config, workdir, "codebook")
    assert made == ["codebook_size.png"]
    mean, classes = drawn[0].axes
    x, y = mean.lines[0].get_data()
    assert list(x) == [6, 12] and list(y) == pytest.approx([0.85, 0.55])
    ends = np.array(mean.collections[0].get_segments())[:, :, 1]
    np.testing.assert_allclose(np.ptp(ends, axis=1) / 2, [np.std([0.8, 0.9], ddof=1), np.std([0.7, 0.4], ddof=1)])
    seeds = next(line for line in mean.lines if len(line.get_xdata()) == 4)
    assert sorted(seeds.get_ydata()) == [0.4, 0.7, 0.8, 0.9]
    assert mean.get_xscale() == "log" and mean.xaxis.get_major_formatter()(12, 0) == "12"
    assert [text.get_text() for text in classes.get_legend().get_texts()] == ["rest", "nucleus"]  # granules: absent
    assert any("without MAESTER" in line for line in said)


def test_rows_that_differ_in_more_than_the_codebook_are_not_one_line(config, workdir):
    config.compare.rows = tuple(
        (name, (*changes, "objective.alpha=0.5") if name == "K = 12" else changes) for name, changes in ROWS
    )
    for run in plan(config, workdir):
        if run.name == "K = 12":
            (run.folder / "row.json").write_text(json.dumps(run.settings))
    made, said = draw(config, workdir, "codebook")
    assert made == [] and any("K = 12" in line for line in said)


def test_nothing_finished_is_no_error(config, tmp_path):
    made, said = draw(config, tmp_path / "new", "slices", "curves", "codebook")
    assert made == [] and not (tmp_path / "new").exists()
    assert sum("nothing to draw yet" in line for line in said) == 3
    assert sum("not finished" in line for line in said) == len(ROWS)


def save_checkpoint(run):
    """An untrained model as the run's only checkpoint."""
    config = ml_collections.ConfigDict(run.settings)
    state = jax.jit(lambda: states.create(StepSettings.from_config(config)))()
    checkpoints = Checkpoints(run.folder, config)
    checkpoints.save(20, state, {"config": run.settings, "seconds": 0, "voxel_size_nm": 10})
    checkpoints.close()


def test_umap_takes_each_rows_features_once(config, workdir, drawn, monkeypatch, truth):
    config.compare.rows = (*ROWS, ("C = 5", ("segment.clusters=5",)))
    runs = {(run.name, run.seed): run for run in plan(config, workdir)}
    finish(runs["C = 5", 0], truth, 0.5)
    save_checkpoint(runs["HiS4MAE", 0])
    save_checkpoint(runs["MAESTER", 0])
    embedded = []
    monkeypatch.setattr(features_umap, "embed", lambda z_MxD, seed: embedded.append(z_MxD) or z_MxD[:, :2])
    made, said = draw(config, workdir, "umap")
    assert made == ["umap.png"]
    first, second = drawn[0].axes
    assert [first.get_title(), second.get_title()] == ["HiS4MAE", "MAESTER"]
    assert [z.shape for z in embedded] == [(5000, 8)] * 2
    for name, why in (("ViT", "classes"), ("K = 12", "no checkpoint"), ("C = 5", "those of HiS4MAE")):
        assert any(f"without {name}" in line and why in line for line in said), said
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["rest", "nucleus", "granules"]
    # One dot for each voxel, of its class's colour: the rest is what there is most of.
    colours = [tuple(c) for c in first.collections[0].get_facecolors()[:, :3]]
    assert len(colours) == 5000 and max(set(colours), key=colours.count) == pytest.approx(to_rgb(palette.colour(1)))


def test_missing_umap_is_told_after_all_other_pictures(config, workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    config.compare.figures = ("umap", "codebook")
    with pytest.raises(UserError, match=r"pip install 'his4mae_jax\[umap\]'"):
        comparison.check(config)
    save_checkpoint(next(run for run in plan(config, workdir) if run.name == "MAESTER"))
    with pytest.raises(UserError, match="umap-learn"):
        comparison.draw(config, workdir, lambda text: None)
    assert [path.name for path in (workdir / "figures").iterdir()] == ["codebook_size.png"]
    config.compare.figures = ("codebook",)
    comparison.check(config)
