"""Phantom cells as files: several of one size to train on, and one more to test on."""

from ml_collections import ConfigDict

from his4mae_jax import files
from his4mae_jax.bucket import transfer
from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.phantom.cell import CLASSES, make_phantom
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log, progress

VOXEL_SIZE_NM = 16.0  # that of BetaSeg


def cell_paths(config: ConfigDict, workdir: PathLike, index: int) -> tuple[Place, Place]:
    """`(image, labels)` paths of one phantom cell: in `data.root`, or in the workdir where that is empty.

    Cells 0 to `data.phantom.cells` - 1 are trained on, cell `data.phantom.cells` is the test.
    """
    folder = place(config.data.root or workdir) / "phantom" / f"cell_{index}"
    return folder / "image.ome.zarr", folder / "labels.ome.zarr"


def write_cells(config: ConfigDict, workdir: PathLike, log: Log) -> None:
    """Writes the phantom cells that do not exist yet.

    Raises:
      UserError: `data.phantom.size` is too small, or the disk refuses.
    """
    size, seed = config.data.phantom.size, config.data.phantom.seed
    seed = config.seed if seed < 0 else seed
    cells = range(config.data.phantom.cells + 1)
    missing = [i for i in cells if not all(transfer.is_whole(path) for path in cell_paths(config, workdir, i))]
    with progress("phantom: drawing cells", len(missing), unit="cells", log=log) as bar:
        for index in missing:
            log(f"phantom: drawing synthetic cell {index} ({size}x{size}x{size} voxels at {VOXEL_SIZE_NM:g} nm)")
            _write_cell(cell_paths(config, workdir, index), size, seed * 1000 + index)
            bar.advance()


def _write_cell(paths: tuple[Place, Place], size: int, seed: int) -> None:
    try:
        cell = make_phantom((size,) * 3, seed, VOXEL_SIZE_NM)
    except ValueError as error:
        raise UserError(f"config key data.phantom.size: {error}") from error
    label_names = {**dict(enumerate(CLASSES)), IGNORE: "outside the cell"}
    for path, array, names in zip(paths, (cell.image_ZxYxX, cell.labels_ZxYxX), (None, label_names), strict=True):
        part = transfer.part_of(path)
        with files.writing(path):
            out = ome_zarr.create(
                part, array.shape, array.dtype, cell.voxel_size_nm, label_values=names, overwrite=True
            )
            out.write(array).result()
            transfer.finish(part, path)  # an image or label volume appears only when it is complete
