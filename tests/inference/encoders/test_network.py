"""A network in an ONNX file gives its own tokens, through the same inference as a trained encoder's."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_onnx
import yaml

from his4mae_jax.clustering.centres import Centres, linear_scores
from his4mae_jax.config import get_default
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.export import package
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.inference.encoders.opening import frozen
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.pretext import his4mae

MEAN, STD = (np.array(x).reshape(1, 3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def opened(path, **segment):
    config = get_default()
    config.segment.encoder_file, config.segment.stride = str(path), 4
    config.segment.update(segment)
    return frozen(config)


def encoded(path, images, **segment):
    trained = opened(path, **segment)
    return np.asarray(jax.jit(make_encode(trained.models))(trained.params, images))


def images(number=3, side=tiny_onnx.SIDE):
    return np.random.default_rng(number).random((number, side, side), np.float32)


@pytest.mark.parametrize("batch", ["batch", 1, 2, 8])
@pytest.mark.parametrize("side", [None, tiny_onnx.SIDE])
def test_tokens_of_patches_in_the_grid_of_the_image(tmp_path, batch, side):
    path, x = tiny_onnx.write(tmp_path, batch=batch, side=side), images()
    expected = tiny_onnx.tokens((x[:, None] - MEAN) / STD)
    out = encoded(path, x)
    assert out.shape == (3, 5, 5, tiny_onnx.DIM) and np.ptp(out) > 1
    np.testing.assert_allclose(out.reshape(3, 25, -1), expected, atol=1e-5)


def test_grey_images_of_one_channel_and_no_prefix(tmp_path):
    tiny_onnx.write(tmp_path, channels=1, cls=False)
    path = tiny_onnx.describe(tmp_path, channels=1, mean=[0.5], std=[0.25], prefix_tokens=0)
    x = images()
    expected = tiny_onnx.tokens((x[:, None] - 0.5) / 0.25)
    np.testing.assert_allclose(encoded(path, x).reshape(3, 25, -1), expected, atol=1e-5)


def test_one_of_several_outputs(tmp_path):
    tiny_onnx.write(tmp_path, more=("pooled",))
    path = tiny_onnx.describe(tmp_path, output="tokens")
    assert encoded(path, images()).shape == (3, 5, 5, tiny_onnx.DIM)


def test_tokens_of_length_one(tmp_path):
    tiny_onnx.write(tmp_path)
    raw = encoded(tiny_onnx.describe(tmp_path), images())
    unit = encoded(tiny_onnx.describe(tmp_path, unit_length=True), images())
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=-1, keepdims=True), atol=1e-5)


def test_an_enlarged_image_has_smaller_patches(tmp_path):
    tiny_onnx.write(tmp_path)
    trained = opened(tiny_onnx.describe(tmp_path, voxels_per_patch=2), stride=2)
    assert trained.models.patch_size == 2 and trained.models.encoder.about.fov == 10
    x = images(2, 10)
    large = np.asarray(jax.image.resize(x, (2, 20, 20), "cubic"))
    out = np.asarray(jax.jit(make_encode(trained.models))(trained.params, x))
    np.testing.assert_allclose(out.reshape(2, 25, -1), tiny_onnx.tokens((large[:, None] - MEAN) / STD), atol=1e-4)


@pytest.mark.parametrize("how", [dict(axes="zx", smooth=0.7), dict(inference="cover")], ids=str)
def test_our_own_encoder_exported_labels_as_it_did(tmp_path, tiny, blobs, how):
    models = his4mae.build(tiny)
    params = jax.jit(lambda: his4mae.init_params(jax.random.key(0), models)["encoder"])()
    params = jax.tree.map(lambda x: np.asarray(x * 3.0), params)
    source = package.Source("his4mae", "student", 1, "", "cell.zarr", (0.1, 99.9))
    own = package.Package(models, params, Contrast(0, 255), 8.0, None, (), source)
    shapes = {k: v.shape[1:] for k, v in package.evaluate(own.programs()["encoder"], images(1)).items()}
    (tmp_path / "own.onnx").write_bytes(own.onnx("encoder", shapes).SerializeToString())
    about = {"file": "own.onnx", "size": 20, "patch": 5, "channels": 1, "mean": [0], "std": [1]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(about))
    tiny.segment.encoder_file = str(tmp_path / "own.yaml")
    tiny.segment.update(stride=10, tile=30, **how)
    volume, stand_in = blobs((8, 26, 24)), frozen(tiny)
    one = stand_in.bind(volume, tiny.segment)
    other = VolumeEncoder(models, params, one.contrast, one.coverage, 8)
    index = np.stack([np.random.default_rng(0).integers(0, n, 200) for n in volume.shape], axis=1)
    features = []
    for encoder in (one, other):
        (tile,) = encoder.coverage.tiles(volume.shape, 100)
        features.append(encoder.features_at(volume, tile, index))
    assert np.ptp(features[1]) > 1
    np.testing.assert_allclose(*features, atol=1e-4)
    scores = linear_scores({4: Centres(features[1][:4], np.eye(8, dtype=np.float32))})
    labels = [encoder.labels(volume, scores)[4] for encoder in (one, other)]
    assert (labels[0] == labels[1]).mean() > 0.999 and set(np.unique(labels[0])) == {1, 2, 3, 4}


CALLS = """
import sys, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from his4mae_jax.config import get_default
from his4mae_jax.clustering.centres import Centres, linear_scores
from his4mae_jax.data.volumes.in_memory import from_array
from his4mae_jax.inference.encoders.opening import frozen
config = get_default()
config.segment.encoder_file, config.segment.stride, config.segment.batch_fovs = sys.argv[1], 100, 8
grey = np.random.default_rng(0).integers(0, 255, (20, 230, 230)).astype(np.uint8)
volume = from_array(grey, 8.0, "noise")
points = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
labels = frozen(config).bind(volume).labels(volume, linear_scores({3: Centres(points, np.eye(6, dtype=np.float32))}))
print(np.bincount(labels[3].ravel()).tolist())
"""


def test_calls_return_on_one_core_and_from_several_devices(tmp_path):
    """JAX's pure_callback does not: what it hands over waits for the threads that wait for the callback."""
    root = pathlib.Path(__file__).parents[3]
    tiny_onnx.write(tmp_path)
    path = tiny_onnx.describe(tmp_path, size=200)
    code = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}){CALLS}"
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout)) == 20 * 230 * 230
