"""Open a volume of any format, local or remote, as a lazy (z, y, x) array with its voxel size.

Files are checked as far as possible when they are opened, so that a bad file stops a run in its first second and not
in its third hour.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorstore as ts

from his4mae_jax.bucket.path import BucketPath
from his4mae_jax.data.formats.opening import cropped, open_place
from his4mae_jax.data.formats.path import parse
from his4mae_jax.data.stores import location
from his4mae_jax.data.stores.chunks.listing import stored_chunks
from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.stores.dtypes import dtype_read
from his4mae_jax.data.stores.levels import OpenOptions
from his4mae_jax.data.stores.placement import ZERO, moved, origin_of
from his4mae_jax.data.stores.units import Triple, triple
from his4mae_jax.errors import UserError

__all__ = (
    "Box", "NoVoxelSize", "Triple", "UnlikelyVoxelSize", "View", "Volume", "VolumeLike", "box_bounds", "chunks_of",
    "open_volume",
)  # fmt: skip

MISSING_CHUNKS = ("fill", "error")
SMALLEST_NM, LARGEST_NM, MOST_ANISOTROPIC = 0.1, 10_000, 50  # beyond these a voxel size has to be confirmed
CACHE_BYTES = 32 << 20  # decoded chunks kept in memory per open volume, for neighbouring reads

Box = tuple[slice, slice, slice]


class NoVoxelSize(UserError):
    """The metadata of a volume have no voxel size, or one in a unit that is not known."""


class UnlikelyVoxelSize(UserError):
    """The metadata of an image have a voxel size that has to be confirmed."""


class VolumeLike(Protocol):
    """The interface of a volume, stored or computed on reading.

    Attributes:
      name: path or URL, for messages.
      voxel_size_nm: edge lengths (z, y, x) of a voxel in nm.
      origin_nm: physical position (z, y, x) of the centre of voxel (0, 0, 0) in nm, see `stores.placement`. Read it
        with `placement.origin_of`: a volume without this attribute begins at 0.
      shape: (z, y, x).
      dtype: of the array that `read` returns for a box of (z, y, x) slices.
      stored: which parts are stored, see `Stored`. Read it with `stored_of`: a volume without this attribute has to be
        read to know.
    """

    @property
    def name(self) -> str: ...
    @property
    def voxel_size_nm(self) -> Triple: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def read(self, slices: Box) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class View:
    """Base class of volumes that are read through another one; a subclass overrides what differs."""

    source: VolumeLike

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        return self.source.dtype

    @property
    def voxel_size_nm(self) -> Triple:
        return self.source.voxel_size_nm

    @property
    def origin_nm(self) -> Triple:
        return origin_of(self.source)

    @property
    def chunks(self) -> tuple[int, int, int]:
        return chunks_of(self.source)


@dataclasses.dataclass(frozen=True)
class Volume:
    """A lazy 3D array (z, y, x) with its voxel size in nm.

    Attributes:
      name: path or URL, for messages.
      array: 3D TensorStore in the order z, y, x.
      voxel_size_nm: edge lengths of one voxel (z, y, x) in nm.
      remote: whether it is on another machine.
      origin_nm: centre (z, y, x) of voxel (0, 0, 0) in nm, see `stores.placement`.
      placed: whether the metadata give a position other than 0; a crop moves the origin without it.
    """

    name: str
    array: ts.TensorStore
    voxel_size_nm: Triple
    remote: bool = False
    origin_nm: Triple = ZERO
    placed: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(int(n) for n in self.array.shape)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.array.dtype.numpy_dtype)

    @functools.cached_property
    def chunks(self) -> tuple[int, int, int]:
        """Shape (z, y, x) of the blocks that are decoded as a whole; one plane if the format has none."""
        grid = self.array.chunk_layout.read_chunk.shape
        if grid is None or not all(grid):
            return (1, *self.shape[1:])
        return tuple(min(int(c), n) for c, n in zip(grid, self.shape, strict=True))

    @functools.cached_property
    def stored(self) -> Stored | None:
        """Which of its chunks are stored, where their names can be listed, see `listing.stored_chunks`."""
        return stored_chunks(self.array)

    def read(self, slices: Box) -> np.ndarray:
        """Reads one box, blocking.

        Args:
          slices: (z, y, x) slices of step 1 inside the volume; a bound of None is the volume's edge.

        Returns:
          An array of the box's shape, owned by the caller.

        Raises:
          IndexError: the box leaves the volume.
          UserError: a chunk is damaged, or cannot be read.
        """
        return self.read_async(slices).result()

    def read_async(self, slices: Box) -> "Pending":
        """Starts to read one box; `result()` of the returned object returns or raises what `read` would.

        Raises:
          IndexError: the box leaves the volume.
        """
        bounds = box_bounds(slices, self.shape)
        n_bytes = math.prod(high - low for low, high in bounds) * self.dtype.itemsize
        lazy = self.array[tuple(slice(low, high) for low, high in bounds)]
        return Pending(self, lazy.read(), location.read_seconds(n_bytes, self.remote))


@dataclasses.dataclass(frozen=True)
class Pending:
    """A read in progress."""

    volume: Volume
    future: Any
    seconds: float | None

    def result(self) -> np.ndarray:
        """Waits for the box; see `Volume.read`."""
        try:
            return self.future.result(timeout=self.seconds)
        except (ValueError, OSError, NotImplementedError) as error:
            raise location.explain(self.volume.name, error, remote=self.volume.remote) from error


def chunks_of(volume: VolumeLike) -> tuple[int, int, int]:
    """Returns the shape (z, y, x) of blocks to read a volume in: its own chunks, else 64 voxels a side."""
    return getattr(volume, "chunks", None) or tuple(min(64, n) for n in volume.shape)


def box_bounds(slices: Box, shape: Sequence[int]) -> list[tuple[int, int]]:
    """Returns (start, stop) for each axis of a box; IndexError if it leaves `shape`."""
    if len(slices) != len(shape):
        raise IndexError(f"{len(slices)} slices for a volume of {len(shape)} axes")
    bounds = []
    for s, n in zip(slices, shape, strict=True):
        low = 0 if s.start is None else int(s.start)
        high = n if s.stop is None else int(s.stop)
        if s.step not in (None, 1) or not 0 <= low <= high <= n:
            raise IndexError(f"{s} is not a box of step 1 inside an axis of {n} voxels")
        bounds.append((low, high))
    return bounds


def open_volume(
    path: str | os.PathLike,
    voxel_size_nm: float | Sequence[float] | None = None,
    *,
    image: bool = True,
    target_nm: float | Sequence[float] | None = None,
    missing_chunks: str = "fill",
    cache_bytes: int | None = None,
) -> Volume:
    """Opens a volume: zarr (2, 3), OME-Zarr, N5, neuroglancer precomputed, TIFF, a folder of slices, HDF5, MRC.

    The first four are also read from http(s)://, s3:// and gs:// (see `stores.location`). Only headers are read here;
    uncompressed TIFF and MRC are memory-mapped, other single files are read page by page or chunk by chunk on demand.

    Args:
      path: a path or URL; `FILE.h5:/data/set` names a data set of an HDF5 file. At its end, `[c=1]` chooses one of
        several channels and `[z0:z1, y0:y1, x0:x1]` a box, in voxels of level 0 whatever level is opened; the box keeps
        its place (`origin_nm`).
      voxel_size_nm: of level 0, one number or (z, y, x); None: from the metadata, which must be plausible in images.
      image: True: grey levels, read as one of `dtypes.IMAGE_DTYPES`; False: labels of any integer or bool dtype.
      target_nm: opens the coarsest level of a multiscale volume whose voxels are no larger than this on any axis
        (within 1 %), or level 0 if none is that fine; None: level 0.
      missing_chunks: "fill" reads a chunk that is not stored as the array's fill value, as zarr and N5 define it;
        "error" refuses it. A stored chunk that cannot be read is an error in either case.
      cache_bytes: limit of decoded chunks kept in memory; None: CACHE_BYTES. Formats that are read by whole pages keep
        `virtual_chunked.PAGE_CACHE_BYTES` unless the limit is 0.

    Returns:
      The Volume.

    Raises:
      UserError: one line that names the file and the remedy; `NoVoxelSize` where it lacks nothing else.
    """
    name = str(path) if isinstance(path, BucketPath) else os.fspath(path)
    if missing_chunks not in MISSING_CHUNKS:
        raise UserError(f"config key data.missing_chunks is {missing_chunks!r}: choose 'fill' or 'error'")
    parsed = parse(name)
    options = OpenOptions(
        None if voxel_size_nm is None else triple(voxel_size_nm, name),
        None if target_nm is None else triple(target_nm, name),
        missing_chunks,
        CACHE_BYTES if cache_bytes is None else cache_bytes,
        image,
        parsed.channel,
    )
    opened, remote = open_place(parsed, options)
    array = opened.array
    if array.rank != 3:
        raise UserError(
            f"{name}: shape {tuple(array.shape)} is not a 3D volume (z, y, x); "
            "save one channel and one time point as a 3D array"
        )
    if 0 in array.shape:
        raise UserError(f"{name}: shape {tuple(array.shape)} is empty; give a volume with voxels")
    stored = array.dtype.numpy_dtype
    read_as = dtype_read(stored, image, name)
    if read_as != stored:
        array = ts.cast(array, ts.dtype(read_as))  # block by block, when it is read
    if opened.voxel_size_nm is None:
        units = ", ".join(map(repr, opened.unknown_units))
        problem = "no voxel size with a unit in its metadata"
        if units:
            problem = f"its metadata gives the voxel size in {units}, an unknown unit"
        raise NoVoxelSize(
            f"{name}: {problem}; give it in nm (z, y, x) as voxel_size_nm in Python, or as the config key "
            "data.file_voxel_size_nm"
        )
    size, origin = triple(opened.voxel_size_nm, name), opened.origin_nm
    if image and options.voxel_size_nm is None:
        own = tuple(s / f for s, f in zip(size, opened.factors, strict=True))
        check_plausible(own, name, opened.size_from or "its metadata")
    if not all(map(math.isfinite, origin)):
        raise UserError(f"{name}: the position in its metadata is {origin} nm, not finite; write the metadata again")
    if parsed.crop:
        array, first = cropped(array, parsed.crop, opened.factors, name)
        origin = moved(origin, size, first)
    return Volume(name, array, size, remote, origin, placed=any(opened.origin_nm))


def check_plausible(size_nm: Triple, name: str, source: str = "its metadata") -> None:
    """Raises UnlikelyVoxelSize for a size in metadata that is none of electron microscopy: often a wrong unit."""
    smallest, largest = min(size_nm), max(size_nm)
    if smallest < SMALLEST_NM or largest > LARGEST_NM or largest > MOST_ANISOTROPIC * smallest:
        size = " x ".join(f"{s:g}" for s in size_nm)
        raise UnlikelyVoxelSize(
            f"{name}: voxels of {size} nm (z, y, x) in {source} are beyond {SMALLEST_NM:g} to {LARGEST_NM:g} nm, "
            f"or beyond 1:{MOST_ANISOTROPIC} in shape; give their right size, or confirm this one, in nm as "
            "voxel_size_nm in Python, or as the config key data.file_voxel_size_nm (for segment.volume: "
            "segment.file_voxel_size_nm)"
        )
