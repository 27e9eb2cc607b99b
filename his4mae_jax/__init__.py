"""Label-free segmentation of organelles in volume electron microscopy (HiS4MAE) in JAX.

The public names are imported when they are first used, so that `import his4mae_jax` starts neither JAX nor anything
else that is slow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from his4mae_jax.errors import Error
    from his4mae_jax.library import evaluate
    from his4mae_jax.library.encoder import Encoder
    from his4mae_jax.library.training import train
    from his4mae_jax.library.volumes import open

__version__ = "0.1.0"

_MODULES = {
    "Encoder": "library.encoder",
    "Error": "errors",
    "evaluate": "library.evaluate",
    "open": "library.volumes",
    "train": "library.training",
}
__all__ = ("Encoder", "Error", "evaluate", "open", "train")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    value = module if _MODULES[name].endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
