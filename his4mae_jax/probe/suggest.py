"""Where to label next: the voxels that a classifier is least sure of, apart from each other."""

import csv
import io

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import softmax

from his4mae_jax import files
from his4mae_jax.bucket.path import PathLike, place
from his4mae_jax.data.volumes.volume import Triple


def least_sure(logits_MxK: np.ndarray, index_Mx3: np.ndarray, labelled_Lx3: np.ndarray, count: int) -> np.ndarray:
    """Rows of the voxels to label next, the least sure first.

    Sure is the difference of the two largest probabilities. A voxel within a distance of one that is suggested before,
    or labelled, is passed over: neighbours say the same. The distance begins at a quarter of the volume and shrinks
    until there are as many as wanted.

    Args:
      logits_MxK: of a sample of voxels.
      index_Mx3: where these lie.
      labelled_Lx3: voxels that have a label.
      count: voxels wanted; fewer where the sample has no more.
    """
    top = np.sort(softmax(logits_MxK, axis=1), axis=1)
    order = np.argsort(top[:, -1] - top[:, -2], kind="stable")
    order = order[: max(count, len(order) // 10)]  # of the rest the classifier is sure
    distance = np.ptp(index_Mx3, axis=0).max() / 4
    chosen: list[int] = []
    while len(chosen) < min(count, len(order)) and distance >= 1:
        chosen, near_label = [], cKDTree(labelled_Lx3).query(index_Mx3[order])[0] < distance / 4
        for row in order[~near_label]:
            if len(chosen) == count:
                break
            if not chosen or (np.linalg.norm(index_Mx3[chosen] - index_Mx3[row], axis=1) >= distance).all():
                chosen.append(int(row))
        distance /= 1.5
    return np.array(chosen, int)


def write_suggestions(
    path: PathLike,
    index_Mx3: np.ndarray,
    logits_MxK: np.ndarray,
    names: tuple[str, ...],
    scale: Triple,
) -> None:
    """Writes `suggest.csv`: `z, y, x` in voxels of the image, an empty `class` to fill in, the guess, its probability.

    Args:
      path: of the file.
      index_Mx3: voxels of the image that the encoder sees.
      logits_MxK: of these.
      names: of the classes.
      scale: voxel size of that image over that of the stored one (z, y, x).
    """
    probability_MxK = softmax(logits_MxK, axis=1)
    at = np.floor((index_Mx3 + 0.5) * scale).astype(int)  # the voxel that holds its centre
    lines = [["z", "y", "x", "class", "guess", "probability"]]
    for point, row in zip(at, probability_MxK, strict=True):
        lines.append([*map(str, point), "", names[int(row.argmax())], f"{row.max():.3f}"])
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    with files.writing(path):
        files.write_text(place(path), text.getvalue())
