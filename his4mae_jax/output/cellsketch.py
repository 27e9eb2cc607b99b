"""The files of a cell as CellSketch reads them: the image, a mask for each class, labels for each instance.

One folder is one cell: `<prefix>.tif` is the image, `<prefix>_<name>_mask.tif` a class (0 and 255) and
`<prefix>_<name>_labels.tif` its instances (0 and ids). CellSketch takes what stands before the last two
underscores for the prefix, so that names have none, and takes the voxel size from the image's metadata. It
measures inside the cell, which it knows as the mask of a name with "membrane" in it.
"""

import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np

from his4mae_jax import files
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.output.instances import Instances
from his4mae_jax.output.names import slugs
from his4mae_jax.output.tiff_stack import write_tiff

CELL = "plasmamembrane"  # name of the mask of the whole cell, filled


def write_cellsketch(
    folder: str | os.PathLike,
    prefix: str,
    image: VolumeLike,
    labels: VolumeLike,
    names: dict[int, str],
    instances: dict[int, Instances],
    *,
    cell: VolumeLike | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Writes the folder, which takes its name when it is whole and replaces one written before.

    Args:
      folder: to write.
      prefix: of all files.
      image: what was segmented.
      labels: label volume of the same shape.
      names: of the labels; each gets a mask.
      instances: by label, what `label_instances` wrote.
      cell: labels that are IGNORE outside the cell; its inside becomes the mask CELL.
      progress: called with the number of voxels newly written.

    Raises:
      UserError: an input cannot be read, or the folder not written.
    """
    folder = pathlib.Path(folder)
    part = folder.with_name(f"partial.{folder.name}")
    parts = slugs(names)
    with files.writing(folder):
        check_replaceable(folder)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write_tiff(image, part / f"{prefix}.tif", progress=progress)
        for label, name in parts.items():
            write_tiff(
                labels, part / f"{prefix}_{name}_mask.tif", convert=lambda x, label=label: _mask(x == label),
                dtype=np.uint8, progress=progress,
            )  # fmt: skip
        if cell is not None and CELL not in parts.values():
            write_tiff(
                cell, part / f"{prefix}_{CELL}_mask.tif", convert=lambda x: _mask(x != IGNORE), dtype=np.uint8,
                progress=progress,
            )  # fmt: skip
        for label, found in instances.items():
            # 16 bits where they suffice: ImageJ shows 32-bit integers as floats.
            dtype = np.uint16 if found.count < 2**16 else np.uint32
            volume = open_volume(found.volume, image=False)
            write_tiff(volume, part / f"{prefix}_{parts[label]}_labels.tif", dtype=dtype, progress=progress)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)


def check_replaceable(folder: pathlib.Path) -> None:
    """Raises UserError if something other than such a folder, or an empty one, is there."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file is there; remove it yourself or write elsewhere")
    if folder.exists() and not all(p.suffix == ".tif" for p in folder.iterdir()):
        raise UserError(f"{folder}: holds other files, so it is not overwritten; remove it yourself or write elsewhere")


def _mask(inside: np.ndarray) -> np.ndarray:
    return inside.astype(np.uint8) * 255
