"""Checksums of the arrays of a checkpoint: what a disk returns without an error need not be what was written to it."""

import concurrent.futures
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of the bytes of each array of a tree, by its path; arrays that are divided among processes have none."""
    leaves = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    whole = {path: x for path, x in leaves.items() if not isinstance(x, jax.Array) or x.is_fully_replicated}
    with concurrent.futures.ThreadPoolExecutor() as pool:  # zlib works without Python's lock
        return dict(zip(whole, pool.map(_checksum, whole.values()), strict=True))


def check(tree: Any, saved: Mapping[str, int]) -> None:
    """Compares a tree with the checksums that were taken when it was saved.

    Raises:
      ValueError: an array differs; names the first.
    """
    for path, value in checksums(tree).items():
        if saved.get(path, value) != value:
            raise ValueError(f"{path} is not what was saved")


def _checksum(x: Any) -> int:
    local = x.addressable_data(0) if isinstance(x, jax.Array) else x
    return zlib.crc32(np.ascontiguousarray(local).reshape(-1).view(np.uint8))
