"""Slices of an image and its labels, reduced and embedded as data URIs, and crops that show a cluster."""

import base64
import dataclasses
import io

import numpy as np
from PIL import Image
from scipy import ndimage

from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.figures.slices import read_slice
from his4mae_jax.progress import Log, progress

PER_AXIS = 24
SIDE = 400  # pixels
CROP = 64  # pixels
CROPS = 4


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice: its axis, its index in the image, its grey values in [0, 1], and labels of the same shape."""

    axis: int
    index: int
    grey: np.ndarray
    labels: np.ndarray


def read(image: VolumeLike, labels: VolumeLike, contrast: Contrast, log: Log) -> list[Slice]:
    """Reads up to `PER_AXIS` evenly spaced slices across each axis.

    The labels may have a grid of their own over the same extent.
    """
    places = []
    for axis in range(3):
        count = min(PER_AXIS, image.shape[axis])
        places += [(axis, int((i + 0.5) * image.shape[axis] / count)) for i in range(count)]
    slices = []
    with progress("report: slices", len(places), unit="slices", log=log) as bar:
        for axis, index in places:
            grey = read_slice(image, axis, index, contrast.apply, average=True)
            step = -(-max(grey.shape) // SIDE)
            grey = grey[::step, ::step]
            its_index = int((index + 0.5) * labels.shape[axis] / image.shape[axis])
            its_labels = read_slice(labels, axis, its_index)
            rows, columns = (
                ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(grey.shape, its_labels.shape, strict=True)
            )
            slices.append(Slice(axis, index, grey, its_labels[np.ix_(rows, columns)]))
            bar.advance(1)
    return slices


def grey_uri(grey: np.ndarray) -> str:
    """Embeds grey values in [0, 1] as a JPEG."""
    pixels = np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8)
    return _uri(Image.fromarray(pixels), "jpeg", quality=75)


def labels_uri(labels: np.ndarray, colours: dict[int, str]) -> str:
    """Embeds labels as an indexed PNG, transparent where there is none."""
    picture = Image.frombytes("P", labels.shape[::-1], labels.astype(np.uint8).tobytes())
    table = bytearray(768)
    for label, colour in colours.items():
        table[3 * label : 3 * label + 3] = bytes.fromhex(colour[1:])
    picture.putpalette(bytes(table))
    return _uri(picture, "png", transparency=0, optimize=True)


def _uri(picture, kind, **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def crops(slices: list[Slice], label: int) -> list[np.ndarray]:
    """Crops around the deepest pixels of a label, of different slices across the first axis that has some."""
    deepest = []
    for each in slices:
        inside = each.labels == label
        if each.axis == 0 and inside.any():
            depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
            row, column = np.unravel_index(depth.argmax(), depth.shape)
            deepest.append((depth[row, column], each, row, column))
    deepest.sort(key=lambda found: -found[0])
    pieces = []
    for _, each, row, column in deepest[:CROPS]:
        top, left = (
            max(0, min(place - CROP // 2, size - CROP))
            for place, size in zip((row, column), each.grey.shape, strict=True)
        )
        pieces.append(each.grey[top : top + CROP, left : left + CROP])
    return pieces
