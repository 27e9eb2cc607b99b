"""Features of voxels for the baselines: Gaussians, gradient magnitudes and Laplacians, box by box without seams."""

import functools
from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

from his4mae_jax.data.volumes.blocks import known_value
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.in_memory import from_array
from his4mae_jax.data.volumes.volume import Box, VolumeLike

SIGMAS = {"intensity": (1.0,), "filters": (1.0, 1.6, 3.5, 5.0, 10.0)}  # voxels, on every axis
TRUNCATE = 3.0  # a filter reaches this many sigmas


def features(volume: VolumeLike, where: Box, kind: str, contrast: Contrast) -> np.ndarray:
    """Features of the voxels of one box.

    Equal to scipy.ndimage's `gaussian_filter`, `gaussian_gradient_magnitude` and
    `gaussian_laplace` (mode "reflect", truncate 3) of the whole volume, whatever the box.

    Returns:
      float32, (F, z, y, x) of the box: F = 1 for "intensity", and 15 for "filters" (the Gaussian
      at each sigma, then the gradient magnitudes, then the Laplacians). Not standardised.
    """
    sigmas = SIGMAS[kind]
    grown, _ = _grow(where, volume.shape, reach(kind))
    value, box = known_value(volume, grown), tuple(s.stop - s.start for s in where)
    if value is not None:
        return np.tile(features_of_value(volume, value, kind, contrast)[:, None, None, None], (1, *box))
    derivatives = kind == "filters"
    image = np.asarray(contrast.apply(volume.read(grown)), np.float32)
    result = np.empty((len(sigmas) * (3 if derivatives else 1), *box), np.float32)
    for i, sigma in enumerate(sigmas):
        needed, inner = _grow(where, volume.shape, _radius(sigma))
        offsets = [n.start - g.start for n, g in zip(needed, grown, strict=True)]
        part = image[tuple(slice(o, o + n.stop - n.start) for o, n in zip(offsets, needed, strict=True))]
        filters = [
            [_filter_matrix(size, s.start, s.stop, sigma, order) for order in range(3)]
            for size, s in zip(part.shape, inner, strict=True)
        ]
        if derivatives:
            result[i :: len(sigmas)] = _filters(part, filters)
        else:
            (z0, *_), (y0, *_), (x0, *_) = filters
            result[i] = _along_x(_along_y(_along_z(part, z0), y0), x0)
    return result


def features_of_value(volume: VolumeLike, value: float, kind: str, contrast: Contrast) -> np.ndarray:
    """Features, float32 (F,), of a voxel of `volume` around which all voxels have one grey value."""
    one = from_array(np.full((1, 1, 1), value, volume.dtype), volume.voxel_size_nm, volume.name)
    return features(one, (slice(0, 1),) * 3, kind, contrast).ravel()


def reach(kind: str) -> int:
    """Voxels that the widest filter reaches on each side."""
    return _radius(max(SIGMAS[kind]))


def _filters(image: np.ndarray, filters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaussian, gradient magnitude and Laplacian; filters[axis][order of the derivative].

    The passes along z and y are shared by all three: 15 in place of the 21 of three filters.
    """
    (z0, z1, z2), (y0, y1, y2), (x0, x1, x2) = filters
    smooth_z = _along_z(image, z0)
    smooth_zy = _along_y(smooth_z, y0)
    gaussian = _along_x(smooth_zy, x0)
    gradient = _along_x(smooth_zy, x1) ** 2
    laplacian = _along_x(smooth_zy, x2)
    gradient += _along_x(_along_y(smooth_z, y1), x0) ** 2
    laplacian += _along_x(_along_y(smooth_z, y2), x0)
    if z1.any():  # else there is one section
        gradient += _along_x(_along_y(_along_z(image, z1), y0), x0) ** 2
    laplacian += _along_x(_along_y(_along_z(image, z2), y0), x0)
    return gaussian, np.sqrt(gradient, out=gradient), laplacian


# A filter along one axis of a block is a matrix of (voxels out, voxels in). The matmul with it
# computes the block's own voxels only, not the halo's, and runs at the speed of BLAS: with a halo
# of 30 around a block of 64 × 128 × 128 it is several times as fast as ndimage's passes.


def _along_z(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    if matrix.shape == (1, 1):
        return image if matrix.item() == 1 else image * matrix.item()
    flat = matrix @ image.reshape(image.shape[0], -1)
    return flat.reshape(-1, *image.shape[1:])


def _along_y(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.matmul(matrix, image)


def _along_x(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    flat = image.reshape(-1, image.shape[2]) @ matrix.T
    return flat.reshape(*image.shape[:2], -1)


@functools.lru_cache(maxsize=512)
def _filter_matrix(size: int, start: int, stop: int, sigma: float, order: int) -> np.ndarray:
    """Rows start … stop of the Gaussian derivative filter on a line of `size` voxels.

    Filtering the unit vectors gives the filter's matrix, reflection at the ends included. Where
    an end is the volume's border that is what is wanted, elsewhere no row reaches it.
    """
    impulses = np.eye(size, dtype=np.float64)
    matrix = gaussian_filter1d(impulses, sigma, axis=0, order=order, mode="reflect", truncate=TRUNCATE)
    return np.ascontiguousarray(matrix[start:stop], np.float32)


def _radius(sigma: float) -> int:
    return int(TRUNCATE * sigma + 0.5)  # as in scipy.ndimage


def _grow(where: Box, shape: Sequence[int], halo: int) -> tuple[Box, Box]:
    """The box with its halo, clipped to the volume; and where the box lies inside of that."""
    grown = tuple(slice(max(s.start - halo, 0), min(s.stop + halo, size)) for s, size in zip(where, shape, strict=True))
    inner = tuple(slice(s.start - g.start, s.stop - g.start) for s, g in zip(where, grown, strict=True))
    return grown, inner
