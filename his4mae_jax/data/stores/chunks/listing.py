"""Which chunks of an array are stored, by the list of their names, where a store can list: nothing is read for that.

A chunk that is not in the list has the fill value. Disks, zip files and buckets are listed; web servers are not. Of
shards (zarr 3, precomputed) the indices are read, which say what each of them holds.
"""

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from his4mae_jax.data.stores.chunks import names
from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.stores.location import READ_SECONDS, context

MOST_CELLS = 1 << 24  # of the grid that is kept, a byte each; larger ones are made coarser
MOST_ON_DISK, MOST_REMOTE = 1 << 22, 1 << 18  # chunks that are listed: with more of them, most are stored
MOST_SHARDS = 1 << 12  # whose indices are read
_BATCH = 1 << 16  # chunks that are noted at once
_AT_ONCE = 8  # lists asked for, or indices read, at a time
_FAILURES = (ValueError, OSError, NotImplementedError, KeyError, TypeError)


class _TooMany(ValueError):
    """There are more chunks than are listed."""


@dataclasses.dataclass(frozen=True)
class _Format:
    """How the chunks of an array are named and placed, for all of its stored axes.

    Attributes:
      chunk: shape of a chunk (a shard where there are such).
      origin: voxel at which chunk 0 begins.
      shape: of the array.
      folder: of the chunks below that of the array.
      pattern: of their names.
      index: from a name to the indices of the chunk.
      leading: what names begin with, for each index along the first axis.
      key: from indices to a name.
      sharding: metadata of shards; None: there are none.
    """

    chunk: tuple[int, ...]
    origin: tuple[int, ...]
    shape: tuple[int, ...]
    folder: str
    pattern: re.Pattern
    index: Callable[[str], list[int]]
    leading: Sequence[str] = ("",)
    key: Callable[[Sequence[int]], str] = str
    sharding: dict[str, Any] | None = None


def stored_chunks(array: ts.TensorStore) -> Stored | None:
    """Finds out which chunks of an array are stored.

    Args:
      array: (z, y, x) with indices from 0: any view of an array of TensorStore that swaps axes, cuts a box out, chooses
        a channel or converts the type.

    Returns:
      What is stored. None where nothing is known, or all is stored: the format has no chunks, the store does not list
      them, there are too many, or a chunk that is missing is an error.
    """
    try:
        spec = array.spec()
        inner = spec.to_json()
        while inner["driver"] == "cast":
            inner = inner["base"]
            if "transform" in inner:
                return None
        own = _format(inner)
        if own is None:
            return None
        return _noted(array, spec.transform, *_cells(array.kvstore, own))
    except _FAILURES:
        return None


def _format(spec: dict[str, Any]) -> _Format | None:
    """How the chunks of a TensorStore specification are named; None for a driver without chunks."""
    driver = spec["driver"]
    if driver == "neuroglancer_precomputed":
        return _precomputed(spec)
    if driver not in ("zarr", "zarr3", "n5"):
        return None
    metadata = spec["metadata"]
    shape = metadata["dimensions" if driver == "n5" else "shape"]
    if driver == "zarr3":
        chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    else:
        chunk = metadata["blockSize" if driver == "n5" else "chunks"]
    codecs = metadata.get("codecs") or [{}]
    sharding = codecs[0].get("configuration") if codecs[0].get("name") == "sharding_indexed" else None
    folder, pattern, example = names.expected(driver, spec, len(chunk))
    digits = 2 * len(chunk) - 1  # "0/0/0"
    prefix, separator = example[:-digits], example[-2]
    return _Format(
        tuple(chunk), (0,) * len(chunk), tuple(shape), folder, pattern,
        lambda key: [int(n) for n in key.removeprefix(prefix).split(separator)],
        [f"{prefix}{i}{separator}" for i in range(-(-shape[0] // chunk[0]))],
        lambda at: prefix + separator.join(map(str, at)), sharding,
    )  # fmt: skip


def _precomputed(spec: dict[str, Any]) -> _Format:
    scale, channels = spec["scale_metadata"], spec["multiscale_metadata"]["num_channels"]
    low, chunk, size = scale.get("voxel_offset", (0, 0, 0)), scale["chunk_size"], scale["size"]
    folder, pattern, _ = names.expected("neuroglancer_precomputed", spec, 4)

    def index(key: str) -> list[int]:
        begins = (int(n) for n in re.findall(r"(-?\d+)--?\d+", key))
        return [*((n - first) // side for n, first, side in zip(begins, low, chunk, strict=True)), 0]

    leading = [f"{n}-{min(n + chunk[0], low[0] + size[0])}_" for n in range(low[0], low[0] + size[0], chunk[0])]
    return _Format(
        (*chunk, channels), (*low, 0), (*size, channels), f"{folder}/", pattern, index,
        ("",) if scale.get("sharding") else leading, sharding=scale.get("sharding"),
    )  # fmt: skip


def _cells(store: ts.KvStore, own: _Format) -> tuple[_Format, Iterator[list[int]]]:
    """The format, with chunks in place of shards where their indices are read, and indices of those that are stored."""
    kind = "" if own.sharding is None else own.sharding.get("@type", "zarr3")
    base = store.spec().to_json()
    base = {**base, "path": base.get("path", "") + own.folder}
    if kind == "zarr3":
        ratio = [c // i for c, i in zip(own.chunk, own.sharding["chunk_shape"], strict=True)]
        shards = list(itertools.islice(_indices(store, own), MOST_SHARDS + 1))
        if len(shards) > MOST_SHARDS:
            return own, _indices(store, own)
        return dataclasses.replace(own, chunk=tuple(own.sharding["chunk_shape"])), _in_shards(store, own, shards, ratio)
    if kind:
        shards = sum(1 for _ in itertools.islice(_keys(store, own), MOST_SHARDS + 1))
        bits = sum(own.sharding.get(key, 0) for key in ("preshift_bits", "minishard_bits"))
        if shards > MOST_SHARDS or shards << bits > MOST_ON_DISK:
            raise _TooMany
        shared = {"driver": "neuroglancer_uint64_sharded", "metadata": own.sharding, "base": base}
        found = ts.KvStore.open(shared, context=context(0)).result(timeout=READ_SECONDS).list()
        grid = [-(-n // c) for n, c in zip(own.shape[:3], own.chunk, strict=False)]
        ids = (int.from_bytes(key, "big") for key in found.result(timeout=READ_SECONDS))
        return own, ([*_from_morton(number, grid), 0] for number in ids)
    return own, _indices(store, own)


def _in_shards(
    store: ts.KvStore, own: _Format, shards: Iterable[list[int]], ratio: list[int]
) -> Iterator[list[int]]:  # fmt: skip
    sharding, base = own.sharding, store.spec().to_json()
    path, left = base.get("path", ""), iter(shards)
    while batch := list(itertools.islice(left, _AT_ONCE)):
        lists = []
        for shard in batch:
            spec = {
                "driver": "zarr3_sharding_indexed", "grid_shape": ratio, "index_codecs": sharding["index_codecs"],
                "index_location": sharding.get("index_location", "end"),
                "base": {**base, "path": path + own.key(shard)},
            }  # fmt: skip
            lists.append(ts.KvStore.open(spec, context=context(0)).result(timeout=READ_SECONDS).list())
        for shard, found in zip(batch, lists, strict=True):
            for key in found.result(timeout=READ_SECONDS):
                inner = np.frombuffer(key, ">u4").tolist()
                yield [s * r + i for s, r, i in zip(shard, ratio, inner, strict=True)]


def _from_morton(number: int, grid: list[int]) -> list[int]:
    """Indices of a chunk from its compressed Morton code: of each axis only the bits that its length needs."""
    at, bit = [0] * len(grid), 0
    for level in range(max(grid).bit_length()):
        for axis, n in enumerate(grid):
            if 1 << level < n:
                at[axis] |= (number >> bit & 1) << level
                bit += 1
    return at


def _indices(store: ts.KvStore, own: _Format) -> Iterator[list[int]]:
    return (own.index(key) for key in _keys(store, own))


def _keys(store: ts.KvStore, own: _Format) -> Iterator[str]:
    """Names of the chunks that are stored."""
    base = store.spec().to_json()
    on_disk = base["driver"] == "file"
    found = _on_disk(os.path.join(base["path"], own.folder)) if on_disk else _listed(store, own)
    for count, key in enumerate(key for key in found if own.pattern.fullmatch(key)):
        if count >= (MOST_ON_DISK if on_disk else MOST_REMOTE):
            raise _TooMany
        yield key


def _on_disk(folder: str) -> Iterator[str]:
    """Paths of files in a folder and in those below it that may hold chunks. A folder that cannot be read is an error:
    what is in it is not known.
    """
    todo = [(folder, "")]
    while todo:
        path, prefix = todo.pop()
        try:
            entries = os.scandir(path)
        except FileNotFoundError:
            continue  # no chunk was ever written
        with entries:
            for entry in entries:
                if not entry.is_dir():
                    yield prefix + entry.name
                elif entry.name == "c" or entry.name.isdigit():
                    todo.append((entry.path, f"{prefix}{entry.name}/"))


def _listed(store: ts.KvStore, own: _Format) -> Iterator[str]:
    """Names in a store that is no disk, a part of them at a time: each list is in memory as a whole."""
    parts = iter(own.leading)
    while batch := list(itertools.islice(parts, _AT_ONCE)):
        lists = []
        for part in batch:
            start = own.folder + part
            lists.append(store.list(_beginning(start)) if start else store.list())
        for found in lists:
            for key in found.result(timeout=READ_SECONDS):
                yield key.decode("utf-8", "replace").removeprefix(own.folder)


def _beginning(start: str) -> ts.KvStore.KeyRange:
    """All names that begin so."""
    return ts.KvStore.KeyRange(start, start[:-1] + chr(ord(start[-1]) + 1))


def _noted(
    array: ts.TensorStore, transform: ts.IndexTransform, own: _Format, indices: Iterable[list[int]]
) -> Stored | None:  # fmt: skip
    """Notes the chunks that the array sees in a grid of its own axes."""
    axes: list[int | None] = [None] * array.rank  # stored axis of each axis of the array
    offsets, first, wanted = [output.offset for output in transform.output], [], {}
    for o, output in enumerate(transform.output):
        first.append((output.offset - own.origin[o]) // own.chunk[o])
        if output.input_dimension is None:
            wanted[o] = first[o]
        elif output.stride != 1 or axes[output.input_dimension] is not None:
            return None
        else:
            axes[output.input_dimension] = o
    if array.rank != 3 or None in axes or any(array.domain.origin):
        return None
    edges = []
    for o, n in zip(axes, array.shape, strict=True):
        begin = own.origin[o] + first[o] * own.chunk[o] - offsets[o]
        edges.append(np.append(np.maximum(np.arange(begin, n, own.chunk[o]), 0), n))
    group = [1, 1, 1]
    counts = [len(e) - 1 for e in edges]
    while math.prod(-(-c // g) for c, g in zip(counts, group, strict=True)) > MOST_CELLS:
        longest = max(range(3), key=lambda a: counts[a] / group[a])
        group[longest] *= 2
    filled = np.zeros([-(-c // g) for c, g in zip(counts, group, strict=True)], bool)
    edges = [np.append(e[:-1:g], e[-1]) for e, g in zip(edges, group, strict=True)]
    left = iter(indices)
    while batch := list(itertools.islice(left, _BATCH)):
        at = np.array(batch)
        at = at[np.all([at[:, o] == k for o, k in wanted.items()], axis=0)] if wanted else at
        at = (at[:, axes] - [first[o] for o in axes]) // group
        at = at[np.all((at >= 0) & (at < filled.shape), axis=1)]
        filled[tuple(at.T)] = True
    if filled.all():
        return None
    empty = np.unravel_index(int(np.argmin(filled)), filled.shape)
    voxel = tuple(int(e[i]) for e, i in zip(edges, empty, strict=True))
    value = array[voxel].read().result(timeout=READ_SECONDS).item()
    return Stored(tuple(edges), filled, value) if math.isfinite(value) else None
