"""Names and colours of labels as pictures show them: those of clusters.yaml where it is of these labels."""

import dataclasses

from his4mae_jax import palette
from his4mae_jax.bucket.path import Place
from his4mae_jax.naming import clusters_file
from his4mae_jax.output import records


@dataclasses.dataclass(frozen=True)
class Shown:
    """How labels are shown.

    Attributes:
      names: by label, all of them.
      colours: "#RRGGBB" by label; labels of one name have one colour.
      ignored: labels whose voxels the user wants without a label.
      fractions: of the labelled voxels, by label, as far as they were measured.
      stale: whether there is a clusters.yaml that names clusters of other centres.
    """

    names: dict[int, str]
    colours: dict[int, str]
    ignored: frozenset[int] = frozenset()
    fractions: dict[int, float] = dataclasses.field(default_factory=dict)
    stale: bool = False


def shown(folder: Place, labels: int) -> Shown:
    """How the labels in a folder are shown: "cluster 1", ... in the colours of the palette, unless they are named.

    Args:
      folder: with the labels, centres.npz and clusters.yaml.
      labels: how many there are.

    Raises:
      UserError: clusters.yaml or centres.npz is damaged.
    """
    names = {i: f"cluster {i}" for i in range(1, labels + 1)}
    colours = {i: palette.colour(i) for i in names}
    path = folder / clusters_file.FILE
    if not path.exists():
        return Shown(names, colours)
    named = clusters_file.read(path)
    if named.centres != records.centres_digest(folder, labels):
        return Shown(names, colours, stale=True)
    clusters = [c for c in named.clusters if c.id in names]
    names |= {c.id: c.name for c in clusters}
    colours |= {c.id: c.colour for c in clusters}
    for organelle in named.organelles().values():
        colours |= {i: organelle.colour for i in organelle.clusters if i in names}
    ignored = frozenset(c.id for c in clusters if c.ignored)
    return Shown(names, colours, ignored, {c.id: c.fraction for c in clusters if c.fraction is not None})
