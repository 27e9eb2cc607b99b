"""Chunks of a local array that lie there under other names than its metadata say.

TensorStore looks for the names that follow from the metadata. A chunk that it does not find is a chunk that was never
written, so a volume whose chunks have other names would read as zeros, image and labels alike. The names in the folder
tell the two apart: a sparse volume has few chunks or none, and nothing in their place.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterator
from typing import Any

from his4mae_jax.data.stores.location import Location
from his4mae_jax.errors import UserError

_MOST_FILES = 200  # looked at: each may lie in a folder of its own, on a disk of the network
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata", "attributes.json", "info", "provenance")
_NOTES = r"\..*|.*\.(md|txt|json|ya?ml|xml|html?|csv|log|png|jpe?g)|README.*|thumbs\.db|desktop\.ini"
_CHUNK_LIKE = re.compile(r"\.?(c[/.])?-?\d+([-_./]+\d+)*(\.\w+)*")  # indices or bounds, maybe with a suffix


@dataclasses.dataclass(frozen=True)
class Names:
    """What lies in the folder of an array.

    Attributes:
      folder: of the chunks, for messages.
      example: the name of a chunk, as the metadata give it.
      n_chunks: files with such names.
      others: files with other names, without notes and what desktops leave behind.
      like_chunks: those of them that look like chunks.
    """

    folder: str
    example: str
    n_chunks: int
    others: tuple[str, ...]
    like_chunks: tuple[str, ...]

    @property
    def gzipped(self) -> bool:
        """Whether chunks are gzip files."""
        return any(path.endswith(".gz") for path in self.like_chunks)

    @property
    def as_expected(self) -> bool:
        """Whether the names are those of the metadata, or there is nothing in their place."""
        return len(self.like_chunks) <= self.n_chunks and bool(self.n_chunks or not self.others)

    @property
    def nested(self) -> bool:
        """Whether chunks of zarr 2 lie in folders of their own, against the metadata."""
        numbers = all(re.fullmatch(r"\d+(/\d+)*", path) for path in self.like_chunks)
        return not self.as_expected and numbers and bool(self.like_chunks)

    def check(self) -> None:
        """Raises UserError where most files have names that the metadata do not give them."""
        if self.as_expected:
            return
        raise UserError(
            f"{self.folder}: {'no' if not self.n_chunks else 'hardly any'} chunk has a name that its metadata give it "
            f"(such as {self.example}); what lies there is {', '.join((self.like_chunks or self.others)[:3])}. It "
            "would be read as empty: correct the metadata or the names of the files, or write the volume again"
        )


def look(driver: str, spec: dict[str, Any], rank: int, location: Location) -> Names:
    """Looks at the names of files in the folder of an array.

    Args:
      driver: of TensorStore.
      spec: its specification of the array, with `metadata` or `scale_metadata`.
      rank: of the array.
      location: of the array, on a local disk.
    """
    folder, pattern, example = expected(driver, spec, rank)
    paths = list(itertools.islice(_files(os.path.join(location.path, folder)), _MOST_FILES))
    others = [path for path in paths if not pattern.fullmatch(path)]
    like_chunks = tuple(path for path in others if _CHUNK_LIKE.fullmatch(path))
    n_chunks = len(paths) - len(others)
    return Names(location.child(folder).name, example, n_chunks, tuple(_no_strangers(others)), like_chunks)


def expected(driver: str, spec: dict[str, Any], rank: int) -> tuple[str, re.Pattern, str]:
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
