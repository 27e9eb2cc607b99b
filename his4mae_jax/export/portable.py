"""The same functions in JAX, serialised as StableHLO for any number of fields of view, on CPUs, CUDA GPUs and TPUs."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from his4mae_jax.export.heads import numbers
from his4mae_jax.inference.encode import make_encode
from his4mae_jax.inference.score_maps import LinearScores, head_scores
from his4mae_jax.models.kernels.backend import tracing_for
from his4mae_jax.models.patches import expansion_weights

PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class AnyDevice:
    """Stands in for a device while programs for all platforms are traced: kernels take their general implementation."""

    platform: str = "any"


def encoder(models: Any, params: Any) -> Callable[[jax.Array], jax.Array]:
    """Makes a function from fields of view `(N, F, F)`, float32 in [0, 1], to tokens `(N, g, g, D)`."""
    encode = make_encode(models)
    return lambda images_NxFxF: encode(params, images_NxFxF)


def segmenter(models: Any, params: Any, linear: LinearScores) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Makes a function from fields of view `(N, F, F)`, float32 in [0, 1], to a dict.

    "scores" `(N, C, g, g)`: the squared distance to each centre up to a term that all centres share, so that the
    nearest has the smallest. "token_labels" `(N, g, g)`: the nearest cluster of each token, uint8 from 1 on. "labels"
    `(N, 1, F, F)`: that of each pixel, by score maps that are expanded linearly.
    """
    encode, label_C = encoder(models, params), numbers(linear)
    rows, columns = (expansion_weights(n, models.patch_size) for n in models.encoder.grid)

    head = [(linear.weights_CxD, linear.offset_C, linear.hidden)]

    def expand(x_NxGxGxD):
        return jnp.einsum("yi,nijd,xj->nyxd", rows, x_NxGxGxD, columns, precision="highest")

    def segment(images_NxFxF):
        tokens_NxGxGxD = encode(images_NxFxF)
        maps_NxGxGxC = head_scores(tokens_NxGxGxD, head)
        # Scores of a hidden layer are not linear in the features: these are expanded.
        pixels = expand(maps_NxGxGxC) if linear.hidden is None else head_scores(expand(tokens_NxGxGxD), head)
        label = jnp.asarray(label_C)
        return {
            "scores": jnp.moveaxis(maps_NxGxGxC, -1, 1),
            "token_labels": label[jnp.argmin(maps_NxGxGxC, axis=-1)],
            "labels": label[jnp.argmin(pixels, axis=-1)][:, None],
        }

    return segment


def serialise(function: Callable[[jax.Array], Any], fov: int) -> bytes:
    """The function of fields of view as an artefact of `jax.export`, parameters included.

    `jax.export.deserialize` reads it, in this and in later versions of JAX as their compatibility policy has it.
    """
    (n,) = jax.export.symbolic_shape("n")
    with tracing_for(AnyDevice()), _no_folders():
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct((n, fov, fov), jnp.float32)
        )
    return bytes(exported.serialize())


@contextlib.contextmanager
def _no_folders() -> Iterator[None]:
    """Within it, operations name the source files they come from without the folders of this machine."""
    key = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, key)
    jax.config.update(key, ".*/")
    try:
        yield
    finally:
        jax.config.update(key, before)
