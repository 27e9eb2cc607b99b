"""How many fields of view a device takes at once."""

import math

from his4mae_jax.models.kernels.backend import target
from his4mae_jax.models.segmenter import Segmenter, VanillaViT
from his4mae_jax.models.vae import VariationalEncoder

CPU_BATCH_BYTES = 3 * 2**18  # of a batch's widest features: a layer's arrays then stay in a core's share of the cache
MOST_FOVS = 256  # of a batch; as many on accelerators


def largest_divisor(number, most):
    """The largest divisor of `number` that is at most `most` (1 or more)."""
    return max(n for n in range(1, min(most, number) + 1) if number % n == 0)


def fovs_at_once(models):
    """Fields of view that a device takes at once most quickly; `models` of any method."""
    if target().platform != "cpu":
        return MOST_FOVS
    encoder = models.encoder
    if isinstance(encoder, VanillaViT | Segmenter):  # whose own tokens are few logits
        encoder = encoder.encoder
    features = encoder.embed_dim
    if isinstance(encoder, VariationalEncoder):  # its channels at every pixel of a token are more
        features = max(features, encoder.width * models.patch_size**2)
    fitting = CPU_BATCH_BYTES // (4 * math.prod(encoder.grid) * features)
    return min(max(fitting, 1), MOST_FOVS)
