"""What `probe_labels.py` compares the probe with: a random forest on filter features of the image, as ilastik has.

At each of several sigmas: the Gaussian, the Laplacian of Gaussian, the gradient magnitude, and eigenvalues of the
structure tensor and of the Hessian. Of each tensor the largest eigenvalue is taken, or all of them. Where voxels are
anisotropic the filters run within slices, which is what ilastik's 2D features are.
"""

import itertools

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.ensemble import RandomForestClassifier

SIGMAS = (1.0, 2.0, 4.0)  # voxels: with five features each, 15
ALL_SIGMAS = (0.7, 1.0, 1.6, 3.5, 5.0)  # ilastik's, but for 0.3 and 10


def filter_features(
    image: np.ndarray,
    index_Mx3: np.ndarray,
    sigmas: tuple[float, ...] = SIGMAS,
    axes: tuple[int, ...] = (0, 1, 2),
    every_eigenvalue: bool = False,
) -> np.ndarray:
    """Filter features at M voxels of an image `(z, y, x)`: `(M, F)` float32.

    Args:
      image: grey levels.
      index_Mx3: voxels.
      sigmas: of the Gaussians, in voxels.
      axes: along which the image is filtered.
      every_eigenvalue: all eigenvalues of the two tensors, not only the largest.
    """
    image, at = image.astype(np.float32), tuple(index_Mx3.T)
    first = -len(axes) if every_eigenvalue else -1
    columns = []
    for sigma in sigmas:
        smooth = _derivative(image, sigma, axes)
        slopes = {a: _derivative(image, sigma, axes, a) for a in axes}
        pairs = list(itertools.combinations_with_replacement(axes, 2))
        hessian = {pair: _derivative(image, sigma, axes, *pair)[at] for pair in pairs}
        # The inner scale is the sigma, the outer one half of it, as in ilastik.
        tensor = {(a, b): _derivative(slopes[a] * slopes[b], 0.5 * sigma, axes)[at] for a, b in pairs}
        columns += [smooth[at], sum(hessian[a, a] for a in axes), np.sqrt(sum(slopes[a][at] ** 2 for a in axes))]
        for matrices in (tensor, hessian):
            values = np.linalg.eigvalsh(_symmetric(matrices, axes))
            columns += list(values[:, first:].T)
    return np.stack(columns, axis=1).astype(np.float32)


def fit_forest(features_MxF: np.ndarray, class_M: np.ndarray, seed: int) -> RandomForestClassifier:
    """A forest of 100 trees, ilastik's number."""
    return RandomForestClassifier(100, random_state=seed, n_jobs=-1).fit(features_MxF, class_M)


def _derivative(image: np.ndarray, sigma: float, axes: tuple[int, ...], *along: int) -> np.ndarray:
    """The image smoothed along `axes`, and derived once along each axis of `along`."""
    order = [along.count(axis) for axis in range(3)]
    return gaussian_filter(image, [sigma if axis in axes else 0 for axis in range(3)], order, truncate=4.0)


def _symmetric(parts: dict[tuple[int, int], np.ndarray], axes: tuple[int, ...]) -> np.ndarray:
    """Matrices `(M, A, A)` from their entries on and above the diagonal."""
    rows = [[parts[min(a, b), max(a, b)] for b in axes] for a in axes]
    return np.moveaxis(np.array(rows), -1, 0)
