"""What every pretext method provides, and the types that pass between a method and the training step.

A method is a module of this package:

    models = method.build(config)                  # static; models.encoder, models.patch_size, ...
    settings = method.settings(config)             # static; what prepare and loss depend on besides
    params = method.init_params(rng, models)       # {"encoder": ..., ...}
    prepared = method.prepare(rng, batch, models=models, settings=settings)
    loss, (diagnostics, codes) = method.loss(
        params, teacher, batch, prepared, models=models, settings=settings, ready=ready)

`prepare` draws random numbers and counts whatever concerns a batch as a whole. After it a batch can be split into
microbatches: the means of their losses, diagnostics and gradients are those of the batch, and their codes follow each
other.

The teacher is the EMA of `params["encoder"]` for every method, so that each can be segmented with either.
"""

from collections.abc import Hashable
from typing import Any, Protocol

import jax
import ml_collections

Params = dict[str, Any]  # Flax parameter trees by network, such as {"encoder": ..., "decoder": ...}
Batch = dict[str, jax.Array]  # "image" (B, H, W) float32 in [0, 1]; supervised methods also "labels" (B, H, W) int32
Prepared = dict[str, jax.Array]  # arrays (B, ...)
LossOutput = tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, jax.Array]]]


class Method(Protocol):
    """A pretext method. `Models` and `Settings` are frozen dataclasses of its own."""

    def build(self, config: ml_collections.ConfigDict) -> Any:
        """Return `Models`: Flax modules, which hold no parameters, and the patch size.

        `models.encoder` maps patches `(B, N, P)` to the tokens `(B, N, D)` that segmentation uses.
        """

    def settings(self, config: ml_collections.ConfigDict) -> Hashable:
        """Return `Settings`: what `prepare` and `loss` depend on besides the networks."""

    def init_params(self, rng: jax.Array, models: Any) -> Params:
        """Return initial parameters, `{"encoder": ..., ...}`."""

    def prepare(self, rng: jax.Array, batch: Batch, *, models: Any, settings: Any) -> Prepared:
        """Return what is drawn or counted once per batch, such as masks, as arrays `(B, ...)`."""

    def loss(
        self,
        params: Params,
        teacher: Params,
        batch: Batch,
        prepared: Prepared,
        *,
        models: Any,
        settings: Any,
        ready: jax.Array | bool,
    ) -> LossOutput:
        """Compute the loss of a batch or of a part of one.

        Args:
          params: trees of `init_params`, which the loss is differentiated by.
          teacher: parameters of the EMA teacher's encoder, which get no gradient.
          batch: fields of view.
          prepared: what `prepare` returned for these fields of view.
          models: of `build`.
          settings: of `settings`.
          ready: whether distillation has begun (`codebook.start`); scalar bool.

        Returns:
          `(loss, (diagnostics, codes))`: scalars to log, among them "loss", and the arrays that the codebook's
          bookkeeping needs, of methods with a codebook only: "index" (chosen codes) and "z_tea" (teacher's tokens).
        """
