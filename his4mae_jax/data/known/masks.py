"""Named data sets: where their files lie, their classes, and how their masks make labels."""

import dataclasses
import os
import pathlib

import numpy as np

from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import Box, Triple, View, VolumeLike, open_volume
from his4mae_jax.errors import UserError

# BetaSeg: FIB-SEM of mouse pancreatic beta cells (Müller et al., "3D FIB-SEM reconstruction of
# microtubule-organelle interaction in whole primary mouse beta cells", Journal of Cell Biology
# 2021, https://betaseg.github.io). One zip holds all labelled cells.
BETASEG_URL = "https://cloud.mpi-cbg.de/index.php/s/UJopHTRuh6f4wR8/download"
BETASEG_SHA256 = "4872eec0211721dc224acee319c27c4f51c190adc36004e3d5bb60dfcd67eb7b"
BETASEG_CELLS = ("high_c1", "high_c2", "high_c3", "high_c4", "low_c1", "low_c2", "low_c3")
BETASEG_TRAIN_CELLS = ("high_c1", "high_c2", "high_c3")  # the split of HiS4MAE
BETASEG_TEST_CELL = "high_c4"  # 1021 x 545 x 1082 voxels
BETASEG_VOXEL_SIZE_NM = 16.0  # isotropic
BETASEG_MASKS = ("nucleus_mask", "mitochondria_mask", "granules", "membrane_full_mask")
BETASEG_CLASSES = ("unrecognized", "nucleus", "mitochondria", "granules")

# EPFL CVLab: FIB-SEM of mouse hippocampus (Lucchi et al., "Learning for structured prediction using
# approximate subgradient descent with working sets", CVPR 2013), https://www.epfl.ch/labs/cvlab/data/data-em/
EPFL_URL = "https://documents.epfl.ch/groups/c/cv/cvlab-unit/www/data/%20ElectronMicroscopy_Hippocampus"
EPFL_HALVES = ("training", "testing")  # 165 x 768 x 1024 voxels each, both annotated
EPFL_VOXEL_SIZE_NM = 5.0  # isotropic; the TIFFs do not say
EPFL_CLASSES = ("background", "mitochondria")


@dataclasses.dataclass(frozen=True)
class KnownCell:
    """The files of one BetaSeg cell.

    Attributes:
      name: such as "high_c4".
      image_path: the electron microscopy volume.
      mask_paths: the path of each of BETASEG_MASKS.
      voxel_size_nm: isotropic.
    """

    name: str
    image_path: pathlib.Path
    mask_paths: dict[str, pathlib.Path]
    voxel_size_nm: float = BETASEG_VOXEL_SIZE_NM


@dataclasses.dataclass(frozen=True)
class AboveZero(View):
    """Labels of which every id above 0 is read as 1: masks stored as 0 and 255, or instances."""

    @property
    def dtype(self):
        return np.dtype(np.uint8)

    def read(self, slices):
        return (self.source.read(slices) > 0).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class MaskLabels:
    """Labels (uint8) put together from masks for each box that is read; interface of Volume.

    A mask holds a voxel where it is > 0. Where masks overlap the later organelle wins (granules
    over mitochondria over nucleus: the smaller would lose the larger share of its voxels), and
    outside `cell` everything is `IGNORE`.

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

    def read(self, slices: Box) -> np.ndarray:
        """Reads a box of labels; see Volume.read."""
        inside = self.cell.read(slices) > 0
        labels = np.zeros(inside.shape, np.uint8)
        for value, mask in enumerate(self.organelles, start=1):
            labels[mask.read(slices) > 0] = value
        labels[~inside] = IGNORE
        return labels


def betaseg_cell(root: str | os.PathLike, cell: str) -> KnownCell:
    """Finds the files of one labelled BetaSeg cell.

    Args:
      root: the folder in which the BetaSeg zip was unpacked, or to which it was fetched: it holds `{cell}` or
        `download/{cell}`, and those hold `{cell}_{part}.ome.zarr` or `{cell}_{part}.tif`.
      cell: one of BETASEG_CELLS.

    Returns:
      The KnownCell.

    Raises:
      UserError: unknown cell, or a file is missing.
    """
    check_betaseg_cell(cell)
    folders = [pathlib.Path(root) / cell, pathlib.Path(root) / "download" / cell]
    paths = {}
    for part in ("source", *BETASEG_MASKS):
        places = [folder / f"{cell}_{part}{ending}" for folder in folders for ending in (".ome.zarr", ".tif")]
        found = [path for path in places if path.exists()]
        if not found:
            there = next((folder for folder in folders if folder.is_dir()), folders[-1])
            raise UserError(
                f"{there / f'{cell}_{part}.tif'}: no such file; run --mode=fetch with this config, or download BetaSeg "
                f"from {BETASEG_URL} and unpack it in {os.fspath(root)}"
            )
        paths[part] = found[0]
    return KnownCell(cell, paths.pop("source"), paths)


def check_betaseg_cell(cell: str) -> None:
    """Raises `UserError` for a name that is none of BETASEG_CELLS."""
    if cell not in BETASEG_CELLS:
        raise UserError(f"unknown BetaSeg cell {cell!r}; choose one of {', '.join(BETASEG_CELLS)}")


def betaseg_labels(root: str | os.PathLike, cell: str, crop: str = "") -> MaskLabels:
    """Opens the labels of one BetaSeg cell, put together on reading.

    Args:
      root, cell: as for `betaseg_cell`.
      crop: "[z0:z1, y0:y1, x0:x1]" in voxels, or "" for the whole cell.

    Returns:
      uint8 labels that index BETASEG_CLASSES, and IGNORE (255) outside the cell's membrane.

    Raises:
      UserError: a file is missing or bad, or a mask's shape is not the image's.
    """
    files = betaseg_cell(root, cell)
    shape = open_volume(f"{files.image_path}{crop}", files.voxel_size_nm).shape
    masks = {}
    for part, path in files.mask_paths.items():
        mask = open_volume(f"{path}{crop}", files.voxel_size_nm, image=False)
        if mask.shape != shape:
            raise UserError(
                f"{path}: shape {mask.shape} differs from {shape} of {files.image_path}; download the cell again"
            )
        masks[part] = mask
    organelles = tuple(masks[p] for p in ("nucleus_mask", "mitochondria_mask", "granules"))
    return MaskLabels(f"labels of BetaSeg {cell}", organelles, masks["membrane_full_mask"])


def epfl_path(root: str | os.PathLike, half: str, labels: bool = False) -> pathlib.Path:
    """Where the image, or the ground truth, of one half of the EPFL volume lies: in `root` or `root/epfl`.

    Raises:
      UserError: `half` is none of EPFL_HALVES, or the file is missing.
    """
    places = epfl_places(root, half, labels)
    for path in places:
        if path.is_file():
            return path
    raise UserError(
        f"{places[0]}: no such file; run --mode=fetch with this config, or download it from {EPFL_URL}/{places[0].name}"
    )


def epfl_places(root: str | os.PathLike, half: str, labels: bool = False) -> list[pathlib.Path]:
    """The paths at which one half's image or ground truth may lie; fetched files lie at the first."""
    if half not in EPFL_HALVES:
        raise UserError(f"unknown half {half!r} of the EPFL volume; choose one of {', '.join(EPFL_HALVES)}")
    file = f"{half}_groundtruth.tif" if labels else f"{half}.tif"
    return [pathlib.Path(root) / "epfl" / file, pathlib.Path(root) / file]
