"""The configuration, as files in `configs/` import it; `settings/` declares what every setting is.

A file in `configs/` changes only what differs from `get_default()`, the paper's settings (Table 1: codebook and
losses, Table 2: training, MAESTER's backbone), or from `get_small()`, which trains in minutes on a CPU.
"""

from his4mae_jax.settings.build import from_saved, get_default, get_small, validate
from his4mae_jax.settings.derived import steps_per_epoch, total_steps
from his4mae_jax.settings.methods import METHODS, SUPERVISED
from his4mae_jax.settings.table import flat_keys, flat_settings, nearest_key

__all__ = (
    "METHODS", "SUPERVISED", "flat_keys", "flat_settings", "from_saved", "get_default", "get_small", "nearest_key",
    "steps_per_epoch", "total_steps", "validate",
)  # fmt: skip
