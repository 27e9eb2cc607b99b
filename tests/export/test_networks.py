"""The ONNX graph and the JAX artefact of every encoder give what the encoder gives, for any number of images."""

import dataclasses

import jax
import numpy as np
import onnxruntime
import pytest

from his4mae_jax.clustering.centres import Centres, Classes
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.errors import UserError
from his4mae_jax.export import package, portable
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.models.patches import expansion_weights
from his4mae_jax.pretext.methods import METHODS

FOV, GRID = 20, 4


@pytest.fixture
def make_package(tiny):
    """Function: the package of a random encoder, whose parameters are all different from 0 and 1."""

    def make(method, **model):
        tiny.method, tiny.supervised.classes, tiny.supervised.num_heads, tiny.supervised.depth = method, 3, 2, 1
        tiny.model.num_heads, tiny.model.depth, tiny.model.embed_dim = 2, 2, 16
        tiny.vae.width, tiny.vae.blocks = 8, 1
        tiny.model.update(model)
        models = METHODS[method].build(tiny)
        params = jax.jit(lambda: METHODS[method].init_params(jax.random.key(0), models)["encoder"])()
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda x: np.asarray(x + 0.2 * rng.normal(size=x.shape), np.float32), params)
        source = package.Source(method, "student", 1, "", "cell.zarr", (0.1, 99.9))
        return package.Package(models, params, Contrast(0, 255), 8.0, None, (), source)

    return make


def images(number):
    return np.random.default_rng(number).random((number, FOV, FOV), np.float32)


def onnx_session(exported, program):
    shapes = {k: v.shape[1:] for k, v in package.evaluate(exported.programs()[program], images(1)).items()}
    return onnxruntime.InferenceSession(exported.onnx(program, shapes).SerializeToString())


def run(session, fields):
    return dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"image": fields[:, None]}), strict=True)
    )


@pytest.mark.parametrize(
    ("method", "model"),
    [("his4mae", {}), ("maester", {"cls_token": True}), ("vit", {}), ("segmenter", {"cls_token": True}), ("vae", {})],
)
def test_tokens_are_those_of_the_encoder(make_package, method, model):
    exported = make_package(method, **model)
    session, encode = onnx_session(exported, "encoder"), make_encode(exported.models)
    artefact = jax.export.deserialize(bytearray(portable.serialise(exported.programs()["encoder"], FOV)))
    assert set(artefact.platforms) == {"cpu", "cuda", "tpu"}
    for number in (1, 5):
        expected = np.asarray(encode(exported.params, images(number)))
        assert expected.shape == (number, GRID, GRID, exported.features) and np.ptp(expected) > 1
        np.testing.assert_allclose(run(session, images(number))["tokens"], expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(artefact.call(images(number))["tokens"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("group", [None, np.array([1, 0, 1])])
def test_the_nearest_cluster_of_tokens_and_of_pixels(make_package, group):
    rng = np.random.default_rng(2)
    projection, fields, alone = rng.normal(size=(16, 5)).astype(np.float32), images(3), make_package("his4mae")
    tokens = np.asarray(make_encode(alone.models)(alone.params, fields), np.float64)
    points = np.float32(tokens[[0, 1, 2], [0, 1, 2], [3, 1, 0]] @ projection)  # of tokens: every cluster has some
    exported = dataclasses.replace(alone, centres=Centres(points, projection, group), names=("one", "two", "three"))
    distance = np.sum(((tokens @ projection)[..., None, :] - points) ** 2, axis=-1)
    weights = expansion_weights(GRID, 5)
    pixels = np.einsum("yi,nijc,xj->nyxc", weights, distance, weights)
    number = 1 + (np.arange(3) if group is None else group)
    artefact = jax.export.deserialize(bytearray(portable.serialise(exported.programs()["segmenter"], FOV)))
    for found in (run(onnx_session(exported, "segmenter"), fields), artefact.call(fields)):
        scores = np.moveaxis(np.asarray(found["scores"]), 1, -1)
        assert np.ptp(scores - distance, axis=-1).max() < 1e-4 * distance.max()  # up to a common term
        assert np.array_equal(found["token_labels"], number[distance.argmin(-1)])
        assert np.array_equal(found["labels"], number[pixels.argmin(-1)][:, None])
        assert found["labels"].dtype == np.uint8 and len(np.unique(found["labels"])) == len(set(number))


@pytest.mark.parametrize("units", [None, 6])
def test_the_classes_of_a_probe(make_package, units):
    rng, fields, alone = np.random.default_rng(3), images(3), make_package("his4mae")
    tokens = np.asarray(make_encode(alone.models)(alone.params, fields))
    weights = expansion_weights(GRID, 5)
    hidden = None if units is None else (np.float32(rng.normal(size=(16, units))), np.float32(rng.normal(size=units)))

    def logits(z):
        z = z if hidden is None else jax.nn.gelu(z @ hidden[0] + hidden[1])
        return np.asarray(z @ head.T + offset)

    head = np.float32(rng.normal(size=(2, units or 16)))
    offset = np.zeros(2, np.float32)
    offset = -np.float32(logits(tokens).mean((0, 1, 2)))  # both classes have tokens
    exported = dataclasses.replace(alone, centres=Classes(("a", "b"), head, offset, hidden), names=("a", "b"))
    pixels = logits(np.einsum("yi,nijd,xj->nyxd", weights, tokens, weights))
    artefact = jax.export.deserialize(bytearray(portable.serialise(exported.programs()["segmenter"], FOV)))
    for found in (run(onnx_session(exported, "segmenter"), fields), artefact.call(fields)):
        np.testing.assert_allclose(-np.moveaxis(found["scores"], 1, -1), logits(tokens), rtol=0, atol=1e-4)
        assert np.mean(found["labels"][:, 0] == 1 + pixels.argmax(-1)) > 0.995  # but for ties
        assert np.array_equal(np.unique(found["token_labels"]), [1, 2])


def test_a_graph_that_differs_is_refused(make_package):
    exported = make_package("his4mae")
    grey = images(1)
    outputs = package.evaluate(exported.programs()["encoder"], grey)
    model = exported.onnx("encoder", {"tokens": outputs["tokens"].shape[1:]})
    assert package.difference(model, grey, outputs) < 1e-5
    with pytest.raises(RuntimeError, match="differs from JAX"):
        package.difference(model, grey, {"tokens": outputs["tokens"] + 1e-3 * np.abs(outputs["tokens"]).max()})


def test_an_encoder_of_another_kind_is_one_line(make_package):
    exported = make_package("his4mae")
    other = dataclasses.replace(exported, models=_Other(exported.models))
    with pytest.raises(
        UserError, match="_Network: an encoder of this kind cannot be written as ONNX; there are Encoder"
    ):
        other.onnx("encoder", {"tokens": (GRID, GRID, 16)})


class _Network:
    grid = (GRID, GRID)


class _Other:
    def __init__(self, models):
        self.encoder, self.patch_size = _Network(), models.patch_size
