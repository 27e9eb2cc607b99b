"""The page of a run is written behind each stage, and a page that cannot be written stops none."""

import numpy as np
import pytest
import tifffile
from ml_collections import ConfigDict

from his4mae_jax.cli import run_page, stages
from his4mae_jax.compare import rows
from his4mae_jax.report.html import features, record


@pytest.fixture
def config(tiny, tmp_path):
    rng, truth = np.random.default_rng(0), np.zeros((22, 24, 26), np.uint8)
    truth[:, 8:16, 6:20] = 1
    tifffile.imwrite(
        tmp_path / "image.tif",
        np.where(truth, rng.integers(0, 90, truth.shape), 160 + rng.integers(0, 40, truth.shape)).astype(np.uint8),
    )
    tifffile.imwrite(tmp_path / "truth.tif", truth)
    tiny.data.train, tiny.data.test = (str(tmp_path / "image.tif"),), str(tmp_path / "image.tif")
    tiny.data.test_labels, tiny.data.class_names = str(tmp_path / "truth.tif"), ("outside", "inside")
    tiny.data.file_voxel_size_nm = (16.0, 16.0, 16.0)
    tiny.train.steps = 4
    tiny.segment.clusters, tiny.segment.fraction, tiny.segment.stride = 2, 0.05, 10
    tiny.segment.axes, tiny.evaluate.baselines = "z", ()
    return tiny


def test_pages_grow_with_the_stages(config, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    page = workdir / "report" / "index.html"
    stages.run(config, workdir, "train")
    trained = page.read_text()
    assert "Mean squared error" in trained and 'id="slices"' not in trained
    stages.run(config, workdir, "segment")
    segmented = page.read_text()
    assert 'class="scatter"' in segmented and "coloured by ground truth" in segmented
    assert "No scores of these labels" in segmented and "σ" in segmented
    monkeypatch.setattr(features, "_encode", None)  # the features are kept
    monkeypatch.setattr(features, "_umap_installed", lambda: True)
    monkeypatch.setattr(features, "embed", lambda z_MxD, seed: z_MxD[:, :2])
    stages.run(config, workdir, "report")
    assert "UMAP" in page.read_text()
    stages.run(config, workdir, "name")  # shows what was kept
    assert "UMAP" in page.read_text()
    assert set(record.stages(workdir)) == {"train", "segment", "name"}


def test_a_page_that_cannot_be_written_is_a_warning(config, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(run_page, "log", said.append)
    workdir = tmp_path / "run"
    (workdir / "report").mkdir(parents=True)
    (workdir / "report" / "index.html").write_text("mine")
    with run_page.after(config, workdir, "train"):
        (workdir / "made").touch()
    warnings = [line for line in said if line.startswith("warning")]
    assert len(warnings) == 1 and "in the way" in warnings[0]
    assert (workdir / "report" / "index.html").read_text() == "mine"


def test_rows_of_a_comparison_have_no_page(config, tmp_path):
    config.compare.rows, config.compare.seeds = (("HiS4MAE", ()),), (0,)
    (row,) = rows.plan(config, tmp_path / "table")
    assert row.settings["report"]["after_stages"] is False
    with run_page.after(ConfigDict(row.settings), tmp_path, "train"):
        pass
    assert not (tmp_path / "report").exists()
