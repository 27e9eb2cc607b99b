"""Where the phantom's structures lie: cell and nucleus as distances, organelles as spheres.

Lengths are in voxels, except those whose name ends in `nm`. Organelles keep clear of each other, of the nucleus and
of the plasma membrane; those that no longer fit into a crowded cell are left out.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import gamma

from his4mae_jax.data.phantom.noise import random_frame, smooth_noise

_GAP_NM = 34.0  # cytosol left free between any two organelles
Golgi = tuple[np.ndarray, np.ndarray, float]  # centre (3,), axes (3, 3) one per row, radius of the disc
Path = tuple[np.ndarray, float]  # centre line (points, 3), radius

_BALL = 4 / 3 * np.pi  # volume of the unit ball
_CELL_POWER = 2.6  # superellipsoid exponent of the cell: between a ball (2) and a box
_SMALLEST_HALF_NM = 1250.0  # half axis of the cell in a box that cannot hold all of it
_NUCLEUS_FRACTION, _MITOCHONDRIA_FRACTION, _GRANULE_FRACTION = 0.165, 0.12, 0.165  # of the cell


def _blob_distance(
    rng: np.random.Generator,
    shape: Sequence[int],
    centre_3: np.ndarray,
    half_3: np.ndarray,
    power: float,
    lobes: float,
) -> np.ndarray:
    """Signed distance (voxels, negative inside) to a superellipsoid with an uneven surface.

    Args:
      rng: source of the unevenness.
      shape: of the box.
      centre_3: in voxels.
      half_3: half axes in voxels.
      power: 2 is an ellipsoid, more is boxier.
      lobes: height of the unevenness relative to the half axes.
    """
    step = 4  # the surface is smooth: every fourth voxel and linear interpolation are enough
    axes = [np.arange(0, side + step, step, dtype=np.float32) for side in shape]
    terms = [np.abs((x - c) / h) ** power for x, c, h in zip(axes, centre_3, half_3, strict=True)]
    level = (terms[0][:, None, None] + terms[1][:, None] + terms[2]) ** (1 / power)
    level += lobes * smooth_noise(rng, level.shape, 0.55 * min(half_3) / step) - 1
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(level, step)))
    field = level / np.maximum(slope, 0.3 / max(half_3))
    for side, x in zip(shape, axes, strict=True):
        weight_SxN = np.maximum(0, 1 - np.abs(np.arange(side)[:, None] - x) / step)
        field = np.tensordot(field.astype(np.float32), weight_SxN.astype(np.float32), (0, 1))
    return field


def cell_distance(
    rng: np.random.Generator, shape: Sequence[int], voxel_size_nm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signed distance to the plasma membrane (voxels, negative inside), the cell's centre and its half axes.

    The cell is cut by one face of the box per axis and stays clear of the opposite face and of the
    corners. In a box too small for a whole cell it is a corner of a cell of the smallest size.
    """
    side_3 = np.array(shape)
    half_3 = np.maximum(side_3 * rng.uniform(0.495, 0.515, 3), _SMALLEST_HALF_NM / voxel_size_nm)
    centre_3 = side_3 * rng.uniform(0.955, 0.975, 3) - half_3
    mirrored_3 = rng.random(3) < 0.5
    centre_3 = np.where(mirrored_3, side_3 - centre_3, centre_3)
    return _blob_distance(rng, shape, centre_3, half_3, _CELL_POWER, 0.025), centre_3, half_3


def nucleus_distance(
    rng: np.random.Generator, shape: Sequence[int], cell_centre_3: np.ndarray, cell_half_3: np.ndarray
) -> np.ndarray:
    """Signed distance to the outer nuclear membrane (voxels, negative inside)."""
    power = _CELL_POWER
    cell_volume = 8 * np.prod(cell_half_3) * gamma(1 + 1 / power) ** 3 / gamma(1 + 3 / power)
    half_3 = cell_half_3 * rng.uniform(0.92, 1.08, 3)
    half_3 *= (_NUCLEUS_FRACTION * cell_volume / (_BALL * np.prod(half_3))) ** (1 / 3)
    # Off the cell's centre, as in most beta cells, but not where the box holds only a corner of it.
    whole_3 = np.array(shape) > 1.8 * cell_half_3
    shift_3 = whole_3 * rng.uniform(-0.1, 0.1, 3) * cell_half_3
    centre_3 = cell_centre_3 + shift_3
    return _blob_distance(rng, shape, centre_3, half_3, 2.0, 0.06)


def _is_free(
    point_Nx3: np.ndarray,
    radius: float,
    cell_ZxYxX: np.ndarray,
    nucleus_ZxYxX: np.ndarray,
    taken_Nx4: np.ndarray,
    gap: float,
) -> np.ndarray:
    """Which spheres of `radius` keep `gap` voxels from cell border, nucleus and `taken_Nx4`.

    `taken_Nx4` holds spheres as z, y, x, radius in voxels. Centres must lie in the box.
    """
    index = tuple(np.floor(point_Nx3).astype(int).T)
    need = radius + gap
    free_N = (-cell_ZxYxX[index] > need) & (nucleus_ZxYxX[index] > need)
    if len(taken_Nx4) and free_N.any():
        need_K = np.broadcast_to(need, free_N.shape)[free_N]
        clear_KxM = cdist(point_Nx3[free_N], taken_Nx4[:, :3]) > need_K[:, None] + taken_Nx4[:, 3]
        free_N[free_N] = clear_KxM.all(axis=1)
    return free_N


def place_golgi(
    rng: np.random.Generator, cell_ZxYxX: np.ndarray, nucleus_ZxYxX: np.ndarray, voxel_size_nm: float
) -> tuple[list[Golgi], np.ndarray]:
    """Places up to two Golgi stacks; returns them, and the spheres (n, 4) that they occupy: z, y, x, radius."""
    shape = cell_ZxYxX.shape
    radius = min(400 / voxel_size_nm, 0.12 * min(shape))
    thick = 200 / voxel_size_nm
    golgis, taken = [], np.empty((0, 4))
    # A box smaller than a cell has better use for its cytoplasm.
    n_stacks = int(np.clip(min(shape) * voxel_size_nm // 1800, 0, 2))
    offset_K = np.linspace(-0.75 * radius, 0.75 * radius, 4)
    u_K, v_K = (grid.ravel() for grid in np.meshgrid(offset_K, offset_K))
    for _ in range(400):
        if len(golgis) == n_stacks:
            break
        centre_3, frame_3x3 = rng.uniform(0, 1, 3) * shape, random_frame(rng)
        disc_Kx3 = centre_3 + u_K[:, None] * frame_3x3[1] + v_K[:, None] * frame_3x3[2]
        if (disc_Kx3 < 0).any() or (disc_Kx3 >= shape).any():
            continue
        if _is_free(disc_Kx3, thick, cell_ZxYxX, nucleus_ZxYxX, taken, 0).all():
            golgis.append((centre_3, frame_3x3, radius))
            taken = np.concatenate([taken, np.column_stack([disc_Kx3, np.full(len(u_K), thick)])])
    return golgis, taken


def place_mitochondria(
    rng: np.random.Generator,
    cell_ZxYxX: np.ndarray,
    nucleus_ZxYxX: np.ndarray,
    taken_Nx4: np.ndarray,
    voxel_size_nm: float,
) -> tuple[list[Path], np.ndarray]:
    """Places bent tubes, 350-500 nm thick and 1-3 um long, that touch nothing.

    Returns:
      The centre line (a point every 3 voxels) and radius of each, and all of them as spheres (n, 4): z, y, x, radius.
    """
    shape = np.array(cell_ZxYxX.shape)
    target = _MITOCHONDRIA_FRACTION * np.sum(cell_ZxYxX < 0)
    shortest = min(900 / voxel_size_nm, 0.35 * shape.min())
    longest = min(2700 / voxel_size_nm, 0.8 * shape.max())
    step, filled, paths, spheres = 3.0, 0.0, [], [np.empty((0, 4))]
    for attempt in range(6000):
        if filled > target:
            break
        # Late attempts settle for the thin end of the range: those fit where others do not.
        radius = rng.uniform(175, 250 if attempt < 3000 else 190) / voxel_size_nm
        n_points = int(rng.uniform(shortest, longest) / step) + 1
        direction_3 = random_frame(rng)[0]
        # A steadily turning direction bends the tube; its rate changes along the way.
        turn_Nx3 = np.cumsum(rng.normal(0, 0.012, (n_points, 3)), axis=0) + rng.normal(0, 0.03, 3)
        heading_Nx3 = direction_3 + np.cumsum(turn_Nx3, axis=0)
        heading_Nx3 /= np.linalg.norm(heading_Nx3, axis=1, keepdims=True)
        path_Nx3 = rng.uniform(0, 1, 3) * shape + step * np.cumsum(heading_Nx3, axis=0)
        inside_N = ((path_Nx3 >= 0) & (path_Nx3 < shape)).all(axis=1)
        path_Nx3 = path_Nx3[: n_points if inside_N.all() else np.argmin(inside_N)]
        if len(path_Nx3) * step < shortest:
            continue
        gap = _GAP_NM / voxel_size_nm
        all_Nx4 = np.concatenate([taken_Nx4, *spheres])
        free_N = _is_free(path_Nx3, radius, cell_ZxYxX, nucleus_ZxYxX, all_Nx4, gap)
        n_free = len(free_N) if free_N.all() else np.argmin(free_N)
        n_wanted = max(1.2 * target - filled, 0) / (np.pi * radius**2 * step)
        path_Nx3 = path_Nx3[: min(n_free, int(max(n_wanted, shortest / step)) + 1)]
        if len(path_Nx3) * step < shortest:
            continue
        paths.append((path_Nx3, radius))
        spheres.append(np.column_stack([path_Nx3, np.full(len(path_Nx3), radius)]))
        filled += np.pi * radius**2 * (step * len(path_Nx3) + 4 / 3 * radius)
    return paths, np.concatenate(spheres)


def place_granules(
    rng: np.random.Generator,
    cell_ZxYxX: np.ndarray,
    nucleus_ZxYxX: np.ndarray,
    taken_Nx4: np.ndarray,
    voxel_size_nm: float,
) -> np.ndarray:
    """Places granules of 280-380 nm; returns spheres (n, 4): z, y, x, radius.

    Random positions are pushed apart, and out of the structures placed before, until few overlap; those that still do
    are dropped. Drawing and rejecting alone stops at half the wanted density.
    """
    high_3 = np.array(cell_ZxYxX.shape) - 1e-3
    gap = _GAP_NM / voxel_size_nm
    target = _GRANULE_FRACTION * np.sum(cell_ZxYxX < 0)
    radius_N = rng.uniform(142, 190, 20000) / voxel_size_nm
    radius_N = radius_N[: 3 + np.searchsorted(np.cumsum(_BALL * radius_N**3), target)]
    room_ZxYxX = np.minimum(-cell_ZxYxX, nucleus_ZxYxX)
    start_Nx3 = np.argwhere(room_ZxYxX[::4, ::4, ::4] > radius_N.min()) * 4.0
    point_Nx3 = start_Nx3[rng.integers(len(start_Nx3), size=len(radius_N))]
    point_Nx3 += rng.uniform(-2, 2, point_Nx3.shape)
    shifts_3x3 = 2.0 * np.eye(3)
    for _ in range(300):
        point_Nx3 = np.clip(point_Nx3, 0, high_3)
        other_Mx3 = np.concatenate([point_Nx3, taken_Nx4[:, :3]])
        other_M = np.concatenate([radius_N, taken_Nx4[:, 3]])
        apart_NxM = cdist(point_Nx3, other_Mx3)
        apart_NxM[np.arange(len(point_Nx3)), np.arange(len(point_Nx3))] = np.inf
        overlap_NxM = np.maximum(radius_N[:, None] + other_M + 1.05 * gap - apart_NxM, 0)
        pull_NxM = overlap_NxM / np.maximum(apart_NxM, 1e-3)
        pull_NxM[:, : len(point_Nx3)] /= 2  # the other granule gives way as well
        push_Nx3 = point_Nx3 * pull_NxM.sum(axis=1, keepdims=True) - pull_NxM @ other_Mx3
        short_N = radius_N + 1.05 * gap - room_ZxYxX[tuple(point_Nx3.astype(int).T)]
        for axis, shift_3 in enumerate(shifts_3x3):
            ahead, behind = (
                room_ZxYxX[tuple(np.clip(point_Nx3 + s, 0, high_3).astype(int).T)] for s in (shift_3, -shift_3)
            )
            push_Nx3[:, axis] += np.maximum(short_N, 0) * (ahead - behind) / 4
        point_Nx3 = point_Nx3 + 1.4 * push_Nx3  # more than needed, which converges faster

    # Small ones drawn at random fill the space that the dropped ones leave, which matters in a small box.
    extra_Kx3 = start_Nx3[rng.integers(len(start_Nx3), size=800)]
    point_Nx3 = np.clip(np.concatenate([point_Nx3, extra_Kx3]), 0, high_3)
    radius_N = np.append(radius_N, rng.uniform(140, 160, 800) / voxel_size_nm)
    kept_Nx4, filled = taken_Nx4, 0.0
    for point_3, radius in zip(point_Nx3, radius_N, strict=True):
        if filled > target:
            break
        if _is_free(point_3[None], radius, cell_ZxYxX, nucleus_ZxYxX, kept_Nx4, gap)[0]:
            kept_Nx4 = np.concatenate([kept_Nx4, [[*point_3, radius]]])
            filled += _BALL * radius**3
    return kept_Nx4[len(taken_Nx4) :]
