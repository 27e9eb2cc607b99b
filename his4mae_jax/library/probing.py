"""Classes from a few labels in Python: what `Encoder.probe` takes and returns."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np

from his4mae_jax.clustering.centres import Classes
from his4mae_jax.data.volumes.in_memory import from_array
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.library.segmentation import ClusterCentres
from his4mae_jax.library.volumes import is_path
from his4mae_jax.probe.fit import Probe
from his4mae_jax.probe.points import Points

Labels = str | os.PathLike | VolumeLike | np.ndarray | Mapping[str, Sequence[Sequence[float]]]


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeClasses(ClusterCentres):
    """Named classes in the feature space of one encoder; `Encoder.segment` takes them as `centres`.

    Attributes:
      names: of the labels 1, 2, ...
      dice: by class (mean, standard deviation) over the folds of cross-validation; None where none tests it.
      suggestions: voxels `(S, 3)` of the labelled volume to label next, the least sure first.
    """

    names: tuple[str, ...]
    dice: dict[str, tuple[float, float] | None]
    suggestions: np.ndarray

    @classmethod
    def of(cls, fitted: Probe, digest: str, own: VolumeLike, image: VolumeLike) -> "ProbeClasses":
        """The classes of a fitted probe.

        Args:
          fitted: on `image`.
          digest: of the encoder.
          own: the grid of the volume that was labelled.
          image: the same as the encoder sees it.
        """
        classes: Classes = fitted.classes
        scale = np.array(image.voxel_size_nm) / own.voxel_size_nm
        at = np.floor((fitted.suggested_Sx3 + 0.5) * scale).astype(int)
        dice = dict(zip(classes.names, fitted.classifier.dice(), strict=True))
        return cls(len(classes.names), classes, digest, classes.names, dice, at)


def as_labels(labels: Labels, own: VolumeLike) -> str | os.PathLike | VolumeLike | Points:
    """Labels as `probe.labels.read_labels` takes them.

    Args:
      labels: a path, an open volume, an array (z, y, x) of ids, or voxels (z, y, x) by the name of their class.
      own: the volume that was labelled.

    Raises:
      UserError: they are none of these.
    """
    if is_path(labels) or hasattr(labels, "read"):
        return labels
    if not isinstance(labels, Mapping):
        return from_array(labels, own.voxel_size_nm, "labels", image=False)
    voxels, names, where = [], [], []
    for name, points in labels.items():
        try:
            array = np.asarray(points, float).reshape(-1, 3) if len(points) else np.zeros((0, 3))
        except (TypeError, ValueError) as error:
            raise UserError(f"labels: those of {name!r} are not voxels (z, y, x)") from error
        if not np.isfinite(array).all():
            raise UserError(f"labels: a voxel of {name!r} is not finite")
        voxels.append(array)
        names += [str(name)] * len(array)
        where += [f"point {i} of {name}" for i in range(len(array))]
    if not names:
        raise UserError("labels: no labelled point")
    return Points(np.concatenate(voxels), tuple(names), tuple(where), "labels")
