"""nnU-Net's spacing beside a TIFF: `case_0000.tif` and `case.json` (or `case_0000.json`) with {"spacing": [z, y, x]}.

nnU-Net knows no units; by its convention, that of NIfTI, they are mm. Sizes of 1 on every axis stand for none.
"""

import pathlib
import re

from his4mae_jax.data.formats.sidecars.parsing import content_of, damaged
from his4mae_jax.data.stores.beside import Sidecar
from his4mae_jax.data.stores.units import NM, brief, numbers, triple
from his4mae_jax.errors import UserError
from his4mae_jax.files import parse_json


def spacing(file: pathlib.Path) -> Sidecar | None:
    """Returns the voxel size beside a TIFF; None where there is none, or a JSON file of other programs.

    Raises:
      UserError: it is damaged.
    """
    stems = dict.fromkeys([re.sub(r"_\d{4}$", "", file.stem), file.stem])  # without the channel first, as nnU-Net
    for path in (file.with_name(f"{stem}.json") for stem in stems if stem):
        content = content_of(path)
        if content is None:
            continue
        try:
            about = parse_json(content)
        except ValueError as error:
            raise damaged(path, f"not JSON, {brief(error)}") from error
        if not isinstance(about, dict) or "spacing" not in about:
            continue
        size = numbers(about["spacing"])
        if size is None or len(size) != 3:
            raise damaged(path, "spacing is not three numbers (z, y, x) in mm")
        if all(v == 1 for v in size):
            return None
        try:
            return Sidecar(str(path), tuple(v * NM["mm"] for v in triple(size, str(path))))
        except UserError as error:
            raise damaged(path, "spacing is not three positive numbers (z, y, x) in mm") from error
    return None
