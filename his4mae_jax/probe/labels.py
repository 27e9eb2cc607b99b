"""What was labelled, as voxels of the image that the encoder sees: from a table of points or a sparse label volume."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.volumes.blocks import slabs
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.padding import padding_mask
from his4mae_jax.data.volumes.volume import Box, Triple, VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.output.outputs import stored_names
from his4mae_jax.probe.points import Points, is_points, read_points

MOST_CLASSES = 254  # ids that fit uint8 beside IGNORE


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labelled voxels of the image that the encoder sees.

    Attributes:
      index_Mx3: (z, y, x), no two alike.
      class_M: index into `names`.
      names: of the classes.
    """

    index_Mx3: np.ndarray
    class_M: np.ndarray
    names: tuple[str, ...]

    @property
    def counts(self) -> np.ndarray:
        """Labelled voxels of each class."""
        return np.bincount(self.class_M, minlength=len(self.names))


def read_labels(
    path: str | os.PathLike | Points | VolumeLike,
    own: VolumeLike,
    image: VolumeLike,
    inside: Box,
    padding: Sequence[float],
    *,
    names: Sequence[str] = (),
    class_names: Sequence[str] = (),
    most: int = 20_000,
    fewest_classes: int = 2,
    seed: int = 0,
) -> Labelled:
    """Reads labels and finds their voxels in the image that the encoder sees.

    Args:
      path: a CSV file (`points.read_points`), or a label volume of any format: 0 (and 255) is not labelled; or points
        or a volume that are read already.
      own: the image as it is stored: points count its voxels.
      image: the same space as the encoder sees it, at whatever voxel size.
      inside: the box of `image` that is not padding.
      padding: grey levels of padding inside that box.
      names: of the ids 1, 2, ... of a label volume; empty: those in its metadata, else `class_names`.
      class_names: of the data: they decide the order of the classes.
      most: labelled voxels of each class; of more, so many are drawn at random.
      fewest_classes: that are needed.
      seed: of that draw.

    Raises:
      UserError: the file cannot be used, a point lies outside the image or in padding, or there are too few classes.
    """
    points = path if isinstance(path, Points) else None
    if points is None and not hasattr(path, "read") and is_points(path):
        points = read_points(path, own.voxel_size_nm, getattr(own, "origin_nm", (0.0, 0.0, 0.0)))
    if points is not None:
        voxel_Mx3, class_M, where = points.voxel_Mx3, list(points.class_M), [f", {at}" for at in points.where_M]
        path = points.name
        outside = ((voxel_Mx3 < -0.5) | (voxel_Mx3 >= np.array(own.shape) - 0.5)).any(axis=1)
        _refuse(path, outside, voxel_Mx3, where, f"outside the image of {_by(own.shape)} voxels (z, y, x)")
        size = own.voxel_size_nm
    else:
        volume, size = _open_labels(path, own, image)
        path = volume.name if hasattr(path, "read") else path
        voxel_Mx3, id_M = _labelled_voxels(volume, most, seed)
        if not len(id_M):
            raise UserError(f"{path}: no labelled voxel; 0 stands for voxels without a label")
        of_id = _names_of_ids(path, id_M, names, class_names)
        class_M, where = [of_id[i] for i in id_M.tolist()], [""] * len(id_M)
    scale = np.array(size) / image.voxel_size_nm
    index_Mx3 = np.floor((np.round(voxel_Mx3, 6) + 0.5) * scale).astype(int)
    index_Mx3 = np.clip(index_Mx3, 0, np.array(image.shape) - 1)
    padded = _in_padding(index_Mx3, image, inside, padding)
    if points is not None:
        _refuse(path, padded, voxel_Mx3, where, "in the padding around the tissue, which is not labelled")
    elif padded.all():
        raise UserError(f"{path}: all labelled voxels lie in the padding around the tissue")
    kept = np.flatnonzero(~padded)
    index_Mx3, class_M = index_Mx3[kept], [class_M[i] for i in kept]
    order = _order(class_M, class_names)
    if len(order) < fewest_classes:
        raise UserError(f"{path}: all labels are {order[0]!r}; label a second class, such as 'background'")
    if len(order) > MOST_CLASSES:
        raise UserError(f"{path}: {len(order)} classes, but at most {MOST_CLASSES} fit a label volume")
    ids = np.array([order.index(name) for name in class_M])
    return _without_doubles(path, index_Mx3, ids, order)


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _refuse(path, bad_M: np.ndarray, voxel_Mx3: np.ndarray, where: Sequence[str], problem: str) -> None:
    if bad_M.any():
        first = int(np.flatnonzero(bad_M)[0])
        point = ", ".join(f"{v:g}" for v in voxel_Mx3[first])
        raise UserError(
            f"{path}{where[first]}: voxel ({point}) is {problem}"
            + (f"; so are {bad_M.sum() - 1} other points" if bad_M.sum() > 1 else "")
            + "; remove it, or give coordinates (z, y, x) in voxels of the image or as z_nm, y_nm, x_nm"
        )


def _open_labels(path, own: VolumeLike, image: VolumeLike) -> tuple[VolumeLike, Triple]:
    """The label volume and its voxel size: on one of the two grids, or at another size over the same space."""
    try:
        volume = path if hasattr(path, "read") else open_volume(path, image=False)
        stored = volume.voxel_size_nm
    except UserError:
        volume = open_volume(path, own.voxel_size_nm, image=False)  # raises again where it is no volume
        stored = None
    for like in (own, image):
        if volume.shape == tuple(like.shape):
            return volume, like.voxel_size_nm
    extents = [np.array(v.shape) * v.voxel_size_nm for v in (volume, own)]
    slack = np.maximum(volume.voxel_size_nm, own.voxel_size_nm)
    if stored is None or (np.abs(extents[0] - extents[1]) > slack).any():
        raise UserError(
            f"{volume.name}: labels of {_by(volume.shape)} voxels (z, y, x) do not fit the image {own.name} of "
            f"{_by(own.shape)}; give labels of the same space, with their voxel size if it differs"
        )
    return volume, volume.voxel_size_nm


def _labelled_voxels(volume: VolumeLike, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions `(M, 3)` and ids `(M,)` of labelled voxels, of each id at most `most` at random."""
    rng, by_id = np.random.default_rng(seed), {}
    for box in slabs(volume):
        block = volume.read(box)
        at = np.flatnonzero(block)
        values = block.ravel()[at].astype(np.int64)
        for i in np.unique(values[values != IGNORE]).tolist():
            where = np.stack(np.unravel_index(at[values == i], block.shape), axis=1) + [s.start for s in box]
            rank = rng.random(len(where))
            if i in by_id:
                where, rank = np.concatenate([by_id[i][0], where]), np.concatenate([by_id[i][1], rank])
            first = np.sort(np.argsort(rank, kind="stable")[:most])  # the lowest ranks of all: a uniform draw
            by_id[i] = where[first], rank[first]
        if len(by_id) > MOST_CLASSES:
            raise UserError(f"{volume.name}: more than {MOST_CLASSES} ids; give classes, not single organelles")
    by_id = dict(sorted(by_id.items()))
    positions = [np.zeros((0, 3)), *(where for where, _ in by_id.values())]
    return np.concatenate(positions), np.repeat(list(by_id), [len(w) for w, _ in by_id.values()]).astype(int)


def _names_of_ids(path, id_M: np.ndarray, names: Sequence[str], class_names: Sequence[str]) -> dict[int, str]:
    """Name of each id: as given, in the metadata, those of the data, or "class 3"."""
    ids = np.unique(id_M).tolist()
    if names and max(ids) > len(names):
        raise UserError(f"{path}: has id {max(ids)}, but probe.names names the ids 1 to {len(names)}")
    stored = {} if names else _stored_names(path)
    listed = names or (class_names if max(ids) <= len(class_names) else ())
    return {i: stored.get(i) or (listed[i - 1] if listed else f"class {i}") for i in ids}


def _stored_names(path) -> dict[int, str]:
    try:
        return stored_names(path)
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return {}


def _in_padding(index_Mx3: np.ndarray, image: VolumeLike, inside: Box, padding: Sequence[float]) -> np.ndarray:
    bad = np.zeros(len(index_Mx3), bool)
    for axis, s in enumerate(inside):
        bad |= (index_Mx3[:, axis] < s.start) | (index_Mx3[:, axis] >= s.stop)
    if padding:
        corner_Mx3 = index_Mx3 // 64 * 64
        for corner in np.unique(corner_Mx3[~bad], axis=0):
            box = tuple(slice(int(c), int(min(c + 64, n))) for c, n in zip(corner, image.shape, strict=True))
            mask = padding_mask(image, box, padding)
            if mask is not None:
                here = np.flatnonzero((corner_Mx3 == corner).all(axis=1))
                bad[here] |= mask[tuple((index_Mx3[here] - corner).T)]
    return bad


def _order(class_M: Sequence[str], class_names: Sequence[str]) -> tuple[str, ...]:
    """The classes that occur: in the order of the data's names, then of their first label."""
    present = dict.fromkeys(class_M)
    return tuple([n for n in class_names if n in present] + [n for n in present if n not in class_names])


def _without_doubles(path, index_Mx3: np.ndarray, class_M: np.ndarray, names: tuple[str, ...]) -> Labelled:
    """Each voxel once: by its most frequent class, where several labels fell into it."""
    flat = np.concatenate([index_Mx3, class_M[:, None]], axis=1)
    rows, counts = np.unique(flat, axis=0, return_counts=True)
    rows = rows[np.argsort(-counts, kind="stable")]
    _, first = np.unique(rows[:, :3], axis=0, return_index=True)
    rows = rows[np.sort(first)]
    rows = rows[np.lexsort(rows[:, ::-1].T)]
    present = np.unique(rows[:, 3])
    if len(present) < len(names):
        lost = names[int(np.setdiff1d(np.arange(len(names)), present)[0])]
        raise UserError(f"{path}: every voxel labelled {lost!r} is labelled as another class as well")
    return Labelled(rows[:, :3], rows[:, 3], names)
