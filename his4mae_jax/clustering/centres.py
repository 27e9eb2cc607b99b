"""Cluster centres: fitted once on a sample of voxels, saved, then only applied."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

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


def linear_scores(centres_by_size: Mapping[int, Centres]) -> dict[int, LinearScores]:
    """`{C: Centres}` as `VolumeEncoder.label` takes them."""
    return {size: centres.linear() for size, centres in centres_by_size.items()}


def save(path: str | os.PathLike, centres_by_size: Mapping[int, Centres], **facts: Any) -> None:
    """Writes `{C: Centres}` and facts (JSON) to an npz file, atomically."""
    part = f"{path}.partial"
    with open(part, "wb") as file:
        arrays = {f"centres_{size}": c.centres_CxM for size, c in centres_by_size.items()}
        arrays |= {f"projection_{size}": c.projection_DxM for size, c in centres_by_size.items()}
        arrays |= {f"group_{size}": c.group_C for size, c in centres_by_size.items() if c.group_C is not None}
        arrays |= {f"variance_{size}": np.float64(c.variance) for size, c in centres_by_size.items()}
        np.savez(file, facts=json.dumps(facts), **arrays)
    os.replace(part, path)


def load(path: str | os.PathLike) -> tuple[dict[int, Centres], dict[str, Any]]:
    """Reads `({C: Centres}, facts)` as `save` wrote them.

    Raises:
      UserError: the file is not one of ours.
    """
    try:
        with np.load(path) as data:
            facts = json.loads(str(data["facts"]))
            sizes = [int(k.removeprefix("centres_")) for k in data.files if k.startswith("centres_")]
            centres = {
                size: Centres(
                    data[f"centres_{size}"], data[f"projection_{size}"], data.get(f"group_{size}"),
                    float(data.get(f"variance_{size}", 1.0)),
                )
                for size in sorted(sizes)
            }  # fmt: skip
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a centres file ({error}); delete it and segment again") from error
    return centres, facts


def load_for(path: str | os.PathLike, sizes: list[int], digest: str) -> dict[int, Centres]:
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
            f"{pathlib.Path(path)}: no centres of {', '.join(map(str, missing))} clusters (there are "
            f"{', '.join(map(str, centres))}); set segment.clusters and evaluate.clusters accordingly"
        )
    return {size: centres[size] for size in sizes}
