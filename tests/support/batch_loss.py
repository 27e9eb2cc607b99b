"""A method's loss of one batch, as the training step computes it: prepared, then evaluated."""


def batch_loss(method, params, teacher, batch, rng, *, models, settings, ready):
    """`method.loss` of a batch for which `method.prepare` draws from `rng`."""
    prepared = method.prepare(rng, batch, models=models, settings=settings)
    return method.loss(params, teacher, batch, prepared, models=models, settings=settings, ready=ready)
