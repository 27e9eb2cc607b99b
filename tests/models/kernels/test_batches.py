"""Fields of view per batch, by platform and by the widest layer."""

import types

from his4mae_jax.models.autoencoder import Encoder
from his4mae_jax.models.kernels.backend import tracing_for
from his4mae_jax.models.kernels.batches import CPU_BATCH_BYTES, fovs_at_once
from his4mae_jax.models.segmenter import MaskTransformer, Segmenter, VanillaViT
from his4mae_jax.models.vae import VariationalEncoder


def at_once(encoder):
    return fovs_at_once(types.SimpleNamespace(encoder=encoder, patch_size=5))


def test_the_widest_activations_of_a_batch_fit_the_cache_of_a_core():
    paper, demo, wide = Encoder((16, 16), 192, 14, 1), Encoder((5, 5), 64, 4, 1), Encoder((64, 64), 768, 12, 12)
    assert [at_once(e) for e in (paper, demo, wide)] == [4, 122, 1]
    assert at_once(VariationalEncoder((16, 16), 192, width=32)) == 1  # 32 channels at each of 80 x 80 pixels
    assert (
        at_once(Segmenter(paper, MaskTransformer(4))) == at_once(VanillaViT(paper, 4)) == 4
    )  # the encoder's width counts, not the 4 logits
    assert 122 * 25 * 64 * 4 <= CPU_BATCH_BYTES < 123 * 25 * 64 * 4
    assert at_once(Encoder((4, 4), 8, 1, 1)) == 256  # at most, however small they are


def test_an_accelerator_always_takes_the_maximum():
    with tracing_for(types.SimpleNamespace(platform="gpu")):
        assert at_once(Encoder((16, 16), 192, 14, 1)) == 256
