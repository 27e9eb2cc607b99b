"""`his4mae export` on disk: what is written, what its readers make of it, and what is refused."""

import json
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import onnxruntime
import pytest
import yaml

from his4mae_jax.cli import other_modes, stages
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.centres import Classes
from his4mae_jax.clustering.fit import encoder_digest
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.export import graph, stage
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.workdir import volume_folder

ROOT = pathlib.Path(__file__).parents[2]
WINDOW = {"low": 40.0, "high": 200.0, "invert": True}  # of the centres
ENCODER = {"encoder.onnx", "encoder.jax", "README.md", "bioimageio.yaml", "export.json", "test_image.npy",
           "sample_image.tif"}  # fmt: skip
TOKENS = {"test_tokens.npy", "sample_tokens.tif"}
SEGMENTER = {"segmenter.onnx", "segmenter.jax"} | {
    name for key in ("scores", "labels", "token_labels") for name in (f"test_{key}.npy", f"sample_{key}.tif")
}
VALIDATE = """
import sys
from bioimageio.spec import load_description
found = load_description(sys.argv[1], perform_io_checks=True)
print(found.validation_summary.status)
print(found.validation_summary.format())
"""


def export(config, workdir):
    """Exports as the command does; the lines of the log."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other_modes, "log", said.append)
        stages.run(config, workdir, "export")
    return said


def names(folder):
    return {path.name for path in folder.iterdir()}


def validated(folder):
    """What bioimage.io's own validator says, in a process of its own: it leaves files open, which tests warn about."""
    done = subprocess.run(
        [sys.executable, "-c", VALIDATE, str(folder / "bioimageio.yaml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_an_encoder_alone(config, train):
    workdir, params = train(config)
    said = export(config, workdir)
    out = workdir / "export"
    assert names(out) == ENCODER | TOKENS and any("no centres yet" in line for line in said)
    facts = json.loads((out / "export.json").read_text())
    assert set(facts["files"]) == names(out) - {"export.json"} and facts["centres"] is None
    assert facts["input"]["pixel_nm"] == 8 and facts["onnx"]["largest_difference"] < 1e-5 and facts["step"] == 1
    # A field of view of the volume, by the window that the record gives.
    grey = open_volume(config.data.train[0]).read(np.s_[3:6, 4:24, 7:27]).astype(np.float32)
    low, high = facts["window"]["low"], facts["window"]["high"]
    fields = np.clip((grey - low) / (high - low), 0, 1)
    expected = np.asarray(make_encode(METHODS["his4mae"].build(config))(params, fields))
    (tokens,) = onnxruntime.InferenceSession(out / "encoder.onnx").run(None, {"image": fields[:, None]})
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-4)
    assert validated(out).startswith("valid-format")  # "passed" needs a maintainer on GitHub


def test_centres_make_a_segmenter(config, train, cluster):
    workdir, params = train(config)
    cluster(workdir, params, 8)
    config.export.name, config.export.authors, config.export.license = "Islet cells (mine)", ("A. Name",), "CC-BY-4.0"
    export(config, workdir)
    out = workdir / "export"
    assert names(out) == ENCODER | SEGMENTER
    said = validated(out)
    assert said.startswith("valid-format") and said.count("⚠") == 1 and "maintainers" in said, said
    described = yaml.safe_load((out / "bioimageio.yaml").read_text())
    assert (described["name"], described["license"]) == ("Islet cells (mine)", "CC-BY-4.0")
    assert described["authors"] == [{"name": "A. Name"}] and described["weights"]["onnx"]["source"] == "segmenter.onnx"
    assert described["outputs"][0]["data"]["values"] == ["not labelled", "cluster 1", "cluster 2", "cluster 3"]
    # The preprocessing that is described is the window, and the test tensors are what the model makes of it.
    session, tests = onnxruntime.InferenceSession(out / "segmenter.onnx"), {}
    for tensor in (*described["inputs"], *described["outputs"]):
        tests[tensor["id"]] = np.load(out / tensor["test_tensor"]["source"])
    x = tests["image"]
    assert x.shape == (1, 1, 20, 20) and 40 <= x.min() < x.max() <= 200
    for step in described["inputs"][0]["preprocessing"][1:]:
        k = step["kwargs"]
        x = np.clip(x, k["min"], k["max"]) if step["id"] == "clip" else x * k["gain"] + k["offset"]
    np.testing.assert_allclose(x, Contrast.from_json(WINDOW).apply(tests["image"]), atol=1e-6)
    outputs = [tensor["id"] for tensor in described["outputs"]]
    assert [o.name for o in session.get_outputs()] == outputs
    for key, value in zip(outputs, session.run(None, {"image": x.astype(np.float32)}), strict=True):
        np.testing.assert_allclose(value, tests[key], rtol=0, atol=1e-4)
    for path in out.iterdir():
        content = path.read_bytes()  # folders of this machine are nobody's business
        assert b"secret" not in content and str(ROOT).encode() not in content, path


def test_the_readme_s_examples_run(config, train, cluster, monkeypatch):
    workdir, params = train(config)
    cluster(workdir, params, 8)
    export(config, workdir)
    monkeypatch.chdir(workdir / "export")
    blocks = re.findall(r"```python\n(.*?)```", (workdir / "export" / "README.md").read_text(), re.DOTALL)
    fields = np.random.default_rng(0).random((2, 20, 20), np.float32)
    onnx, jax_ = {"fields": fields[:, None]}, {"fields": fields}
    for block, space in zip(blocks, (onnx, jax_), strict=True):
        exec(block, space)
    np.testing.assert_allclose(onnx["tokens"], jax_["tokens"], rtol=0, atol=1e-4)
    segment = jax.export.deserialize(bytearray((workdir / "export" / "segmenter.jax").read_bytes()))
    assert segment.call(fields)["labels"].shape == (2, 1, 20, 20)


def test_half_precision_is_exported_in_float32(config, train):
    config.model.dtype = "bfloat16"
    workdir, params = train(config)
    export(config, workdir)
    config.model.dtype = "float32"
    fields = np.random.default_rng(0).random((2, 20, 20), np.float32)
    expected = np.asarray(make_encode(METHODS["his4mae"].build(config))(params, fields))
    (tokens,) = onnxruntime.InferenceSession(workdir / "export" / "encoder.onnx").run(None, {"image": fields[:, None]})
    np.testing.assert_allclose(tokens, expected, rtol=0, atol=1e-4)


def test_classes_of_a_supervised_method_have_their_names(config, train, cluster):
    config.method, config.supervised.classes, config.data.class_names = "vit", 3, ("rest", "nucleus", "golgi")
    workdir, params = train(config)
    cluster(workdir, params, 3)
    export(config, workdir)
    described = yaml.safe_load((workdir / "export" / "bioimageio.yaml").read_text())
    assert described["outputs"][0]["data"]["values"] == ["not labelled", "rest", "nucleus", "golgi"]


def test_a_second_export_replaces_the_first_and_nothing_else(config, train, cluster):
    workdir, params = train(config)
    out = workdir / "export"
    export(config, workdir)
    (out / "notes.txt").write_text("mine")
    before = (out / "encoder.onnx").read_bytes()
    cluster(workdir, params, 8)
    export(config, workdir)
    assert names(out) == ENCODER | SEGMENTER | {"notes.txt"} and (out / "notes.txt").read_text() == "mine"
    assert (out / "encoder.onnx").read_bytes() == before  # equal parameters are equal files
    cluster(workdir, params, 8, digest="another encoder's")
    said = export(config, workdir)
    assert names(out) == ENCODER | TOKENS | {"notes.txt"} and any("another checkpoint" in line for line in said)


def test_files_of_the_user_are_in_the_way(config, train):
    workdir, _ = train(config)
    out = workdir / "export"
    out.mkdir()
    (out / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"README.md: in the way, and no export.json beside it names it"):
        export(config, workdir)
    assert names(out) == {"README.md"} and (out / "README.md").read_text() == "mine"
    (out / "export.json").write_text('{"files": ["../checkpoints"]}')
    with pytest.raises(UserError, match=r"export.json: damaged, or not written by this program"):
        export(config, workdir)
    assert (workdir / "checkpoints").exists()
    for path in out.iterdir():
        path.unlink()
    out.rmdir()
    out.write_text("mine")
    with pytest.raises(UserError, match="a file is in the way"):
        export(config, workdir)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("segment.clusters", 5, "segment.clusters is 5, but .*centres.npz has centres of 2, 3 clusters"),
        ("export.name", "a/b c", "export.name is 'a/b c': bioimage.io allows"),
        ("export.name", "x", "export.name is 'x': bioimage.io allows"),
    ],
)
def test_bad_settings_are_one_line(config, train, cluster, key, value, message):
    workdir, params = train(config)
    cluster(workdir, params, 8)
    section, name = key.split(".")
    config[section][name] = value
    with pytest.raises(UserError, match=message):
        export(config, workdir)
    assert not (workdir / "export").exists()


def test_what_is_missing_is_one_line(config, train, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no checkpoint; train in this workdir first"):
        export(config, tmp_path / "nothing")
    workdir, _ = train(config)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install his4mae_jax\[export\]"):
        graph.onnx_module()
    with pytest.raises(UserError, match=r"pip install his4mae_jax\[export\]"):
        stage.export(config, workdir, print)
    assert not (workdir / "export").exists()


def test_centres_that_share_a_label_have_names_of_their_own(config, train, cluster):
    workdir, params = train(config)
    cluster(workdir, params, 8)
    config.segment.clusters = 2
    export(config, workdir)
    scores = yaml.safe_load((workdir / "export" / "bioimageio.yaml").read_text())["outputs"][1]
    assert scores["id"] == "scores"
    assert scores["axes"][1]["channel_names"] == [
        "cluster 2 (centre 1)", "cluster 1 (centre 2)", "cluster 2 (centre 3)",
    ]  # fmt: skip


def test_classes_of_a_probe_have_their_names(config, train):
    workdir, params = train(config)
    rng = np.random.default_rng(0)
    hidden = np.float32(rng.normal(size=(8, 6))), np.zeros(6, np.float32)
    classes = Classes(("rest", "nucleus"), np.float32(rng.normal(size=(2, 6))), np.zeros(2, np.float32), hidden)
    facts = {"contrast": WINDOW, "encoder_digest": encoder_digest(params), "volume": "cell.zarr"}
    folder = volume_folder(workdir, config.data.test, create=True)
    centre_files.save(folder / "centres.npz", {2: classes}, **facts)
    export(config, workdir)
    described = yaml.safe_load((workdir / "export" / "bioimageio.yaml").read_text())
    labels, scores, _ = described["outputs"]
    assert labels["data"]["values"] == ["not labelled", "rest", "nucleus"]
    assert scores["axes"][1]["channel_names"] == ["rest", "nucleus"] and "minus the logit" in scores["description"]
    assert json.loads((workdir / "export" / "export.json").read_text())["onnx"]["largest_difference"] < 1e-5


def test_classes_that_count_texture_are_refused(config, train):
    workdir, params = train(config)
    classes = Classes(("rest", "nucleus"), np.ones((2, 16), np.float32), np.zeros(2, np.float32), texture=1.5)
    folder = volume_folder(workdir, config.data.test, create=True)
    facts = {"contrast": WINDOW, "encoder_digest": encoder_digest(params), "volume": "cell.zarr"}
    centre_files.save(folder / "centres.npz", {2: classes}, **facts)
    with pytest.raises(UserError, match="set probe.texture to 0 and probe again"):
        export(config, workdir)
    assert not (workdir / "export").exists()
