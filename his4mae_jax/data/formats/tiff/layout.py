"""Find the volume in a TIFF: which pages it is made of, and in which order."""

import collections
import dataclasses
import functools
import math
import pathlib

import numpy as np
import tifffile

from his4mae_jax.data.formats.tiff.headers import tiff_description, truncated
from his4mae_jax.errors import UserError
from his4mae_jax.progress import say_once

_MOST_LEFT_OUT = 3  # pages beside a stack, such as a thumbnail


@dataclasses.dataclass(frozen=True)
class Layout:
    """The volume in a TIFF.

    Attributes:
      shape: without an axis of colours.
      axes: a letter for each axis, as tifffile has them.
      dtype: of the stored values.
      page: the first page.
      series: of tifffile; None for a stack whose pages stand on their own.
      group: the series of that stack, one for each page.
    """

    shape: tuple[int, ...]
    axes: str
    dtype: np.dtype
    page: tifffile.TiffPage
    series: tifffile.TiffPageSeries | None
    group: tuple[tifffile.TiffPageSeries, ...]

    @functools.cached_property
    def pages(self) -> list:
        """The pages, in their order; tifffile reads their headers."""
        return [one.keyframe for one in self.group] if self.series is None else list(self.series.pages)

    @property
    def has_colours(self) -> bool:
        """Whether a pixel has several values."""
        return self.page.samplesperpixel > 1


def tiff_layout(tif: tifffile.TiffFile, file: pathlib.Path) -> Layout:
    """Finds the volume in a TIFF, and checks that its data is all there.

    A few pages of another size beside a stack, such as a thumbnail, are left out, and that is said once.

    Raises:
      UserError: data is missing, or the file holds several different images.
    """
    if not tif.series:
        raise UserError(f"{file}: holds no image; export it again")
    kinds = collections.defaultdict(list)
    for one in tif.series:
        kinds[one.keyframe.shape, one.dtype].append(one)
    planes = {kind: sum(len(s.pages) for s in group) for kind, group in kinds.items()}
    main = max(planes, key=planes.get)
    others = sum(planes.values()) - planes[main]
    if others > _MOST_LEFT_OUT or others >= planes[main]:
        raise _several(kinds, file)
    group = kinds[main]
    series = group[0]
    _check_complete(tif, series, file)
    if len(group) > 1 and len(series.shape) != 2 + (series.keyframe.samplesperpixel > 1):
        raise _several(kinds, file)
    if others:
        sizes = ", ".join(" x ".join(map(str, shape)) for shape, _ in kinds if (shape, _) != main)
        say_once(f"{file}: left out {others} page{'s' if others > 1 else ''} of another kind ({sizes})")
    axes, shape = series.axes, series.shape
    if "S" in axes and series.keyframe.samplesperpixel > 1:
        shape, axes = tuple(n for n, a in zip(shape, axes, strict=True) if a != "S"), axes.replace("S", "")
    if len(group) > 1:  # some writers do not say that the pages are one stack: all are alike
        shape, axes = (len(group), *shape), f"I{axes}"
        return Layout(shape, axes, series.dtype, series.keyframe, None, tuple(group))
    return Layout(shape, axes, series.dtype, series.keyframe, series, (series,))


def _check_complete(tif: tifffile.TiffFile, series: tifffile.TiffPageSeries, file: pathlib.Path) -> None:
    """Raises UserError where data of the file, or other files, are missing."""
    end = file.stat().st_size
    if series.dataoffset is not None:
        if series.dataoffset + series.nbytes > end:
            truncated(file)
    for page in tif.pages if series.dataoffset is None else ():
        if any(o + n > end for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)):
            truncated(file)
    if any(page is None for page in series.pages):
        raise UserError(f"{file}: an OME-TIFF whose other files are missing; put them beside it")
    declared = tiff_description(tif).get("shape") if tif.is_shaped else None
    planes = series.size // max(1, math.prod(series.shape[-2:]))
    if (declared and math.prod(declared) > series.size) or (
        tif.imagej_metadata and tif.imagej_metadata.get("images", 1) > planes
    ):
        truncated(file)


def _several(kinds: dict, file: pathlib.Path) -> UserError:
    shapes = ", ".join(map(str, sorted({shape for shape, _ in kinds})[:4]))
    return UserError(f"{file}: holds several images, of shapes {shapes}; save one stack of equal slices")
