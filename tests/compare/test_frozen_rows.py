"""A row with a frozen encoder: checked before any training, not trained, and named as what it is."""

import json

import pytest
import tiny_onnx

from his4mae_jax.compare import rows, run, tables
from his4mae_jax.errors import UserError
from his4mae_jax.workdir import volume_folder


@pytest.fixture
def config(tiny, tmp_path):
    """A comparison of a method with an encoder that is not trained."""
    tiny.data.train, tiny.data.test, tiny.data.test_labels = ("cell.zarr",), "cell.zarr", "truth.zarr"
    tiny.segment.stride, tiny.compare.seeds = 10, (0,)
    own = (f"segment.encoder_file={tmp_path / 'encoder.yaml'}", "segment.stride=4")
    tiny.compare.rows = (("HiS4MAE", ()), ("DINO", own))
    return tiny


def test_its_files_are_looked_at_before_any_row_is_trained(config, tmp_path):
    with pytest.raises(UserError, match="compare row 'DINO': .*encoder.yaml: not there"):
        rows.plan(config, tmp_path / "table")
    tiny_onnx.write(tmp_path)
    assert [r.name for r in rows.plan(config, tmp_path / "table")] == ["HiS4MAE", "DINO"]
    tiny_onnx.describe(tmp_path, voxels_per_patch=3)
    with pytest.raises(UserError, match="compare row 'DINO': config key segment.stride is 4"):
        rows.plan(config, tmp_path / "table")


def test_it_takes_no_training_and_says_so_in_the_table(config, tmp_path, monkeypatch):
    tiny_onnx.write(tmp_path)
    trained, frozen = rows.plan(config, tmp_path / "table")
    (trained.folder / "checkpoints" / "20").mkdir(parents=True)
    scores = {"mean": 0.5, "cell": 0.5}
    metrics = {"clusters": 4, "dsc": {"one_to_one": scores, "many_to_one": scores}, "seconds": {}, "by_clusters": {}}

    def execute(command, log):
        for name, content in (("metrics", metrics), ("segment", {"fovs": 12})):
            outputs = volume_folder(frozen.folder, "cell.zarr", create=True)
            (outputs / f"{name}.json").write_text(json.dumps(content))
        return run.process.Usage(0, 1.0, 1.0, False)

    monkeypatch.setattr(run.process, "execute", execute)
    assert run.perform(frozen, [trained], "1 x cpu") is None
    assert not (frozen.folder / "checkpoints").exists()
    _, row = tables.collect(tmp_path / "table", rows.named_rows(config), (0,))
    assert row["method"] == "encoder" and row["steps"] is None and row["same_training_as"] is None
    assert "| DINO" in tables.write(tmp_path / "table", [row])
