"""Floating-point operations as counted by hand are those of the programs."""

import functools

import jax
import pytest
from batch_loss import batch_loss

from his4mae_jax.config import get_default
from his4mae_jax.pretext.flop import flop_per_image
from his4mae_jax.pretext.methods import METHODS


def test_the_paper_s_step_has_8_7_gflop_an_image():
    flop = flop_per_image(get_default())
    assert flop["step"] == pytest.approx(8.7e9, rel=0.01) and flop["encode"] == pytest.approx(2.82e9, rel=0.01)


# Of the segmenter's decoder nothing is counted. XLA leaves out what a convolution takes from beyond the border.
COUNTED = ["his4mae", "maester", "sdae", "sdae_recon", "vae", "vit"]


@pytest.mark.parametrize("method", COUNTED)
def test_flop_are_those_of_the_program(tiny, method):
    """XLA counts products as we do, and a little for everything else."""
    tiny.method, tiny.model.embed_dim, tiny.model.decoder_dim, tiny.vae.width = method, 64, 32, 16
    tiny.model.cls_token, tiny.supervised.classes = method == "maester", 3
    models = METHODS[method].build(tiny)
    encoder = jax.eval_shape(lambda: METHODS[method].init_params(jax.random.key(0), models)["encoder"])
    patches = jax.ShapeDtypeStruct((4, 16, 25), "float32")
    apply = jax.jit(lambda params, x: models.encoder.apply({"params": params}, x))
    ours, theirs = 4 * flop_per_image(tiny)["encode"], apply.lower(encoder, patches).compile().cost_analysis()["flops"]
    assert (0.6 if method == "vae" else 1.0) * ours <= theirs <= 1.15 * ours


@pytest.mark.parametrize("method", COUNTED)
def test_flop_of_a_step_are_those_of_the_gradient(tiny, method):
    tiny.method, tiny.model.embed_dim, tiny.model.decoder_dim, tiny.vae.width = method, 64, 32, 16
    tiny.model.cls_token, tiny.supervised.classes = method == "maester", 3
    rules = METHODS[method]
    models = rules.build(tiny)
    params = jax.eval_shape(lambda: rules.init_params(jax.random.key(0), models))
    batch = {"image": jax.numpy.zeros((4, 20, 20)), "labels": jax.numpy.zeros((4, 20, 20), "uint8")}
    loss = functools.partial(batch_loss, rules, models=models, settings=rules.settings(tiny), ready=True)
    gradient = jax.jit(jax.grad(loss, has_aux=True))
    lowered = gradient.lower(params, params["encoder"], batch, jax.random.key(1))
    ours, theirs = 4 * flop_per_image(tiny)["step"], lowered.compile().cost_analysis()["flops"]
    assert 0.8 * ours <= theirs <= (1.9 if method.startswith("sdae") else 1.15) * ours
