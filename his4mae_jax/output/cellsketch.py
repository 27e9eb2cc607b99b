"""The files of a cell as CellSketch reads them: the image, a mask for each class, labels for each instance.

One folder is one cell: `<prefix>.tif` is the image, `<prefix>_<name>_mask.tif` a class (0 and 255) and
`<prefix>_<name>_labels.tif` its instances (0 and ids). CellSketch takes everything before the last two underscores
as the prefix, so names have no underscore, and reads the voxel size from the image's metadata. It measures inside
the cell: the mask with "membrane" in its name.
"""

from collections.abc import Callable, Mapping

import numpy as np

from his4mae_jax.bucket.path import PathLike, place
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.files import slugs
from his4mae_jax.output import records
from his4mae_jax.output.instances import Instances
from his4mae_jax.output.tiff_stack import write_tiff

CELL = "plasmamembrane"  # name of the mask of the whole cell, filled


def write_cellsketch(
    folder: PathLike,
    prefix: str,
    image: VolumeLike,
    labels: VolumeLike,
    names: Mapping[int, str],
    instances: Mapping[int, Instances],
    *,
    cell: VolumeLike | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Writes the folder of one cell.

    Args:
      folder: new folder, which takes its name when it is whole.
      prefix: of all files.
      image: what was segmented, (z, y, x).
      labels: label volume of the same shape.
      names: of the labels, by id; each gets a mask.
      instances: what `label_instances` wrote, by label.
      cell: label volume that is IGNORE outside the cell; its inside becomes the mask CELL. Where no voxel is IGNORE
        there is no such mask: it would be the whole box.
      progress: called with the number of voxels newly written.

    Raises:
      UserError: an input cannot be read, the folder cannot be written, or something is there already.
    """
    file_names = slugs(names)
    with records.new(place(folder)) as (part,):
        part.mkdir()

        def write(volume, ending, convert=None, dtype=np.uint8):
            write_tiff(volume, part / f"{prefix}{ending}.tif", convert=convert, dtype=dtype, progress=progress)

        write(image, "", dtype=None)
        for label, name in file_names.items():
            write(labels, f"_{name}_mask", lambda voxels, label=label: _mask(voxels == label))
        if cell is not None and CELL not in file_names.values():
            outside = []

            def inside(voxels):
                mask = voxels != IGNORE
                outside.append(not mask.all())
                return _mask(mask)

            write(cell, f"_{CELL}_mask", inside)
            if not any(outside):
                (part / f"{prefix}_{CELL}_mask.tif").unlink()
        for label, written in instances.items():
            # 16 bits where they suffice: ImageJ shows 32-bit integers as floats.
            dtype = np.uint16 if written.count < 2**16 else np.uint32
            write(open_volume(written.volume, image=False), f"_{file_names[label]}_labels", dtype=dtype)


def _mask(inside: np.ndarray) -> np.ndarray:
    return inside.astype(np.uint8) * 255
