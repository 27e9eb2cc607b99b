"""What is wrong with the files of a frozen encoder, or with the settings beside it, is one line that says it."""

import importlib
import re
import shutil

import pytest
import tiny_onnx

from his4mae_jax.config import get_default, validate
from his4mae_jax.errors import UserError
from his4mae_jax.inference.encoders import description, network
from his4mae_jax.inference.encoders.opening import frozen


def opened(path, **segment):
    config = get_default()
    config.segment.encoder_file, config.segment.stride = str(path), 4
    config.segment.update(segment)
    validate(config)
    return frozen(config)


def refused(path, *words, **segment):
    with pytest.raises(UserError) as error:
        opened(path, **segment)
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(patches=14), ("no key patches", "did you mean patch?")),
        (dict(zzz=1), ("no key zzz", "voxels_per_patch")),
        (dict(size="20"), ("size is '20'", "whole number of pixels")),
        (dict(size=True), ("size is True",)),
        (dict(size=0), ("size is 0",)),
        (dict(size=22), ("size is 22", "multiple of patch, 4, such as 20")),
        (dict(size=2), ("size is 2", "such as 4")),
        (dict(patch=4.0), ("patch is 4.0",)),
        (dict(channels=2), ("mean has 3 numbers", "2 channels")),
        (dict(std=[1, 1, 0]), ("std is [1, 1, 0]", "above 0")),
        (dict(mean=0.5), ("mean is 0.5", "number for each channel")),
        (dict(mean=[float("nan")] * 3), ("mean is [nan",)),
        (dict(prefix_tokens=-1), ("prefix_tokens is -1",)),
        (dict(voxels_per_patch=0), ("voxels_per_patch is 0",)),
        (dict(unit_length="yes please"), ("unit_length is 'yes please'", "True or False")),
        (dict(voxel_size_nm="8 nm"), ("voxel_size_nm is '8 nm'",)),
        (dict(file="other.onnx"), ("there is no file", "other.onnx")),
        (dict(file=""), ("file is ''",)),
        (dict(prefix_tokens=0), ("26 tokens", "5x5 patches", "prefix_tokens has to be 1")),
        (dict(size=40, prefix_tokens=3), ("101 tokens", "10x10 patches", "has to be 1")),
        (dict(patch=2), ("26 tokens", "10x10 patches", "too few")),
        (dict(channels=1, mean=[0.5], std=[0.2]), ("encoder.onnx: takes tensor(float)", "(any number, 1, 20, 20)")),
        (dict(output="last_hidden_state"), ("output is 'last_hidden_state'", "has tokens")),
    ],
    ids=lambda value: ",".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_the_yaml_file_says(tmp_path, changes, words):
    tiny_onnx.write(tmp_path)
    refused(tiny_onnx.describe(tmp_path, **changes), *words)


@pytest.mark.parametrize("key", description.NEEDED)
def test_what_the_yaml_file_lacks(tmp_path, key):
    tiny_onnx.write(tmp_path)
    refused(tiny_onnx.describe(tmp_path, remove=(key,)), f"without {key}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("holds no keys",)),
        ("- size: 20", ("holds no keys",)),
        ("size: [20", ("not YAML", "line")),
        ("size: 20\nsize: 24", ("line 2", "size is given twice")),
        ("size: !!python/object/apply:os.getcwd []", ("not YAML",)),
    ],
)
def test_what_is_no_description(tmp_path, text, words):
    path = tmp_path / "encoder.yaml"
    path.write_text(text)
    refused(path, "encoder.yaml", *words)


def test_files_that_are_not_there_or_no_text(tmp_path):
    refused(tmp_path / "none.yaml", "none.yaml: not there", "segment.encoder_file")
    refused(tmp_path, "cannot be read")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    refused(tmp_path / "binary.yaml", "UTF-8")


@pytest.mark.parametrize(
    ("network", "changes", "words"),
    [
        (dict(side=24), {}, ("takes tensor(float)", "24", "3, 20, 20")),
        (dict(channels=1), {}, ("takes tensor(float)", "3, 20, 20")),
        (dict(more=("pooled",)), {}, ("outputs tokens, pooled", "key output")),
        (dict(more=("mask",)), {}, ("takes 2 inputs (pixels, mask)",)),
        (dict(flat=True), {}, ("float32 1x6 for 1 image", "(images, tokens, features)")),
    ],
    ids=str,
)
def test_networks_of_another_layout(tmp_path, network, changes, words):
    tiny_onnx.write(tmp_path, **network)
    refused(tiny_onnx.describe(tmp_path, **changes), *words)


def test_what_is_no_network(tmp_path):
    path = tiny_onnx.write(tmp_path)
    for content in (b"", b"not ONNX", (tmp_path / "encoder.onnx").read_bytes()[:200]):
        (tmp_path / "encoder.onnx").write_bytes(content)
        refused(path, "encoder.onnx", "not an ONNX file")


def test_onnxruntime_is_an_extra(tmp_path, monkeypatch):
    path, real = tiny_onnx.write(tmp_path), importlib.import_module

    def missing(name, *rest):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *rest)

    network.frozen_models.cache_clear()
    monkeypatch.setattr(importlib, "import_module", missing)
    refused(path, "onnxruntime", "pip install his4mae_jax[onnx]")


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        (dict(stride=6), ("segment.stride is 6", "multiple of 4, at most 20")),
        (dict(stride=24), ("segment.stride is 24", "at most 20")),
        (dict(shifts=5), ("segment.shifts is 5", "at most 4")),
        (dict(overhang=20), ("segment.overhang is 20", "below 20")),
        (dict(encoder="teacher"), ("segment.encoder is 'teacher'", "segment.encoder_file")),
        (dict(centres="codebook"), ("segment.centres is 'codebook'", "no codebook")),
    ],
    ids=str,
)
def test_settings_that_do_not_go_with_it(tmp_path, segment, words):
    refused(tiny_onnx.write(tmp_path), *words, **segment)


def test_a_supervised_method_has_its_own(tmp_path):
    config = get_default()
    config.method, config.segment.encoder_file = "vit", str(tiny_onnx.write(tmp_path))
    with pytest.raises(UserError, match=re.escape('"vit"')):
        validate(config)


def test_the_digest_is_of_the_weights_and_of_what_the_file_says(tmp_path):
    path = tiny_onnx.write(tmp_path)
    first = description.read(path)
    assert description.read(path) == first
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert description.read(tmp_path / "copy" / "encoder.yaml").digest == first.digest
    assert description.read(tiny_onnx.describe(tmp_path, std=[0.2, 0.2, 0.2])).digest != first.digest
    assert description.read(tiny_onnx.describe(tmp_path, name="other.yaml")).digest == first.digest
    tiny_onnx.write(tmp_path, dim=5)
    assert description.read(path).digest != first.digest


def test_the_digest_is_also_of_weights_in_a_file_beside_it(tmp_path):
    path = tiny_onnx.write(tmp_path, external=True)
    first, weights = description.read(path), tmp_path / "encoder.weights"
    assert opened(path).models.encoder.embed_dim == tiny_onnx.DIM
    assert first.weight_bytes == weights.stat().st_size + (tmp_path / "encoder.onnx").stat().st_size
    weights.write_bytes(weights.read_bytes()[::-1])
    assert description.read(path).digest != first.digest
    weights.unlink()
    refused(path, "encoder.weights", "cannot be read")
