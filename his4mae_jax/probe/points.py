"""Labelled points from a CSV file: columns of coordinates and one of class names, or a points layer of napari."""

import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from his4mae_jax.data.volumes.volume import Triple
from his4mae_jax.errors import UserError

CLASS_COLUMNS = ("class", "class_name", "label", "name", "organelle")
NM = {"nm": 1.0, "um": 1000.0, "µm": 1000.0}
_LAYOUTS = ("z", "y", "x"), ("axis-0", "axis-1", "axis-2")
_OTHERS = ("index", "unit")
_WANTED = "z, y, x (in voxels), z_nm, y_nm, x_nm or napari's axis-0, axis-1, axis-2"


@dataclasses.dataclass(frozen=True)
class Points:
    """Labelled points of an image.

    Attributes:
      voxel_Mx3: (z, y, x) in voxels of the image, whole numbers at the centres of voxels (float).
      class_M: the name of each.
      where_M: "line 3" of the file, for messages.
      name: of the file, for messages.
    """

    voxel_Mx3: np.ndarray
    class_M: tuple[str, ...]
    where_M: tuple[str, ...]
    name: str


def is_points(path: str | os.PathLike) -> bool:
    """Whether a path is taken for a table of points, and not for a volume."""
    return pathlib.PurePath(str(path)).suffix.lower() in (".csv", ".tsv", ".txt")


def read_points(path: str | os.PathLike, voxel_size_nm: Triple, origin_nm: Triple = (0.0, 0.0, 0.0)) -> Points:
    """Reads a table of points. Rows without a class are left out: `suggest.csv` need not be filled in whole.

    Args:
      path: of the CSV file (or one with tabs or semicolons), whose first line names the columns.
      voxel_size_nm: of the image (z, y, x), by which coordinates in nm become voxels.
      origin_nm: centre of the image's first voxel.

    Raises:
      UserError: the file cannot be read, a column is missing, or a row is no point.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a CSV file of points ({error})") from error
    rows = list(csv.reader(text.splitlines(), delimiter=_delimiter(text)))
    if not rows:
        raise UserError(f"{path}: empty; give columns of coordinates ({_WANTED}) and one of class names")
    columns = [c.strip().lower() for c in rows[0]]
    axes, scale = _coordinates(path, columns)
    named = _class_column(path, columns, [columns[a] for a in axes])
    unit = columns.index("unit") if "unit" in columns else None
    voxels, classes, lines = [], [], []
    for line, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(columns):
            raise UserError(f"{path}, line {line}: {len(row)} cells for {len(columns)} columns")
        if not row[named].strip():
            continue
        its_scale = scale if unit is None else _unit(path, line, row[unit])
        point = [_number(path, line, row[a]) for a in axes]
        if its_scale:
            sizes = zip(point, origin_nm, voxel_size_nm, strict=True)
            point = [(its_scale * p - origin) / size for p, origin, size in sizes]
        voxels.append(point)
        classes.append(row[named].strip())
        lines.append(f"line {line}")
    if not voxels:
        raise UserError(f"{path}: no labelled point; fill in the column {columns[named]!r}")
    return Points(np.array(voxels, float), tuple(classes), tuple(lines), str(path))


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",;\t", key=first.count)


def _coordinates(path, columns: Sequence[str]) -> tuple[list[int], float | None]:
    """Indices of the columns of z, y, x, and the nm of their unit (None: voxels)."""
    layouts = [(names, None) for names in _LAYOUTS]
    layouts += [(tuple(f"{axis}_{unit}" for axis in "zyx"), nm) for unit, nm in NM.items()]
    for names, nm in layouts:
        if all(columns.count(name) == 1 for name in names):
            if "axis-3" in columns:
                raise UserError(f"{path}: points of more than three axes; save those of one 3D image")
            return [columns.index(name) for name in names], nm
    raise UserError(f"{path}: columns {', '.join(columns)}: none are coordinates; name them {_WANTED}")


def _class_column(path, columns: Sequence[str], coordinates: Sequence[str]) -> int:
    """Index of the column of class names: one of `CLASS_COLUMNS`, or the only one that is left."""
    for name in CLASS_COLUMNS:
        if columns.count(name) == 1:
            return columns.index(name)
    rest = [c for c in columns if c not in (*coordinates, *_OTHERS)]
    if len(rest) == 1:
        return columns.index(rest[0])
    problem = f"{', '.join(rest)} may each be the class" if rest else "none is the class of a point"
    raise UserError(f"{path}: columns {', '.join(columns)}: {problem}; name that column 'class'")


def _unit(path, line: int, text: str) -> float | None:
    unit = text.strip().lower()
    if unit in ("", "voxel", "voxels", "px", "pixel", "pixels"):
        return None
    if unit not in NM:
        raise UserError(f"{path}, line {line}: unit {text!r} is not one of voxel, {', '.join(NM)}")
    return NM[unit]


def _number(path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}, line {line}: {text!r} is no coordinate")
    return value
