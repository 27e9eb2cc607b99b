"""Chunks of a local array that lie there under other names than its metadata say.

TensorStore looks for the names that follow from the metadata. A chunk that it does not find is a chunk that was never
written, so a volume whose chunks have other names would read as zeros, image and labels alike. The names in the folder
tell the two apart: a sparse volume has few chunks or none, and nothing in their place.
"""

import itertools
import os
import re
from collections.abc import Iterator
from typing import Any

import tensorstore as ts

from his4mae_jax.data.stores.gzipped_chunks import open_gzipped
from his4mae_jax.data.stores.location import Location, open_array
from his4mae_jax.errors import UserError

_MOST_FILES = 200  # looked at: each may lie in a folder of its own, on a disk of the network
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata", "attributes.json", "info", "provenance")
_NOTES = r"\..*|.*\.(md|txt|json|ya?ml|xml|html?|csv|log|png|jpe?g)|README.*|thumbs\.db|desktop\.ini"
_CHUNK_LIKE = re.compile(r"\.?(c[/.])?-?\d+([-_./]+\d+)*(\.\w+)*")  # indices or bounds, maybe with a suffix


def open_chunks(
    driver: str, location: Location, missing_chunks: str, cache_bytes: int, **more: Any
) -> ts.TensorStore:  # fmt: skip
    """Opens an array as `location.open_array` does, whatever its chunks are called.

    Zarr 2 arrays with nested chunks and no `dimension_separator` are read, and so are precomputed chunks that were
    compressed as files of their own (NAME.gz, as CloudVolume writes them to disk). Arguments are those of `open_array`.

    Raises:
      UserError: also where most files in the folder are no chunks of this array.
    """
    array = open_array(driver, location, missing_chunks, cache_bytes, **more)
    if location.remote:
        return array
    metadata = array.spec().to_json()
    folder, pattern, example = _expected(driver, metadata, array.rank)
    n_chunks, others = 0, []
    for path in itertools.islice(_files(os.path.join(location.path, folder)), _MOST_FILES):
        if pattern.fullmatch(path):
            n_chunks += 1
        else:
            others.append(path)
    like_chunks = [path for path in others if _CHUNK_LIKE.fullmatch(path)]
    if driver == "neuroglancer_precomputed" and any(path.endswith(".gz") for path in like_chunks):
        return open_gzipped(array, location, missing_chunks, cache_bytes)
    if len(like_chunks) <= n_chunks and (n_chunks or not (others := _no_strangers(others))):
        return array
    if driver == "zarr" and all(re.fullmatch(r"\d+(/\d+)*", path) for path in like_chunks) and like_chunks:
        if "dimension_separator" not in location.read_json(".zarray")[".zarray"]:
            return open_array(
                driver, location, missing_chunks, cache_bytes, metadata={"dimension_separator": "/"}, **more
            )
    raise UserError(
        f"{location.child(folder).name}: {'no' if not n_chunks else 'hardly any'} chunk has a name that its metadata "
        f"give it (such as {example}); what lies there is {', '.join((like_chunks or others)[:3])}. It would be read "
        "as empty: correct the metadata or the names of the files, or write the volume again"
    )


def _expected(driver: str, spec: dict[str, Any], rank: int) -> tuple[str, re.Pattern, str]:
    """Folder of the chunks below that of the array, the pattern of their names, and one name."""
    if driver == "neuroglancer_precomputed":
        scale = spec["scale_metadata"]
        if scale.get("sharding"):
            return scale["key"], re.compile(r"[0-9a-f]+\.(shard|index|data)"), "0.shard"
        lows, sizes = scale.get("voxel_offset", (0, 0, 0)), scale["chunk_size"]
        bounds = "_".join(
            f"{low}-{low + min(n, size)}" for low, n, size in zip(lows, sizes, scale["size"], strict=True)
        )
        return scale["key"], re.compile(r"-?\d+--?\d+_-?\d+--?\d+_-?\d+--?\d+"), bounds
    prefix, separator = "", "/"
    if driver == "zarr":
        separator = spec["metadata"].get("dimension_separator", ".")
    elif driver == "zarr3":
        encoding = spec["metadata"]["chunk_key_encoding"]
        is_v2 = encoding["name"] == "v2"
        separator = encoding.get("configuration", {}).get("separator", "." if is_v2 else "/")
        prefix = "" if is_v2 else f"c{separator}"
    return (
        "",
        re.compile(re.escape(prefix) + re.escape(separator).join([r"\d+"] * rank)),
        prefix + separator.join("0" * rank),
    )


def _files(folder: str, prefix: str = "") -> Iterator[str]:
    """Paths of the files of a folder that are no metadata; folders that are arrays of their own are left out."""
    try:
        entries = os.scandir(folder)
    except OSError:
        return
    with entries:
        for entry in entries:
            if entry.is_dir():
                inner = os.path.join(folder, entry.name)
                is_index = entry.name.isdigit() or entry.name == "c"
                if is_index or not any(os.path.exists(os.path.join(inner, name)) for name in _METADATA):
                    yield from _files(inner, f"{prefix}{entry.name}/")
            elif entry.name not in _METADATA:
                yield prefix + entry.name


def _no_strangers(paths: list[str]) -> list[str]:
    """Those files that nobody would put beside chunks: neither notes nor what desktops leave behind."""
    return [
        path
        for path in paths
        if _CHUNK_LIKE.fullmatch(path) or not re.fullmatch(_NOTES, path.rpartition("/")[2], re.IGNORECASE)
    ]
