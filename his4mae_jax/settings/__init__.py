"""Every setting in one declared table: default, allowed values, meaning and scope."""

from his4mae_jax.settings.build import get_default, get_small, validate
from his4mae_jax.settings.help import describe, explain_unknown_key
from his4mae_jax.settings.table import (
    TABLE,
    affects_scores,
    fixed_by_training,
    flat_keys,
    flat_settings,
    nearest_key,
    unknown_key,
)

__all__ = (
    "TABLE", "affects_scores", "describe", "explain_unknown_key", "fixed_by_training", "flat_keys", "flat_settings",
    "get_default", "get_small", "nearest_key", "unknown_key", "validate",
)  # fmt: skip
