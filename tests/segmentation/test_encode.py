"""How many fields of view are encoded at once."""

import types

from his4mae_jax.models.autoencoder import Encoder
from his4mae_jax.models.target import traced_for
from his4mae_jax.segmentation.encode import CPU_BATCH_BYTES, fovs_at_once


def test_a_batch_fits_a_core_s_cache():
    paper, demo, wide = Encoder((16, 16), 192, 14, 1), Encoder((5, 5), 64, 4, 1), Encoder((64, 64), 768, 12, 12)
    assert [fovs_at_once(e) for e in (paper, demo, wide)] == [4, 122, 1]
    assert 122 * 25 * 64 * 4 <= CPU_BATCH_BYTES < 123 * 25 * 64 * 4
    assert fovs_at_once(Encoder((4, 4), 8, 1, 1)) == 256  # no more, however small they are


def test_an_accelerator_takes_many():
    with traced_for(types.SimpleNamespace(platform="gpu")):
        assert fovs_at_once(Encoder((16, 16), 192, 14, 1)) == 256
