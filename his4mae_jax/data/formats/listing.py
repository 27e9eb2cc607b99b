"""What can be opened below a folder, a container or a zip file, for a message that names the paths to give."""

import collections
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from his4mae_jax.data.formats.chunked import n5, precomputed
from his4mae_jax.data.formats.chunked.ome_multiscales import multiscales
from his4mae_jax.data.formats.chunked.zarr import FILES as ZARR_FILES
from his4mae_jax.data.formats.chunked.zarr import node
from his4mae_jax.data.stores.location import Location
from his4mae_jax.errors import UserError

METADATA = (*ZARR_FILES, n5.FILE, precomputed.FILE)
_MOST_FOLDERS, _MOST_NAMED = 300, 12
_SLICES = 16  # images of a folder from which on they are slices, and not volumes each


def several(location: Location, suffixes: tuple[str, ...], images: tuple[str, ...] = ()) -> str | None:
    """Says what can be opened below a place, for a message: "holds 2 volumes; give the path of one: A, B".

    Args:
      location: a folder of a disk, a zip file, or a zarr group with consolidated metadata; others are not searched.
      suffixes: of single files that can be opened, in lower case.
      images: those of them that may also be slices.

    Returns:
      None if nothing was found, or the place is not searched.
    """
    try:
        found = _volumes(location, suffixes, images)
    except (OSError, UserError, TypeError, AttributeError):  # the message that this belongs to says more
        return None
    if not found:
        return None
    paths = [location.child(path).name for path in found]
    if len(paths) == 1:
        return f"holds one volume; give its path: {paths[0]}"
    return f"holds {len(paths)} volumes; give the path of one: {ready(paths)}"


def ready(paths: Iterable[str]) -> str:
    """Paths for a message, the first few of many."""
    paths = list(paths)
    more = f", and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return ", ".join(paths[:_MOST_NAMED]) + more


def _volumes(location: Location, suffixes: tuple[str, ...], images: tuple[str, ...]) -> list[str]:
    """Paths of volumes below a place, relative to it."""
    if not (location.on_disk or location.zipped):
        return _consolidated(location)
    tree = _zip_tree(location) if location.zipped else None
    found, queue, seen = [], collections.deque([""]), 0
    while queue and seen < _MOST_FOLDERS:
        folder, seen = queue.popleft(), seen + 1
        folders, files = _disk_entries(location, folder) if tree is None else tree.get(folder, ([], []))
        inside = [f"{folder}/{name}".lstrip("/") for name in folders]
        metadata = [name for name in files if name in METADATA]
        kind = _kind(location, folder, metadata) if metadata else "folder"
        if kind == "folder" and "s0" in folders and n5.has_levels(location.child(folder)):
            kind = "volume"
        if kind == "volume" and folder:
            found.append(folder)
        if kind != "folder":
            queue.extend(path for path in inside if kind == "group" or path.rpartition("/")[2] == "labels")
            continue
        single = [name for name in files if name.lower().endswith(suffixes)]
        slices = [name for name in files if name.lower().endswith(images)] if images else []
        if folder and len(slices) >= _SLICES:
            found.append(folder)
            single = [name for name in single if name not in slices]
        found += [f"{folder}/{name}".lstrip("/") for name in single]
        queue.extend(inside)
    return sorted(found)


def _consolidated(location: Location) -> list[str]:
    """Paths of volumes of a zarr group by its consolidated metadata, which also a web server has."""
    files = location.read_json(".zmetadata", "zarr.json")
    nodes: dict[str, dict[str, Any]] = collections.defaultdict(dict)
    for path, content in files.get(".zmetadata", {}).get("metadata", {}).items():
        folder, _, name = path.rpartition("/")
        nodes[folder][name] = content
    for folder, content in (files.get("zarr.json", {}).get("consolidated_metadata") or {}).get("metadata", {}).items():
        nodes[folder]["zarr.json"] = content
    kinds = {folder: _zarr_kind(content) for folder, content in nodes.items()}
    groups = [folder for folder, content in nodes.items() if kinds[folder] == "volume" and not node(content)[2]]
    return sorted(
        folder
        for folder, kind in kinds.items()
        if kind == "volume" and folder and not any(folder.startswith(f"{group}/") for group in groups)
    )


def _zarr_kind(files: dict[str, dict[str, Any]]) -> str:
    own = node(files)
    if own is None or not own[2]:
        return "volume" if own is not None and multiscales(own[1]) else "group"
    shape = files.get("zarr.json" if own[0] == "zarr3" else ".zarray", {}).get("shape", ())
    return "volume" if len(shape) >= 3 else "other"


def _kind(location: Location, folder: str, metadata: list[str]) -> str:
    """ "volume", "group" for what may hold volumes, "other" for arrays that are none."""
    try:
        files = location.child(folder).read_json(*metadata)
    except UserError:
        return "other"
    if node(files) is not None:
        return _zarr_kind(files)
    if n5.FILE in files:
        attributes = files[n5.FILE]
        if "dimensions" in attributes:
            return "volume" if len(attributes["dimensions"]) >= 3 else "other"
        return "volume" if n5.has_levels(location.child(folder)) else "group"
    return "volume" if "scales" in files.get(precomputed.FILE, {}) else "group"


def _disk_entries(location: Location, folder: str) -> tuple[list[str], list[str]]:
    """Names of (folders, files) in a folder of a disk, without hidden ones."""
    with os.scandir(pathlib.Path(location.path, folder)) as entries:
        shown = sorted((e for e in entries if e.name in METADATA or not e.name.startswith(".")), key=lambda e: e.name)
    return [e.name for e in shown if e.is_dir()], [e.name for e in shown if not e.is_dir()]


def _zip_tree(location: Location) -> dict[str, tuple[list[str], list[str]]]:
    """Names of (folders, files) in each folder of a zip file."""
    tree: dict[str, tuple[set[str], list[str]]] = collections.defaultdict(lambda: (set(), []))
    for path in location.entries():
        folder, _, name = path.rpartition("/")
        tree[folder][1].append(name)
        while folder:
            above, _, name = folder.rpartition("/")
            tree[above][0].add(name)
            folder = above
    return {folder: (sorted(folders), files) for folder, (folders, files) in tree.items()}
