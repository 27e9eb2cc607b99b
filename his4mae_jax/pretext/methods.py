"""The pretext methods by name (`config.method`); `interface.Method` says what each provides."""

from his4mae_jax.pretext import his4mae, maester, sdae, sdae_recon, segmenter, vae, vit
from his4mae_jax.pretext.interface import Method

METHODS: dict[str, Method] = {
    "his4mae": his4mae,
    "maester": maester,
    "sdae": sdae,
    "sdae_recon": sdae_recon,
    "vae": vae,
    "vit": vit,
    "segmenter": segmenter,
}
# Methods with terms of the loss that begin at `codebook.start`, with a codebook or without.
WAITING = frozenset({"his4mae"})
