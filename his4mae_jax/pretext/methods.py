"""The methods by name: each module has `build`, `init_params`, `settings`, `prepare` and `loss`.

    models = method.build(config)                  # static; models.encoder, models.patch_size, ...
    params = method.init_params(rng, models)       # {"encoder": ..., ...}
    prepared = method.prepare(rng, batch, models=models, **method.settings(config))
    loss, (diagnostics, codes) = method.loss(
        params, teacher, batch, prepared, models=models, ready=ready, **method.settings(config))

`prepare` draws or counts what concerns a batch as a whole, arrays `(B, ...)`. So a batch can be taken in parts:
loss, diagnostics and gradients of equal parts have the batch's as their means, and codes follow one another.

`models.encoder` maps patches `(B, N, P)` to the tokens `(B, N, F)` that segmentation uses. The
teacher is the EMA of `params["encoder"]`, for every method, so that it can be segmented with.
"""

from his4mae_jax.pretext import his4mae, maester, sdae, sdae_recon, segmenter, vae, vit

METHODS = {
    "his4mae": his4mae, "maester": maester, "sdae": sdae, "sdae_recon": sdae_recon, "vae": vae, "vit": vit,
    "segmenter": segmenter,
}  # fmt: skip


def whole_loss(method, params, teacher, batch, rng, *, models, ready, **settings):
    """`method.loss` of a batch at once, with what `method.prepare` draws from `rng`."""
    prepared = method.prepare(rng, batch, models=models, **settings)
    return method.loss(params, teacher, batch, prepared, models=models, ready=ready, **settings)
