"""Drawing of the phantom's structures: grey values from 0 (dark) to 1 (bright), and labels.

Organelles are drawn into image and labels; the cytoplasm (cytosol, endoplasmic reticulum, Golgi
stacks, plasma membrane) into an image of its own, which fills the space that they leave free.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from his4mae_jax.data.phantom.layout import Golgi, Path
from his4mae_jax.data.phantom.noise import random_frame, smooth_noise

CLASSES = ("unrecognized", "nucleus", "mitochondria", "granules")
UNRECOGNIZED, NUCLEUS, MITOCHONDRIA, GRANULES = range(4)

_MEMBRANE_NM = 11.0  # standard deviation of a stained membrane's dark line
_REACH_NM = 96.0  # distances to organelles are only needed this far out


def _line(distance: np.ndarray, width: float) -> np.ndarray:
    """Profile of a membrane: 1 on the surface, a Gaussian of `width` voxels across it."""
    return np.exp(-0.5 * np.square(distance / np.float32(width)))


def _soft_step(value: np.ndarray, width: float) -> np.ndarray:
    """0 for very negative values, 1 for very positive ones, with a ramp of `width`."""
    return np.clip(0.5 + value / np.float32(width), 0, 1)


def _window(shape: Sequence[int], low_3: np.ndarray, high_3: np.ndarray) -> tuple[tuple[slice, ...], list[np.ndarray]]:
    """Slices of the box from `low_3` to `high_3` (voxels), cut to `shape`, and open coordinates."""
    low_3 = np.clip(np.floor(low_3).astype(int), 0, shape)
    high_3 = np.clip(np.ceil(high_3).astype(int) + 1, low_3, shape)
    window = tuple(slice(a, b) for a, b in zip(low_3, high_3, strict=True))
    return window, np.ogrid[window]


def draw_nucleus(
    rng: np.random.Generator,
    image_ZxYxX: np.ndarray,
    labels_ZxYxX: np.ndarray,
    nucleus_ZxYxX: np.ndarray,
    voxel_size_nm: float,
) -> None:
    """Draws chromatin, nucleolus and the envelope with its pores; labelled up to the outer membrane."""
    window = ndimage.find_objects((nucleus_ZxYxX <= 0).view(np.uint8))[0]
    depth = -nucleus_ZxYxX[window] * np.float32(voxel_size_nm)  # nm below the surface
    shape = depth.shape
    grey = 0.585 + 0.050 * smooth_noise(rng, shape, 32 / voxel_size_nm)
    # Heterochromatin: clumps anywhere, and a broken layer lining the envelope.
    clump = smooth_noise(rng, shape, 75 / voxel_size_nm) + 1.8 * np.exp(-np.maximum(depth, 0) / 90)
    grey -= 0.09 * _soft_step(clump - 0.9, 0.7)

    # Nucleolus: a dark, grainy ball away from the envelope.
    radius = min(0.24 * depth.max(), 300)
    deep_Nx3 = np.argwhere(depth > min(2.2 * radius, 0.8 * depth.max()))
    centre_3 = deep_Nx3[rng.integers(len(deep_Nx3))]
    extent = 1.3 * radius / voxel_size_nm
    ball, grids = _window(shape, centre_3 - extent, centre_3 + extent)
    away = np.sqrt(sum((g - c) ** 2 for g, c in zip(grids, centre_3, strict=True)))
    edge = radius - away * voxel_size_nm + 25 * clump[ball]
    inside = _soft_step(edge, 40).astype(np.float32)
    grey[ball] += inside * (0.40 - grey[ball] + 0.6 * (grey[ball] - 0.53))

    # Two membranes 50 nm apart with a bright space between; pores interrupt them.
    closed = 1 - _soft_step(smooth_noise(rng, shape, 45 / voxel_size_nm) - 1.5, 0.3)
    grey += closed * 0.24 * _line(depth - 38, 14)
    for at_nm in (12, 64):
        grey -= closed * 0.30 * _line(depth - at_nm, _MEMBRANE_NM)
    within = depth >= 0
    image_ZxYxX[window][within] = grey[within]
    labels_ZxYxX[window][within] = NUCLEUS


def draw_mitochondria(
    rng: np.random.Generator,
    image_ZxYxX: np.ndarray,
    labels_ZxYxX: np.ndarray,
    room_ZxYxX: np.ndarray,
    paths: Sequence[Path],
    voxel_size_nm: float,
) -> None:
    """Draws tubes with two membranes, a dark matrix and lamellar cristae across the tube.

    `room_ZxYxX`, the distance to the nearest organelle or membrane, is updated.
    """
    reach = _REACH_NM / voxel_size_nm
    for path_Nx3, radius in paths:
        margin = radius + reach
        window, _ = _window(image_ZxYxX.shape, path_Nx3.min(0) - margin, path_Nx3.max(0) + margin)
        shape = tuple(s.stop - s.start for s in window)
        away = np.full(shape, margin, np.float32)  # voxels from the centre line
        along = np.zeros(shape, np.float32)  # voxels along it
        knot_Kx3 = path_Nx3[np.unique(np.append(np.arange(0, len(path_Nx3), 3), len(path_Nx3) - 1))]
        knot_Kx3 = knot_Kx3 - [s.start for s in window]
        start = 0.0
        for head_3, tail_3 in zip(knot_Kx3[:-1], knot_Kx3[1:], strict=True):
            local, (z, y, x) = _window(shape, np.minimum(head_3, tail_3) - margin, np.maximum(head_3, tail_3) + margin)
            length = np.linalg.norm(tail_3 - head_3)
            unit_3 = ((tail_3 - head_3) / length).astype(np.float32)
            z, y, x = (np.float32(a - h) for a, h in zip((z, y, x), head_3, strict=True))
            position = z * unit_3[0] + y * unit_3[1] + x * unit_3[2]
            nearest = np.clip(position, 0, np.float32(length))
            square = z**2 + y**2 + x**2 + nearest * (nearest - 2 * position)
            distance = np.sqrt(np.maximum(square, 0))
            closer = distance < away[local]
            away[local][closer] = distance[closer]
            along[local][closer] = start + position[closer]
            start += length
        depth = (radius - away) * np.float32(voxel_size_nm)  # nm below the outer membrane

        # Cristae: lamellae slanted by about 45 degrees, so that sections across the tube and
        # along it both show them.
        period = rng.uniform(100, 125)  # nm
        normal_3 = np.cross(knot_Kx3[-1] - knot_Kx3[0], random_frame(rng)[0])
        normal_3 = (normal_3 / np.linalg.norm(normal_3)).astype(np.float32)
        z, y, x = np.ogrid[tuple(slice(0, side) for side in shape)]
        sideways = z * normal_3[0] + y * normal_3[1] + x * normal_3[2]
        across = (along + sideways) * np.float32(voxel_size_nm * 0.5**0.5)
        across += 28 * smooth_noise(rng, shape, 110 / voxel_size_nm)
        wave = np.cos(2 * np.pi / period * across)
        grey = rng.uniform(0.40, 0.44) + 0.02 * smooth_noise(rng, shape, 20 / voxel_size_nm)
        full = _soft_step(smooth_noise(rng, shape, 90 / voxel_size_nm) + 1.3, 0.6)
        grey += 0.13 * wave * full * _soft_step(depth - 75, 30)
        grey += 0.16 * _line(depth - 36, 13)  # space between the membranes
        for at_nm in (12, 60):
            grey -= 0.20 * _line(depth - at_nm, _MEMBRANE_NM)
        within = (depth >= 0) & (labels_ZxYxX[window] == UNRECOGNIZED)
        image_ZxYxX[window][within] = grey[within]
        labels_ZxYxX[window][within] = MITOCHONDRIA
        room_ZxYxX[window] = np.minimum(room_ZxYxX[window], away - np.float32(radius))


def draw_granules(
    rng: np.random.Generator,
    image_ZxYxX: np.ndarray,
    labels_ZxYxX: np.ndarray,
    room_ZxYxX: np.ndarray,
    granule_Nx4: np.ndarray,
    voxel_size_nm: float,
) -> None:
    """Draws insulin granules: an eccentric dense core of varying size in a bright halo."""
    reach = _REACH_NM / voxel_size_nm
    for granule_4 in granule_Nx4:
        centre_3, radius = granule_4[:3], granule_4[3]
        window, grids = _window(image_ZxYxX.shape, centre_3 - radius - reach, centre_3 + radius + reach)
        z, y, x = (np.float32(g - c) for g, c in zip(grids, centre_3, strict=True))
        # At least 1: never larger than the sphere that was kept free.
        squash_3 = rng.uniform(1.0, 1.06, 3).astype(np.float32)
        away = np.sqrt((z * squash_3[0]) ** 2 + (y * squash_3[1]) ** 2 + (x * squash_3[2]) ** 2)
        depth = (radius - away) * np.float32(voxel_size_nm)  # nm below the limiting membrane

        core = radius * rng.uniform(0.52, 0.72)
        shift_3 = random_frame(rng)[0] * (radius - core) * rng.uniform(0.1, 0.6)
        squash_3 = rng.uniform(0.9, 1.15, 3).astype(np.float32)
        offset = (a - np.float32(s) for a, s in zip((z, y, x), shift_3, strict=True))
        from_core = np.sqrt(sum((a * q) ** 2 for a, q in zip(offset, squash_3, strict=True)))
        dense = _soft_step(core - from_core, 2.0)
        grey = 0.78 + rng.uniform(-0.03, 0.03) - (0.52 + rng.uniform(-0.05, 0.05)) * dense
        grey -= 0.34 * _line(depth - 11, _MEMBRANE_NM)
        within = (depth >= 0) & (labels_ZxYxX[window] == UNRECOGNIZED)
        image_ZxYxX[window][within] = grey[within]
        labels_ZxYxX[window][within] = GRANULES
        room_ZxYxX[window] = np.minimum(room_ZxYxX[window], away - np.float32(radius))


def draw_cytoplasm(
    rng: np.random.Generator, nucleus_ZxYxX: np.ndarray, room_ZxYxX: np.ndarray, voxel_size_nm: float
) -> np.ndarray:
    """Returns grey values of cytosol with ribosomes and the endoplasmic reticulum, in the whole box.

    The sheets are level sets of the warped distance to the nucleus: parallel to each other, roughly
    concentric with the nucleus, interrupted at random, and kept off the organelles.
    """
    shape = nucleus_ZxYxX.shape
    speckle = smooth_noise(rng, shape, 13 / voxel_size_nm)
    spacing = np.float32(170)  # nm from sheet to sheet
    level = nucleus_ZxYxX * np.float32(voxel_size_nm)
    level += 95 * smooth_noise(rng, shape, 260 / voxel_size_nm)
    level += 22 * smooth_noise(rng, shape, 90 / voxel_size_nm)
    middle = np.abs(level - spacing * np.round(level / spacing))  # nm from the sheet's middle
    present = _soft_step(smooth_noise(rng, shape, 130 / voxel_size_nm) + 0.75, 0.3)
    present *= _soft_step(room_ZxYxX * np.float32(voxel_size_nm) - 38, 30)

    ribosome = np.clip(speckle - 0.5, 0, 1.6)
    studded = 0.20 + 0.12 * present * _line(middle - 58, 14)
    grey = 0.625 - studded * ribosome
    grey += 0.10 * present * _line(middle, 16)
    grey -= 0.22 * present * _line(middle - 30, _MEMBRANE_NM)
    return grey


def draw_golgi(
    rng: np.random.Generator, cytoplasm_ZxYxX: np.ndarray, room_ZxYxX: np.ndarray, golgi: Golgi, voxel_size_nm: float
) -> None:
    """Draws five bowed, parallel cisternae and the vesicles around their rim, into the cytoplasm."""
    centre_3, frame_3x3, radius = golgi
    margin = radius + 20
    window, grids = _window(cytoplasm_ZxYxX.shape, centre_3 - margin, centre_3 + margin)
    z, y, x = (np.float32(g - c) for g, c in zip(grids, centre_3, strict=True))
    w, u, v = (a[0] * z + a[1] * y + a[2] * x for a in frame_3x3.astype(np.float32))
    square = u**2 + v**2
    height = (w + square / np.float32(5 * radius)) * np.float32(voxel_size_nm)
    inside = (np.abs(height) < 200) & (square < radius**2)
    inside &= room_ZxYxX[window] * voxel_size_nm > 30
    # 80 nm apart; the two membranes of a cisterna are too close to tell apart at 16 nm.
    middle = height - 80 * np.round(height / 80)
    grey = np.float32(0.65) - 0.30 * _line(middle, 15)
    cytoplasm_ZxYxX[window][inside] = grey[inside]
    vesicle = 40 / voxel_size_nm
    for angle in rng.uniform(0, 2 * np.pi, 24):
        at = (radius + rng.uniform(1, 2.5) * vesicle) * np.array([np.sin(angle), np.cos(angle)])
        drop = rng.uniform(-180, 180) / voxel_size_nm - at @ at / (5 * radius)
        middle_3 = centre_3 + np.array([drop, *at]) @ frame_3x3
        local, grids = _window(cytoplasm_ZxYxX.shape, middle_3 - 6, middle_3 + 6)
        away = np.sqrt(sum(np.float32(g - c) ** 2 for g, c in zip(grids, middle_3, strict=True)))
        ring = 0.28 * _line((away - vesicle) * np.float32(voxel_size_nm), _MEMBRANE_NM)
        cytoplasm_ZxYxX[local] -= ring * (room_ZxYxX[local] > vesicle)


def draw_plasma_membrane(cytoplasm_ZxYxX: np.ndarray, cell_ZxYxX: np.ndarray, voxel_size_nm: float) -> None:
    """Draws the cell's own membrane, a bright extracellular gap, and the neighbour's membrane."""
    outward = cell_ZxYxX * np.float32(voxel_size_nm)  # nm, negative inside
    cytoplasm_ZxYxX += 0.22 * _line(outward - 40, 16)
    for at_nm in (-9, 88):
        cytoplasm_ZxYxX -= 0.30 * _line(outward - at_nm, 13)
