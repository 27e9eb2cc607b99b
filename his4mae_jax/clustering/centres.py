"""Cluster centres, and classes of a few labels: fitted once, saved, then only applied."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from his4mae_jax.bucket.path import BucketPath, PathLike, place
from his4mae_jax.clustering.centres_file import reading
from his4mae_jax.errors import UserError
from his4mae_jax.inference.score_maps import LinearScores

MAX_LABELS = 254  # clusters whose ids fit uint8; 255 stays free, which other programs read as "ignore"


@dataclasses.dataclass(frozen=True)
class Centres:
    """C cluster centres and the linear map of features before distances are taken.

    A voxel with features z belongs to the centre c with the smallest |z P - c|^2.

    Attributes:
      centres_CxM: float32.
      projection_DxM: P, the identity for plain k-means.
      group_C: label of each centre (integers), where several centres share one; None: the centre's own number.
      variance: the mean of (z P - c)^2 over the voxels of a cluster and over M: with it distances become
        probabilities.
    """

    centres_CxM: np.ndarray
    projection_DxM: np.ndarray
    group_C: np.ndarray | None = None
    variance: float = 1.0

    def linear(self) -> LinearScores:
        """The scores |z P - c|^2 - |z P - m|^2, which are linear in z.

        m is the mean centre: what is subtracted is the same for all centres, and leaves the differences between them,
        which float32 then holds to full precision.
        """
        centres = self.centres_CxM.astype(np.float64)
        middle = centres.mean(axis=0)
        weights = -2.0 * (centres - middle) @ self.projection_DxM.T.astype(np.float64)
        offset = np.sum(centres**2, axis=1) - np.sum(middle**2)
        return LinearScores(weights.astype(np.float32), offset.astype(np.float32), self.group_C, self.variance)


@dataclasses.dataclass(frozen=True)
class Classes:
    """Logits of named classes, as a few labels give them (`his4mae_jax.probe`).

    A voxel with features z belongs to the class with the largest `offset + W h(z)`.

    Attributes:
      names: of the K classes.
      weights_KxH: float32.
      offset_K: float32.
      hidden: (weights `(D, H)`, bias `(H,)`) of h(z) = gelu(z weights + bias); None: h(z) = z.
      texture: see `LinearScores`; D is then twice that of the encoder.
    """

    names: tuple[str, ...]
    weights_KxH: np.ndarray
    offset_K: np.ndarray
    hidden: tuple[np.ndarray, np.ndarray] | None = None
    texture: float = 0.0

    def linear(self) -> LinearScores:
        """The logits with the other sign: of scores the smallest counts. Their softmax is that of the logits."""
        return LinearScores(-self.weights_KxH, -self.offset_K, variance=0.5, hidden=self.hidden, texture=self.texture)


Labelling = Mapping[int, Centres | Classes]  # by the number of labels


def linear_scores(centres_by_size: Labelling) -> dict[int, LinearScores]:
    """`{C: Centres or Classes}` as `VolumeEncoder.label` takes them."""
    return {size: centres.linear() for size, centres in centres_by_size.items()}


def save(path: PathLike, centres_by_size: Labelling, **facts: Any) -> None:
    """Writes `{C: Centres}`, one of which may be `Classes`, and facts (JSON) to an npz file, atomically."""
    target, arrays = place(path), {}
    for size, c in centres_by_size.items():
        if isinstance(c, Classes):
            arrays |= {"class_weights": c.weights_KxH, "class_offset": c.offset_K}
            arrays |= {} if c.hidden is None else {"class_hidden": c.hidden[0], "class_hidden_bias": c.hidden[1]}
            facts = {**facts, "class_names": list(c.names)} | ({"texture": c.texture} if c.texture else {})
            continue
        arrays |= {f"centres_{size}": c.centres_CxM, f"projection_{size}": c.projection_DxM}
        arrays |= {} if c.group_C is None else {f"group_{size}": c.group_C}
        arrays |= {f"variance_{size}": np.float64(c.variance)}
    part = target if isinstance(target, BucketPath) else target.with_name(f"{target.name}.partial")
    with part.open("wb") as file:
        np.savez(file, facts=json.dumps(facts), **arrays)
    if not isinstance(target, BucketPath):
        os.replace(part, target)


def load(path: PathLike) -> tuple[dict[int, Centres | Classes], dict[str, Any]]:
    """Reads what `save` wrote, and the facts; classes of as many labels stand in place of centres.

    Raises:
      UserError: the file is not one of ours.
    """
    with reading(path) as data:
        facts = json.loads(str(data["facts"]))
        sizes = [int(k.removeprefix("centres_")) for k in data.files if k.startswith("centres_")]
        centres = {
            size: Centres(
                data[f"centres_{size}"], data[f"projection_{size}"], data.get(f"group_{size}"),
                float(data.get(f"variance_{size}", 1.0)),
            )
            for size in sorted(sizes)
        }  # fmt: skip
        if "class_names" in facts:
            names = tuple(facts["class_names"])
            hidden = (data["class_hidden"], data["class_hidden_bias"]) if "class_hidden" in data else None
            centres[len(names)] = Classes(
                names, data["class_weights"], data["class_offset"], hidden, facts.get("texture", 0.0)
            )
        for size, each in centres.items():
            _check(size, each)
    return centres, facts


def _check(size: int, centres: Centres | Classes) -> None:
    """Raises `ValueError` where arrays do not fit each other, or hold what is no number."""
    if isinstance(centres, Classes):
        rows, arrays = centres.weights_KxH, [centres.weights_KxH, centres.offset_K, *(centres.hidden or ())]
        fits = centres.offset_K.shape == (size,) and all(isinstance(name, str) for name in centres.names)
        fits = fits and isinstance(centres.texture, int | float) and 0 <= centres.texture < math.inf
        if fits and centres.hidden:
            fits = centres.hidden[0].ndim == 2 and centres.hidden[1].shape == (rows.shape[-1],) == rows.shape[1:]
    else:
        rows, arrays = centres.centres_CxM, [centres.centres_CxM, centres.projection_DxM, np.asarray(centres.variance)]
        fits = centres.projection_DxM.ndim == 2 and centres.projection_DxM.shape[1:] == rows.shape[1:]
        group_C = np.arange(size) if centres.group_C is None else centres.group_C
        fits = fits and group_C.shape == rows.shape[:1] and set(group_C.tolist()) <= set(range(size))
    if not fits or rows.ndim != 2 or len(rows) < size:
        raise ValueError(f"its arrays of {size} labels do not fit each other")
    if not all(np.issubdtype(array.dtype, np.number) and np.isfinite(array).all() for array in arrays):
        raise ValueError(f"its arrays of {size} labels hold values that are no numbers")


def class_names(path: PathLike) -> tuple[str, ...]:
    """Names of the classes of a centres file; empty where it has cluster centres only, or the path is empty."""
    if not path:
        return ()
    return tuple(load(path)[1].get("class_names", ()))  # all of it: damage is told before any work


def class_texture(path: PathLike) -> float:
    """The `Classes.texture` of a centres file; 0 where it has cluster centres only, or the path is empty."""
    return load(path)[1].get("texture", 0.0) if path else 0.0


def load_for(path: PathLike, sizes: list[int], digest: str) -> dict[int, Centres | Classes]:
    """The centres that another segmentation left, for the features of the same encoder.

    Args:
      path: of the npz file.
      sizes: numbers of clusters that are needed.
      digest: `fit.encoder_digest` of the encoder.

    Raises:
      UserError: it was fitted on features of another encoder, or lacks a number of clusters.
    """
    centres, facts = load(path)
    if facts.get("encoder_digest") != digest:
        raise UserError(
            f"{path}: these centres were fitted on features of another checkpoint or encoder, which mean something "
            "else; give those of this training, or leave segment.centres_file empty"
        )
    missing = sorted(set(sizes) - set(centres))
    if missing:
        raise UserError(
            f"{path}: no centres of {', '.join(map(str, missing))} clusters (there are "
            f"{', '.join(map(str, centres))}); set segment.clusters and evaluate.clusters accordingly"
        )
    return {size: centres[size] for size in sizes}
