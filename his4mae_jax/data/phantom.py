"""A synthetic beta cell in volume EM, with exact ground truth (not real data, no real data used).

Modelled structures: nucleus (eu- and heterochromatin, nucleolus, double envelope with pores), bent
tubular mitochondria (double membrane, dark matrix, lamellar cristae), insulin granules (eccentric
dense core, bright halo, limiting membrane), endoplasmic reticulum sheets, Golgi stacks with
vesicles, ribosomes, plasma membrane, the extracellular gap and the cytoplasm of neighbours; then
the FIB-SEM: blur, slow drift of brightness and contrast, shading, curtaining and shot noise.

The grey levels are chosen so that the four classes have nearly the same mean and overlapping
histograms: what tells the classes apart is texture. Lengths are physical (nm) and converted to
voxels once per structure; grey values run from 0 (dark, heavily stained) to 1 (bright).
"""

import dataclasses

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist
from scipy.special import gamma

CLASSES = ("unrecognized", "nucleus", "mitochondria", "granules")
OUTSIDE = 255
_UNRECOGNIZED, _NUCLEUS, _MITOCHONDRIA, _GRANULES = range(4)

_MIN_SIDE = 64  # voxels
_MIN_SIDE_NM = 1024.0  # a smaller box has no room for one organelle of each class
_MEMBRANE_NM = 11.0  # standard deviation of a stained membrane's dark line
_GAP_NM = 34.0  # cytosol left free between any two organelles
_REACH_NM = 96.0  # distances to organelles are only needed this far out
_BALL = 4 / 3 * np.pi  # volume of the unit ball
_CELL_POWER = 2.6  # superellipsoid exponent of the cell: between a ball (2) and a box
_SMALLEST_HALF_NM = 1250.0  # half axis of the cell in a box that cannot hold all of it
_NUCLEUS_FRACTION, _MITOCHONDRIA_FRACTION, _GRANULE_FRACTION = 0.165, 0.12, 0.165  # of the cell


@dataclasses.dataclass(frozen=True)
class Phantom:
    """One synthetic volume.

    Attributes
    ----------
    image_ZxYxX : np.ndarray
        Grey values, uint8; membranes and dense material are dark.
    labels_ZxYxX : np.ndarray
        uint8: index into `CLASSES`, or `OUTSIDE` for voxels outside the cell (not scored).
    voxel_size_nm : float
        Edge length of the (isotropic) voxel in nm.
    """

    image_ZxYxX: np.ndarray
    labels_ZxYxX: np.ndarray
    voxel_size_nm: float


def make_phantom(shape=(256, 256, 256), seed=0, voxel_size_nm=16.0) -> Phantom:
    """Draw one beta cell.

    Parameters
    ----------
    shape : tuple of int
        Voxels along Z, Y and X; at least 64 (and 1024 nm) each. Organelles keep their real size,
        so a smaller box holds fewer of them; cell and nucleus scale with the box down to a cell
        2.5 um across, of which a box smaller than that holds one corner.
    seed : int
        The same seed, shape and voxel size give the same volume, whatever NumPy's global state.
    voxel_size_nm : float
        Edge length of a voxel in nm.

    Returns
    -------
    Phantom
        Image, labels and voxel size.
    """
    shape = tuple(int(side) for side in shape)
    if len(shape) != 3 or min(shape) < _MIN_SIDE:
        raise ValueError(f"shape must be three sides of at least {_MIN_SIDE} voxels, got {shape}")
    if not min(shape) * voxel_size_nm >= _MIN_SIDE_NM:
        raise ValueError(
            f"each side must span {_MIN_SIDE_NM:g} nm, got {shape} voxels of {voxel_size_nm} nm"
        )

    # One stream per structure: changing how one is drawn leaves the others as they were.
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(8)]
    cell_ZxYxX, *cell_axes = _cell_distance(streams[0], shape, voxel_size_nm)
    nucleus_ZxYxX = _nucleus_distance(streams[1], shape, *cell_axes)

    golgis, golgi_Nx4 = _place_golgi(streams[2], cell_ZxYxX, nucleus_ZxYxX, voxel_size_nm)
    paths, path_Nx4 = _place_mitochondria(
        streams[3], cell_ZxYxX, nucleus_ZxYxX, golgi_Nx4, voxel_size_nm
    )
    granule_Nx4 = _place_granules(
        streams[4], cell_ZxYxX, nucleus_ZxYxX, np.concatenate([golgi_Nx4, path_Nx4]), voxel_size_nm
    )

    labels_ZxYxX = np.where(cell_ZxYxX < 0, np.uint8(_UNRECOGNIZED), np.uint8(OUTSIDE))
    image_ZxYxX = np.zeros(shape, np.float32)
    # Distance from each voxel to the nearest organelle or plasma membrane, exact up to the reach.
    room_ZxYxX = np.minimum(np.abs(cell_ZxYxX), nucleus_ZxYxX)
    _draw_nucleus(streams[1], image_ZxYxX, labels_ZxYxX, nucleus_ZxYxX, voxel_size_nm)
    _draw_mitochondria(streams[3], image_ZxYxX, labels_ZxYxX, room_ZxYxX, paths, voxel_size_nm)
    _draw_granules(streams[4], image_ZxYxX, labels_ZxYxX, room_ZxYxX, granule_Nx4, voxel_size_nm)
    cytoplasm_ZxYxX = _cytoplasm(streams[5], nucleus_ZxYxX, room_ZxYxX, voxel_size_nm)
    for golgi in golgis:
        _draw_golgi(streams[6], cytoplasm_ZxYxX, room_ZxYxX, golgi, voxel_size_nm)
    _draw_plasma_membrane(cytoplasm_ZxYxX, cell_ZxYxX, voxel_size_nm)
    free_ZxYxX = (labels_ZxYxX == _UNRECOGNIZED) | (labels_ZxYxX == OUTSIDE)
    np.copyto(image_ZxYxX, cytoplasm_ZxYxX, where=free_ZxYxX)
    return Phantom(_acquire(streams[7], image_ZxYxX), labels_ZxYxX, float(voxel_size_nm))


def _smooth_noise(rng, shape, sigma):
    """Gaussian random field of mean 0 and variance 1, as white noise smoothed with `sigma` voxels.

    The noise is drawn on a grid as coarse as `sigma` allows and spread with one small matrix per
    axis, which is many times faster than filtering the full volume.
    """
    step = 1.25 * sigma
    field = rng.standard_normal([int(np.ceil(side / step)) + 7 for side in shape], dtype=np.float32)
    for side in shape:
        node_N = (np.arange(field.shape[0]) - 3) * step
        weight_SxN = np.exp(-0.5 * ((np.arange(side)[:, None] - node_N) / sigma) ** 2)
        weight_SxN /= np.sqrt((weight_SxN**2).sum(axis=1, keepdims=True))
        # Contracts the first axis and appends the new one: three turns restore the order.
        field = np.tensordot(field, weight_SxN.astype(np.float32), (0, 1))
    return field


def _line(distance, width):
    """Profile of a membrane: 1 on the surface, a Gaussian of `width` voxels across it."""
    return np.exp(-0.5 * np.square(distance / np.float32(width)))


def _soft_step(value, width):
    """0 for very negative values, 1 for very positive ones, with a ramp of `width`."""
    return np.clip(0.5 + value / np.float32(width), 0, 1)


def _blob_distance(rng, shape, centre_3, half_3, power, lobes):
    """Signed distance (voxels, negative inside) to a superellipsoid with an uneven surface.

    `half_3` are the half axes in voxels, `power` 2 is an ellipsoid and more is boxier, `lobes` is
    the relative height of the unevenness.
    """
    step = 4  # the surface is smooth: every fourth voxel and linear interpolation are enough
    axes = [np.arange(0, side + step, step, dtype=np.float32) for side in shape]
    terms = [np.abs((x - c) / h) ** power for x, c, h in zip(axes, centre_3, half_3, strict=True)]
    level = (terms[0][:, None, None] + terms[1][:, None] + terms[2]) ** (1 / power)
    level += lobes * _smooth_noise(rng, level.shape, 0.55 * min(half_3) / step) - 1
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(level, step)))
    field = level / np.maximum(slope, 0.3 / max(half_3))
    for side, x in zip(shape, axes, strict=True):
        weight_SxN = np.maximum(0, 1 - np.abs(np.arange(side)[:, None] - x) / step)
        field = np.tensordot(field.astype(np.float32), weight_SxN.astype(np.float32), (0, 1))
    return field


def _cell_distance(rng, shape, voxel_size_nm):
    """Signed distance to the plasma membrane (voxels, negative inside), the centre and half axes.

    The cell is cut by one face of the box per axis and stays clear of the opposite face and of the
    corners. In a box too small for a whole cell it is a corner of a cell of the smallest size.
    """
    side_3 = np.array(shape)
    half_3 = np.maximum(side_3 * rng.uniform(0.495, 0.515, 3), _SMALLEST_HALF_NM / voxel_size_nm)
    centre_3 = side_3 * rng.uniform(0.955, 0.975, 3) - half_3
    mirrored_3 = rng.random(3) < 0.5
    centre_3 = np.where(mirrored_3, side_3 - centre_3, centre_3)
    return _blob_distance(rng, shape, centre_3, half_3, _CELL_POWER, 0.025), centre_3, half_3


def _nucleus_distance(rng, shape, cell_centre_3, cell_half_3):
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


def _is_free(point_Nx3, radius, cell_ZxYxX, nucleus_ZxYxX, taken_Nx4, gap):
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


def _random_frame(rng):
    """Random orthonormal axes, one per row."""
    return np.linalg.qr(rng.standard_normal((3, 3)))[0]


def _place_golgi(rng, cell_ZxYxX, nucleus_ZxYxX, voxel_size_nm):
    """Up to two Golgi stacks as (centre, axes, disc radius), and the spheres they occupy."""
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
        centre_3, frame_3x3 = rng.uniform(0, 1, 3) * shape, _random_frame(rng)
        disc_Kx3 = centre_3 + u_K[:, None] * frame_3x3[1] + v_K[:, None] * frame_3x3[2]
        if (disc_Kx3 < 0).any() or (disc_Kx3 >= shape).any():
            continue
        if _is_free(disc_Kx3, thick, cell_ZxYxX, nucleus_ZxYxX, taken, 0).all():
            golgis.append((centre_3, frame_3x3, radius))
            taken = np.concatenate([taken, np.column_stack([disc_Kx3, np.full(len(u_K), thick)])])
    return golgis, taken


def _place_mitochondria(rng, cell_ZxYxX, nucleus_ZxYxX, taken_Nx4, voxel_size_nm):
    """Bent tubes, 350-500 nm thick and 1-3 um long, that touch nothing.

    Returns
    -------
    paths : list of (np.ndarray, float)
        Centre line (points x 3, every 3 voxels) and radius of each, in voxels.
    path_Nx4 : np.ndarray
        All of them as spheres z, y, x, radius.
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
        direction_3 = _random_frame(rng)[0]
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


def _place_granules(rng, cell_ZxYxX, nucleus_ZxYxX, taken_Nx4, voxel_size_nm):
    """Granules of 280-380 nm as spheres (n, 4): z, y, x, radius in voxels.

    Random positions are pushed apart, and out of what is already there, before those that still
    touch something are dropped: drawing and rejecting alone stops at half the wanted density.
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
                room_ZxYxX[tuple(np.clip(point_Nx3 + s, 0, high_3).astype(int).T)]
                for s in (shift_3, -shift_3)
            )
            push_Nx3[:, axis] += np.maximum(short_N, 0) * (ahead - behind) / 4
        point_Nx3 = point_Nx3 + 1.4 * push_Nx3  # more than needed, which converges faster

    # Small ones drawn at random fill what the dropped ones leave, which matters in a small box.
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


def _window(shape, low_3, high_3):
    """Slices of the box from `low_3` to `high_3` (voxels), cut to `shape`, and open coordinates."""
    low_3 = np.clip(np.floor(low_3).astype(int), 0, shape)
    high_3 = np.clip(np.ceil(high_3).astype(int) + 1, low_3, shape)
    window = tuple(slice(a, b) for a, b in zip(low_3, high_3, strict=True))
    return window, np.ogrid[window]


def _draw_nucleus(rng, image_ZxYxX, labels_ZxYxX, nucleus_ZxYxX, voxel_size_nm):
    """Chromatin, nucleolus and the envelope with its pores; labelled up to the outer membrane."""
    window = ndimage.find_objects((nucleus_ZxYxX <= 0).view(np.uint8))[0]
    depth = -nucleus_ZxYxX[window] * np.float32(voxel_size_nm)  # nm below the surface
    shape = depth.shape
    grey = 0.585 + 0.050 * _smooth_noise(rng, shape, 32 / voxel_size_nm)
    # Heterochromatin: clumps anywhere, and a broken layer lining the envelope.
    clump = _smooth_noise(rng, shape, 75 / voxel_size_nm) + 1.8 * np.exp(-np.maximum(depth, 0) / 90)
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
    closed = 1 - _soft_step(_smooth_noise(rng, shape, 45 / voxel_size_nm) - 1.5, 0.3)
    grey += closed * 0.24 * _line(depth - 38, 14)
    for at_nm in (12, 64):
        grey -= closed * 0.30 * _line(depth - at_nm, _MEMBRANE_NM)
    within = depth >= 0
    image_ZxYxX[window][within] = grey[within]
    labels_ZxYxX[window][within] = _NUCLEUS


def _draw_mitochondria(rng, image_ZxYxX, labels_ZxYxX, room_ZxYxX, paths, voxel_size_nm):
    """Tubes with two membranes, a dark matrix and lamellar cristae across the tube."""
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
            local, (z, y, x) = _window(
                shape, np.minimum(head_3, tail_3) - margin, np.maximum(head_3, tail_3) + margin
            )
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
        normal_3 = np.cross(knot_Kx3[-1] - knot_Kx3[0], _random_frame(rng)[0])
        normal_3 = (normal_3 / np.linalg.norm(normal_3)).astype(np.float32)
        z, y, x = np.ogrid[tuple(slice(0, side) for side in shape)]
        sideways = z * normal_3[0] + y * normal_3[1] + x * normal_3[2]
        across = (along + sideways) * np.float32(voxel_size_nm * 0.5**0.5)
        across += 28 * _smooth_noise(rng, shape, 110 / voxel_size_nm)
        wave = np.cos(2 * np.pi / period * across)
        grey = rng.uniform(0.40, 0.44) + 0.02 * _smooth_noise(rng, shape, 20 / voxel_size_nm)
        full = _soft_step(_smooth_noise(rng, shape, 90 / voxel_size_nm) + 1.3, 0.6)
        grey += 0.13 * wave * full * _soft_step(depth - 75, 30)
        grey += 0.16 * _line(depth - 36, 13)  # space between the membranes
        for at_nm in (12, 60):
            grey -= 0.20 * _line(depth - at_nm, _MEMBRANE_NM)
        within = (depth >= 0) & (labels_ZxYxX[window] == _UNRECOGNIZED)
        image_ZxYxX[window][within] = grey[within]
        labels_ZxYxX[window][within] = _MITOCHONDRIA
        room_ZxYxX[window] = np.minimum(room_ZxYxX[window], away - np.float32(radius))


def _draw_granules(rng, image_ZxYxX, labels_ZxYxX, room_ZxYxX, granule_Nx4, voxel_size_nm):
    """Insulin granules: an eccentric dense core of varying size in a bright halo."""
    reach = _REACH_NM / voxel_size_nm
    for granule_4 in granule_Nx4:
        centre_3, radius = granule_4[:3], granule_4[3]
        window, grids = _window(
            image_ZxYxX.shape, centre_3 - radius - reach, centre_3 + radius + reach
        )
        z, y, x = (np.float32(g - c) for g, c in zip(grids, centre_3, strict=True))
        # At least 1: never larger than the sphere that was kept free.
        squash_3 = rng.uniform(1.0, 1.06, 3).astype(np.float32)
        away = np.sqrt((z * squash_3[0]) ** 2 + (y * squash_3[1]) ** 2 + (x * squash_3[2]) ** 2)
        depth = (radius - away) * np.float32(voxel_size_nm)  # nm below the limiting membrane

        core = radius * rng.uniform(0.52, 0.72)
        shift_3 = _random_frame(rng)[0] * (radius - core) * rng.uniform(0.1, 0.6)
        squash_3 = rng.uniform(0.9, 1.15, 3).astype(np.float32)
        offset = (a - np.float32(s) for a, s in zip((z, y, x), shift_3, strict=True))
        from_core = np.sqrt(sum((a * q) ** 2 for a, q in zip(offset, squash_3, strict=True)))
        dense = _soft_step(core - from_core, 2.0)
        grey = 0.78 + rng.uniform(-0.03, 0.03) - (0.52 + rng.uniform(-0.05, 0.05)) * dense
        grey -= 0.34 * _line(depth - 11, _MEMBRANE_NM)
        within = (depth >= 0) & (labels_ZxYxX[window] == _UNRECOGNIZED)
        image_ZxYxX[window][within] = grey[within]
        labels_ZxYxX[window][within] = _GRANULES
        room_ZxYxX[window] = np.minimum(room_ZxYxX[window], away - np.float32(radius))


def _cytoplasm(rng, nucleus_ZxYxX, room_ZxYxX, voxel_size_nm):
    """Grey values of cytosol with ribosomes and the endoplasmic reticulum, in the whole box.

    The sheets are level sets of the warped distance to the nucleus: parallel to each other, roughly
    concentric with the nucleus, interrupted at random, and kept off the organelles.
    """
    shape = nucleus_ZxYxX.shape
    speckle = _smooth_noise(rng, shape, 13 / voxel_size_nm)
    spacing = np.float32(170)  # nm from sheet to sheet
    level = nucleus_ZxYxX * np.float32(voxel_size_nm)
    level += 95 * _smooth_noise(rng, shape, 260 / voxel_size_nm)
    level += 22 * _smooth_noise(rng, shape, 90 / voxel_size_nm)
    middle = np.abs(level - spacing * np.round(level / spacing))  # nm from the sheet's middle
    present = _soft_step(_smooth_noise(rng, shape, 130 / voxel_size_nm) + 0.75, 0.3)
    present *= _soft_step(room_ZxYxX * np.float32(voxel_size_nm) - 38, 30)

    ribosome = np.clip(speckle - 0.5, 0, 1.6)
    studded = 0.20 + 0.12 * present * _line(middle - 58, 14)
    grey = 0.625 - studded * ribosome
    grey += 0.10 * present * _line(middle, 16)
    grey -= 0.22 * present * _line(middle - 30, _MEMBRANE_NM)
    return grey


def _draw_golgi(rng, cytoplasm_ZxYxX, room_ZxYxX, golgi, voxel_size_nm):
    """Five bowed, parallel cisternae and the vesicles around their rim, into the cytoplasm."""
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


def _draw_plasma_membrane(cytoplasm_ZxYxX, cell_ZxYxX, voxel_size_nm):
    """The cell's own membrane, a bright extracellular gap, and the neighbour's membrane."""
    outward = cell_ZxYxX * np.float32(voxel_size_nm)  # nm, negative inside
    cytoplasm_ZxYxX += 0.22 * _line(outward - 40, 16)
    for at_nm in (-9, 88):
        cytoplasm_ZxYxX -= 0.30 * _line(outward - at_nm, 13)


def _acquire(rng, image_ZxYxX):
    """What the microscope adds: blur, drift, shading, curtains and shot noise; returns uint8.

    Z is the milling direction (one slice per milled face); curtains run along Y, the direction of
    the ion beam, and fade in and out along it.
    """
    shape = image_ZxYxX.shape
    image = ndimage.gaussian_filter(image_ZxYxX, 0.55, truncate=3.0)
    image -= 0.5
    image *= 1 + 0.03 * _smooth_noise(rng, (shape[0], 1, 1), 14)  # contrast
    image += 0.5 + 0.010 * _smooth_noise(rng, (shape[0], 1, 1), 9)  # brightness
    image += 0.010 * _smooth_noise(rng, shape, 0.4 * max(shape))  # shading

    stripe_Zx1xX = _smooth_noise(rng, (shape[0], 1, shape[2]), 1.2)
    # Cubing makes most columns faint and a few strong, as in milled faces.
    stripe_Zx1xX = 0.010 * stripe_Zx1xX + 0.004 * stripe_Zx1xX**3
    image += stripe_Zx1xX * (1 + 0.4 * _smooth_noise(rng, (shape[0], shape[1], 1), 30))

    spread = 0.042 * np.sqrt(np.clip(image, 0.05, 1) / 0.5)  # counting statistics
    image += spread * rng.standard_normal(shape, dtype=np.float32)
    return np.clip(np.rint(20 + 215 * image), 0, 255).astype(np.uint8)
