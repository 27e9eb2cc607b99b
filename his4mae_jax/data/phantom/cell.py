"""A synthetic beta cell in volume EM, with exact ground truth (not real data, no real data used).

Modelled structures: nucleus (eu- and heterochromatin, nucleolus, double envelope with pores), bent
tubular mitochondria (double membrane, dark matrix, lamellar cristae), insulin granules (eccentric
dense core, bright halo, limiting membrane), endoplasmic reticulum sheets, Golgi stacks with
vesicles, ribosomes, plasma membrane, the extracellular gap and the cytoplasm of neighbours; then
the FIB-SEM: blur, slow drift of brightness and contrast, shading, curtaining and shot noise.

Nucleus, granules and the rest of the cell have nearly the same mean grey, mitochondria are darker,
and the histograms of all four overlap: grey values alone do not tell the classes apart, texture
does. Lengths are physical (nm) and converted to voxels once per structure; grey values run from 0
(dark, heavily stained) to 1 (bright).

`layout` places the structures, `organelles` draws them, `_acquire` here turns the drawing into an image.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from his4mae_jax.data.phantom.layout import (
    cell_distance,
    nucleus_distance,
    place_golgi,
    place_granules,
    place_mitochondria,
)
from his4mae_jax.data.phantom.noise import smooth_noise
from his4mae_jax.data.phantom.organelles import (
    CLASSES,
    UNRECOGNIZED,
    draw_cytoplasm,
    draw_golgi,
    draw_granules,
    draw_mitochondria,
    draw_nucleus,
    draw_plasma_membrane,
)
from his4mae_jax.data.volumes.labels import IGNORE

__all__ = ("CLASSES", "Phantom", "make_phantom")

_MIN_SIDE = 64  # voxels
_MIN_SIDE_NM = 1024.0  # a smaller box has no room for one organelle of each class


@dataclasses.dataclass(frozen=True)
class Phantom:
    """One synthetic volume.

    Attributes:
      image_ZxYxX: grey values, uint8; membranes and dense material are dark.
      labels_ZxYxX: uint8 index into `CLASSES`, or `IGNORE` for voxels outside the cell (not scored).
      voxel_size_nm: edge length of the (isotropic) voxel in nm.
    """

    image_ZxYxX: np.ndarray
    labels_ZxYxX: np.ndarray
    voxel_size_nm: float


def make_phantom(shape: Sequence[int] = (256, 256, 256), seed: int = 0, voxel_size_nm: float = 16.0) -> Phantom:
    """Draws one beta cell.

    Args:
      shape: voxels along z, y and x; at least 64 (and 1024 nm) each. Organelles keep their real size, so a smaller box
        holds fewer of them; cell and nucleus scale with the box down to a cell 2.5 um across, of which a box smaller
        than that holds one corner.
      seed: the same seed, shape and voxel size give the same volume, whatever NumPy's global state.
      voxel_size_nm: edge length of a voxel in nm.

    Returns:
      Image, labels and voxel size.

    Raises:
      ValueError: the box is too small.
    """
    shape = tuple(int(side) for side in shape)
    if len(shape) != 3 or min(shape) < _MIN_SIDE:
        raise ValueError(f"shape must be three sides of at least {_MIN_SIDE} voxels, got {shape}")
    if not min(shape) * voxel_size_nm >= _MIN_SIDE_NM:
        raise ValueError(f"each side must span {_MIN_SIDE_NM:g} nm, got {shape} voxels of {voxel_size_nm} nm")

    # One stream per structure: changing how one is drawn leaves the others as they were.
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(8)]
    cell_ZxYxX, *cell_axes = cell_distance(streams[0], shape, voxel_size_nm)
    nucleus_ZxYxX = nucleus_distance(streams[1], shape, *cell_axes)

    golgis, golgi_Nx4 = place_golgi(streams[2], cell_ZxYxX, nucleus_ZxYxX, voxel_size_nm)
    paths, path_Nx4 = place_mitochondria(streams[3], cell_ZxYxX, nucleus_ZxYxX, golgi_Nx4, voxel_size_nm)
    granule_Nx4 = place_granules(
        streams[4], cell_ZxYxX, nucleus_ZxYxX, np.concatenate([golgi_Nx4, path_Nx4]), voxel_size_nm
    )

    labels_ZxYxX = np.where(cell_ZxYxX < 0, np.uint8(UNRECOGNIZED), np.uint8(IGNORE))
    image_ZxYxX = np.zeros(shape, np.float32)
    # Distance from each voxel to the nearest organelle or plasma membrane, exact up to the reach.
    room_ZxYxX = np.minimum(np.abs(cell_ZxYxX), nucleus_ZxYxX)
    draw_nucleus(streams[1], image_ZxYxX, labels_ZxYxX, nucleus_ZxYxX, voxel_size_nm)
    draw_mitochondria(streams[3], image_ZxYxX, labels_ZxYxX, room_ZxYxX, paths, voxel_size_nm)
    draw_granules(streams[4], image_ZxYxX, labels_ZxYxX, room_ZxYxX, granule_Nx4, voxel_size_nm)
    cytoplasm_ZxYxX = draw_cytoplasm(streams[5], nucleus_ZxYxX, room_ZxYxX, voxel_size_nm)
    for golgi in golgis:
        draw_golgi(streams[6], cytoplasm_ZxYxX, room_ZxYxX, golgi, voxel_size_nm)
    draw_plasma_membrane(cytoplasm_ZxYxX, cell_ZxYxX, voxel_size_nm)
    free_ZxYxX = (labels_ZxYxX == UNRECOGNIZED) | (labels_ZxYxX == IGNORE)
    np.copyto(image_ZxYxX, cytoplasm_ZxYxX, where=free_ZxYxX)
    return Phantom(_acquire(streams[7], image_ZxYxX), labels_ZxYxX, float(voxel_size_nm))


def _acquire(rng: np.random.Generator, image_ZxYxX: np.ndarray) -> np.ndarray:
    """Adds the microscope's blur, drift, shading, curtains and shot noise to a drawing; returns uint8.

    Z is the milling direction (one slice per milled face); curtains run along Y, the direction of
    the ion beam, and fade in and out along it.
    """
    shape = image_ZxYxX.shape
    image = ndimage.gaussian_filter(image_ZxYxX, 0.55, truncate=3.0)
    image -= 0.5
    image *= 1 + 0.03 * smooth_noise(rng, (shape[0], 1, 1), 14)  # contrast
    image += 0.5 + 0.010 * smooth_noise(rng, (shape[0], 1, 1), 9)  # brightness
    image += 0.010 * smooth_noise(rng, shape, 0.4 * max(shape))  # shading

    stripe_Zx1xX = smooth_noise(rng, (shape[0], 1, shape[2]), 1.2)
    # Cubing makes most columns faint and a few strong, as in milled faces.
    stripe_Zx1xX = 0.010 * stripe_Zx1xX + 0.004 * stripe_Zx1xX**3
    image += stripe_Zx1xX * (1 + 0.4 * smooth_noise(rng, (shape[0], shape[1], 1), 30))

    spread = 0.042 * np.sqrt(np.clip(image, 0.05, 1) / 0.5)  # counting statistics
    image += spread * rng.standard_normal(shape, dtype=np.float32)
    return np.clip(np.rint(20 + 215 * image), 0, 255).astype(np.uint8)
