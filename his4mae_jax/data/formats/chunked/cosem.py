"""The attribute `transform` of COSEM and OpenOrganelle, in N5 and zarr: scale, position and units of named axes."""

from typing import Any

from his4mae_jax.data.stores.units import Triple


def is_transform(value: Any) -> bool:
    """Whether an attribute is a `transform` as COSEM writes it."""
    return isinstance(value, dict) and "scale" in value


def cosem_transform(transform: dict[str, Any]) -> tuple[Triple, tuple[str | None, ...], Triple | None]:
    """Returns (scale, units, translation or None) in z, y, x; KeyError, ValueError or TypeError if it is damaged."""
    names = [str(a).lower() for a in transform["axes"]]
    at = [names.index(n) for n in "zyx"]
    units = transform.get("units") or [None] * len(names)
    position = transform.get("translate")
    position = None if position is None else tuple(float(position[i]) for i in at)
    return tuple(float(transform["scale"][i]) for i in at), tuple(units[i] for i in at), position
