"""BetaSeg: FIB-SEM of mouse pancreatic beta cells, with masks of nucleus, mitochondria and granules.

Müller et al., "3D FIB-SEM reconstruction of microtubule-organelle interaction in whole primary mouse beta cells",
Journal of Cell Biology 2021, https://betaseg.github.io. One zip holds all labelled cells.
"""

import dataclasses
import os
import pathlib
import zipfile
from collections.abc import Iterable

import numpy as np

from his4mae_jax.data.known.convert import to_ome_zarr
from his4mae_jax.data.known.download import download, need_space
from his4mae_jax.data.known.source import Name, Source
from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import Box, Triple, VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.files import writing
from his4mae_jax.progress import Log, progress

URL = "https://cloud.mpi-cbg.de/index.php/s/UJopHTRuh6f4wR8/download"
SHA256 = "4872eec0211721dc224acee319c27c4f51c190adc36004e3d5bb60dfcd67eb7b"
CELLS = ("high_c1", "high_c2", "high_c3", "high_c4", "low_c1", "low_c2", "low_c3")
VOXEL_SIZE_NM = 16.0  # isotropic; high_c4 has 1021 x 545 x 1082 voxels
MASKS = ("nucleus_mask", "mitochondria_mask", "granules", "membrane_full_mask")
CLASSES = ("unrecognized", "nucleus", "mitochondria", "granules")
_COPY_BYTES = 1 << 20  # unpacked at once


@dataclasses.dataclass(frozen=True)
class Cell:
    """The files of one cell.

    Attributes:
      name: such as "high_c4".
      image_path: the electron microscopy volume.
      mask_paths: the path of each of MASKS.
    """

    name: str
    image_path: pathlib.Path
    mask_paths: dict[str, pathlib.Path]


@dataclasses.dataclass(frozen=True)
class MaskLabels:
    """Labels (uint8) that are put together from masks when a box is read; interface of Volume.

    A mask covers a voxel where it is > 0. Where masks overlap the later organelle wins (granules over mitochondria
    over nucleus: the smaller would lose the larger fraction of its voxels). Outside `cell` everything is `IGNORE`.

    Attributes:
      name: for messages.
      organelles: masks of labels 1, 2, ... in this order; 0 is the rest of the cell.
      cell: mask of the whole annotated cell.
    """

    name: str
    organelles: tuple[VolumeLike, ...]
    cell: VolumeLike

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.cell.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8)

    @property
    def voxel_size_nm(self) -> Triple:
        return self.cell.voxel_size_nm

    @property
    def origin_nm(self) -> Triple:
        return origin_of(self.cell)

    def read(self, slices: Box) -> np.ndarray:
        """Reads a box of labels; see `Volume.read`."""
        inside = self.cell.read(slices) > 0
        labels = np.zeros(inside.shape, np.uint8)
        for value, mask in enumerate(self.organelles, start=1):
            labels[mask.read(slices) > 0] = value
        labels[~inside] = IGNORE
        return labels


def find_cell(root: str | os.PathLike, cell: str) -> Cell:
    """Finds the files of one labelled cell.

    Args:
      root: the folder in which the zip was unpacked, or to which it was fetched: it holds `{cell}` or
        `download/{cell}`, and those hold `{cell}_{part}.ome.zarr` or `{cell}_{part}.tif`.
      cell: one of CELLS.

    Raises:
      UserError: unknown cell, or a file is missing.
    """
    check_cell(cell)
    folders = [pathlib.Path(root) / cell, pathlib.Path(root) / "download" / cell]
    paths = {}
    for part in ("source", *MASKS):
        places = [folder / f"{cell}_{part}{ending}" for folder in folders for ending in (".ome.zarr", ".tif")]
        existing = [path for path in places if path.exists()]
        if not existing:
            folder = next((folder for folder in folders if folder.is_dir()), folders[-1])
            raise UserError(
                f"{folder / f'{cell}_{part}.tif'}: no such file; fetch it with `his4mae fetch`, or download "
                f"BetaSeg from {URL} and unpack it in {os.fspath(root)}"
            )
        paths[part] = existing[0]
    return Cell(cell, paths.pop("source"), paths)


def check_cell(cell: str) -> None:
    """Raises `UserError` for a name that is none of CELLS."""
    if cell not in CELLS:
        raise UserError(f"unknown BetaSeg cell {cell!r}; choose one of {', '.join(CELLS)}")


def image(name: Name, root: str | os.PathLike, target_nm: float | None) -> Source:
    """Finds the image of a cell; see `names.image`."""
    return Source(f"{find_cell(root, name.member).image_path}{name.crop}", (VOXEL_SIZE_NM,) * 3)


def labels(name: Name, root: str | os.PathLike) -> MaskLabels:
    """Opens the labels of a cell, put together on reading; see `names.labels`.

    Returns:
      uint8 labels that index CLASSES, and IGNORE (255) outside the cell's membrane.

    Raises:
      UserError: a file is missing or bad, or a mask's shape is not the image's.
    """
    cell = find_cell(root, name.member)
    shape = open_volume(f"{cell.image_path}{name.crop}", VOXEL_SIZE_NM).shape
    masks = {}
    for part, path in cell.mask_paths.items():
        mask = open_volume(f"{path}{name.crop}", VOXEL_SIZE_NM, image=False)
        if mask.shape != shape:
            raise UserError(
                f"{path}: shape {mask.shape} differs from {shape} of {cell.image_path}; download the cell again"
            )
        masks[part] = mask
    organelles = tuple(masks[part] for part in ("nucleus_mask", "mitochondria_mask", "granules"))
    return MaskLabels(f"labels of BetaSeg {cell.name}", organelles, masks["membrane_full_mask"])


def fetch(names: Iterable[Name], root: pathlib.Path, target_nm: float | None, log: Log) -> None:
    """Makes `root/{cell}/{cell}_{part}.ome.zarr` of the image and the masks of each cell; see `fetch.fetch`."""
    cells = sorted({name.member for name in names})
    for cell in cells:
        check_cell(cell)
    missing = [cell for cell in cells if not _is_complete(root, cell)]
    if not missing:
        log(f"fetch: BetaSeg {', '.join(cells)}: there already")
        return
    archive = download(URL, root / "betaseg.zip", log, sha256=SHA256)
    try:
        with zipfile.ZipFile(archive) as zipped:
            for cell in missing:
                for part in ("source", *MASKS):
                    _unpack(zipped, root, cell, part, log)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive}: damaged zip ({error}); delete it and run the same command again") from error
    log(f"fetch: BetaSeg {', '.join(missing)}: in {root}; {archive} is no longer needed for them")


def _is_complete(root: pathlib.Path, cell: str) -> bool:
    try:
        find_cell(root, cell)
    except UserError:
        return False
    return True


def _unpack(zipped: zipfile.ZipFile, root: pathlib.Path, cell: str, part: str, log: Log) -> None:
    """Writes one TIFF of the zip as OME-Zarr, at a path of our own making, whatever its name in the zip."""
    final = root / cell / f"{cell}_{part}.ome.zarr"
    if final.exists():
        return
    ending = f"/{cell}/{cell}_{part}.tif"
    members = [info for info in zipped.infolist() if f"/{info.filename}".endswith(ending)]
    if len(members) != 1:
        raise UserError(
            f"{zipped.filename}: holds {len(members)} files {ending[1:]} in place of one; download it again"
        )
    tiff = root / cell / f"partial.{cell}_{part}.tif"
    whole = tiff.with_name(f"unpacked.{cell}_{part}.tif")
    with writing(whole):
        tiff.parent.mkdir(parents=True, exist_ok=True)
        if not whole.exists():
            n_bytes = members[0].file_size
            need_space(tiff.parent, 2 * n_bytes, f"unpacking {cell}_{part}.tif")
            log(f"fetch: unpacking {cell}_{part}.tif ({n_bytes / 1e6:,.1f} MB)")
            with (
                progress(f"fetch: unpacking {cell}_{part}.tif", n_bytes / 1e6, unit="MB", log=log) as bar,
                zipped.open(members[0]) as packed,
                open(tiff, "wb") as stream,
            ):
                while piece := packed.read(_COPY_BYTES):  # zipfile checks the CRC at the end
                    stream.write(piece)
                    bar.advance(len(piece) / 1e6)
            os.replace(tiff, whole)
        volume = open_volume(whole, VOXEL_SIZE_NM, image=part == "source")
        to_ome_zarr(volume, final, log, source=f"{members[0].filename} {members[0].CRC:08x}")
        whole.unlink()
