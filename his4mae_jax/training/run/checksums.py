"""Checksums of the arrays of a checkpoint: what a disk returns without an error need not be what was written to it."""

import concurrent.futures
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

KEY = "checksums"  # of the item `about`


def added(about: Mapping[str, Any], items: Mapping[str, Any]) -> dict[str, Any]:
    """The item `about` with the checksums of the items of arrays."""
    return {**about, KEY: {name: _checksums(tree) for name, tree in items.items()}}


def check(restored: Mapping[str, Any]) -> None:
    """Compares restored items with the checksums in `about`; checkpoints of earlier versions have none.

    Raises:
      ValueError: an array is not what was saved; names the first.
    """
    for name, saved in restored["about"].get(KEY, {}).items():
        for path, value in _checksums(restored[name]).items() if name in restored else ():
            if saved.get(path, value) != value:
                raise ValueError(f"{name}{path} is not what was saved")


def _checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of the bytes of each array, by its path; arrays that are divided among processes have none."""
    leaves = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    whole = {path: x for path, x in leaves.items() if not isinstance(x, jax.Array) or x.is_fully_replicated}
    with concurrent.futures.ThreadPoolExecutor() as pool:  # zlib works without Python's lock
        return dict(zip(whole, pool.map(_checksum, whole.values()), strict=True))


def _checksum(x: Any) -> int:
    local = x.addressable_data(0) if isinstance(x, jax.Array) else x
    return zlib.crc32(np.ascontiguousarray(local).reshape(-1).view(np.uint8))
