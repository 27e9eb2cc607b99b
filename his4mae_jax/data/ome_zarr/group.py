"""An image and its label volumes as one OME-Zarr group, which viewers open as one thing.

    image.ome.zarr/0, 1, ...       the image
    image.ome.zarr/labels/<name>   a link to <name>.ome.zarr beside the image: label volumes are not copied

Readers take the image that a label volume is of to be two folders up (`source` of its metadata, "../../" by default),
which it is by the way of the link.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence

import tensorstore as ts

from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.ome_zarr.fill import fill
from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.files import write_json, writing

LABELS = "labels"


def copy_image(
    image: VolumeLike,
    folder: pathlib.Path,
    *,
    chunks: Sequence[int],
    version: str,
    progress: Callable[[int], object] | None = None,
) -> ts.TensorStore:
    """Copies a volume into an OME-Zarr image of one level.

    Args:
      image: the volume (z, y, x).
      folder: to create.
      chunks: shape of a chunk.
      version: of OME-Zarr.
      progress: called with the number of voxels newly written.

    Raises:
      UserError: the volume cannot be read, or the folder not be written.
    """
    out = ome_zarr.create(
        folder, image.shape, image.dtype, image.voxel_size_nm, origin_nm=origin_of(image), chunks=chunks,
        version=version,
    )  # fmt: skip

    with writing(folder):
        fill(out, image.read, folder / "0", progress=progress)
    return out


def listed_labels(folder: pathlib.Path) -> list[str]:
    """The label volumes of an image's group, in their order.

    Args:
      folder: of an image that `list_labels` gave labels.
    """
    new = folder / LABELS / "zarr.json"
    if new.exists():
        return json.loads(new.read_text("utf-8"))["attributes"]["ome"]["labels"]
    return json.loads((folder / LABELS / ".zattrs").read_text("utf-8"))["labels"]


def list_labels(folder: pathlib.Path, names: Sequence[str], version: str) -> None:
    """Makes the label volumes `<name>.ome.zarr` beside an image the labels of its group, in this order.

    Those listed before are replaced. On a file system without links they are copied.

    Args:
      folder: of the image.
      names: of the label volumes.
      version: of OME-Zarr.
    """
    group = folder / LABELS
    with writing(group):
        if group.exists():
            shutil.rmtree(group)  # links go, not what they point to
        group.mkdir()
        for name in names:
            try:
                os.symlink(pathlib.Path("..", "..", f"{name}.ome.zarr"), group / name, target_is_directory=True)
            except OSError:
                shutil.copytree(folder.parent / f"{name}.ome.zarr", group / name)
        if version == "0.4":
            write_json(group / ".zgroup", {"zarr_format": 2})
            write_json(group / ".zattrs", {"labels": list(names)})
        else:
            attributes = {"ome": {"version": version, "labels": list(names)}}
            write_json(group / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
