"""The file clusters.yaml, in which the user names the clusters of a label volume."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from his4mae_jax import palette
from his4mae_jax.bucket.path import BucketPath, Place
from his4mae_jax.bucket.transfer import is_whole
from his4mae_jax.errors import UserError
from his4mae_jax.files import read_yaml, write_text

FILE = "clusters.yaml"
IGNORE = "ignore"  # the name, in any case, of clusters whose voxels get no label
HEADER = """\
# The clusters of labels.ome.zarr. Edit the names, then run: his4mae name --workdir=<that of the run>
#
# - Clusters with one name are merged:   name: mitochondria
# - A cluster without a label is named:  name: ignore
# - A colour is "#RRGGBB", in quotes; merged clusters have the colour of the first of them.
#
# fraction: of the labelled voxels; mean_grey: of the stored image. Leave id and centres as they are: centres is a hash
# by which the names are found again when the same cluster centres segment another volume.
"""
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_ENTRY = ("id", "name", "colour", "fraction", "mean_grey")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One cluster: its label, name, colour "#RRGGBB", fraction of the labelled voxels, and mean grey value."""

    id: int
    name: str
    colour: str
    fraction: float | None = None
    mean_grey: float | None = None

    @property
    def ignored(self) -> bool:
        """Whether its voxels get no label."""
        return self.name.lower() == IGNORE


@dataclasses.dataclass(frozen=True)
class Organelle:
    """The clusters (their ids) that share a name; `colour` is that of the first of them."""

    name: str
    colour: str
    clusters: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Clusters:
    """The content of clusters.yaml.

    Attributes:
      centres: hash of the cluster centres that the names are of (`records.centres_digest`).
      volume: name of the segmented volume.
      clusters: in the order of the file.
    """

    centres: str
    volume: str
    clusters: tuple[Cluster, ...]

    def organelles(self) -> dict[int, Organelle]:
        """The organelles by id: 1, 2, ... in the order in which their names first appear."""
        members: dict[str, list[Cluster]] = {}
        for cluster in self.clusters:
            if not cluster.ignored:
                members.setdefault(cluster.name, []).append(cluster)
        return {
            i: Organelle(name, same[0].colour, tuple(c.id for c in same))
            for i, (name, same) in enumerate(members.items(), 1)
        }

    def renamed(self, names: Mapping[int, str]) -> "Clusters":
        """The same with other names of some clusters, by id."""
        clusters = (dataclasses.replace(c, name=names.get(c.id, c.name)) for c in self.clusters)
        return dataclasses.replace(self, clusters=tuple(clusters))

    def text(self) -> str:
        """The content as YAML, with the comment that says how to use the file."""
        entries = [dataclasses.asdict(c) for c in self.clusters]
        content = {"centres": self.centres, "volume": self.volume, "clusters": entries}
        return HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def untouched(path: Place, names: Mapping[int, str]) -> bool:
    """Whether nothing in the file is the user's: our text, with these names and the colours of the palette."""
    clusters = read(path)
    own = all(c.name == names.get(c.id) and c.colour == palette.colour(c.id) for c in clusters.clusters)
    return own and path.read_text("utf-8") == clusters.text()


def write(path: Place, clusters: Clusters) -> Place | None:
    """Writes the file atomically; what is there is kept as clusters.previous-<N>.yaml, whose path is returned."""
    aside = None
    if is_whole(path):
        number = 1
        while is_whole(aside := path.with_name(f"clusters.previous-{number}.yaml")):
            number += 1
        if isinstance(aside, BucketPath):
            aside.write_bytes(path.read_bytes())
        else:
            os.rename(path, aside)
    write_text(path, clusters.text())
    return aside


def read(path: Place, ids: Sequence[int] | None = None) -> Clusters:
    """Reads the file.

    Args:
      path: of the file.
      ids: those of the clusters that there are; None: they are not checked.

    Raises:
      UserError: one line that says what is wrong where.
    """
    content = read_yaml(path, missing="`his4mae segment` with this workdir writes it anew", remedy=_REMEDY)
    entries = content.get("clusters") if isinstance(content, dict) else None
    centres = content.get("centres") if isinstance(content, dict) else None
    if not isinstance(centres, str) or not isinstance(entries, list):
        raise UserError(f"{path}: without the entries centres (text) and clusters (a list); {_REMEDY}")
    clusters = tuple(_cluster(path, number, entry) for number, entry in enumerate(entries, 1))
    seen: set[int] = set()
    for cluster in clusters:
        if cluster.id in seen:
            raise UserError(f"{path}: cluster {cluster.id} is listed twice; keep one entry for each cluster")
        seen.add(cluster.id)
    if ids is not None:
        if unknown := sorted(seen - set(ids)):
            raise UserError(
                f"{path}: there is no cluster {', '.join(map(str, unknown))}: the labels have {_listed(ids)}; "
                "remove the entry, or correct its id"
            )
        if missing := sorted(set(ids) - seen):
            raise UserError(
                f"{path}: cluster {', '.join(map(str, missing))} has no entry; add one, with the name {IGNORE!r} if "
                "its voxels are to have no label"
            )
    return Clusters(centres, str(content.get("volume", "")), clusters)


_REMEDY = "correct it, or move it elsewhere and run `his4mae segment` again, which writes a new one"


def _cluster(path: Place, number: int, entry: Any) -> Cluster:
    if not isinstance(entry, dict) or type(entry.get("id")) is not int:
        raise UserError(f"{path}: entry {number} of clusters has no id that is a whole number; {_REMEDY}")
    where = f"{path}: cluster {entry['id']}"
    if unknown := [str(key) for key in entry if key not in _ENTRY]:
        raise UserError(f"{where} has the unknown key {unknown[0]!r}; the keys are {', '.join(_ENTRY)}")
    name, colour = entry.get("name"), entry.get("colour")
    if name is None or (isinstance(name, str) and not name.strip()):
        raise UserError(f"{where} has no name; give it one, or {IGNORE!r} if its voxels are to have no label")
    if not isinstance(name, str):
        raise UserError(f"{where}: the name {name!r} is no text; put it in quotes")
    if not name.strip().isprintable():
        raise UserError(f"{where}: the name {name!r} holds a character that cannot be printed; remove it")
    if not isinstance(colour, str) or not _COLOUR.fullmatch(colour):
        given = "no colour (a # begins a comment unless it is in quotes)" if colour is None else f"{colour!r}"
        raise UserError(f'{where}: the colour is {given}; give "#RRGGBB" in quotes, such as "#56B4E9"')
    for key in ("fraction", "mean_grey"):
        value = entry.get(key)
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise UserError(f"{where}: {key} is {value!r}, not a number; remove the line")
    return Cluster(entry["id"], name.strip(), colour, entry.get("fraction"), entry.get("mean_grey"))


def _listed(ids: Sequence[int]) -> str:
    return f"{min(ids)} to {max(ids)}" if len(ids) > 1 else ", ".join(map(str, ids))
