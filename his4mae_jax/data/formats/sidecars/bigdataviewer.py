"""BigDataViewer's `name.xml` beside `name.h5` or `name.n5`: the voxel size of each of its setups, x first.

Data sets are `t00000/s00/0/cells` (HDF5, stored z, y, x) and `setup0/timepoint0/s0` (N5). The factors of coarser levels
are in the file itself: `s00/resolutions` in HDF5, `downsamplingFactors` in N5.
"""

import pathlib
import re

from his4mae_jax.data.formats.sidecars.parsing import content_of, damaged, local_name, parse_xml
from his4mae_jax.data.stores.beside import Sidecar
from his4mae_jax.data.stores.location import Location
from his4mae_jax.data.stores.units import NM, Triple, numbers, triple
from his4mae_jax.errors import UserError

_IN_HDF5 = re.compile(r"t\d{5,}/s(\d{2,})/(\d+)/cells")
_IN_N5 = re.compile(r"(.*)/setup(\d+)/timepoint\d+(?:/s(\d+))?")
_ATTRIBUTES = "attributes.json"


def of_hdf5(file: pathlib.Path, inside: str) -> Sidecar | None:
    """Returns what the XML beside an HDF5 file says of one of its data sets; None where there is none.

    Raises:
      UserError: it is damaged.
    """
    match = _IN_HDF5.fullmatch(inside.strip("/"))
    if not match or not file.with_suffix(".xml").exists():
        return None
    import h5py

    setup, level = match.groups()
    with h5py.File(file, "r") as handle:
        factors = handle.get(f"s{setup}/resolutions")
        factors = None if factors is None else factors[()].tolist()
    own = factors[int(level)] if factors is not None and int(level) < len(factors) else None
    return _of_setup(file, int(setup), own or ([1, 1, 1] if level == "0" else None))


def of_n5(location: Location) -> Sidecar | None:
    """Returns what the XML beside an N5 container on a disk says of a setup in it; None where there is none.

    Raises:
      UserError: it is damaged.
    """
    match = _IN_N5.fullmatch(location.path.rstrip("/")) if location.on_disk else None
    if not match:
        return None
    container, setup, level = match.groups()
    own = [1, 1, 1]
    if level is not None:
        group = location.parent()[0].parent()[0]  # of the setup
        attributes, listed = (
            place.read_json(_ATTRIBUTES).get(_ATTRIBUTES, {}).get("downsamplingFactors") for place in (location, group)
        )
        levels = dict(enumerate(listed if isinstance(listed, list) else ()))
        own = attributes or levels.get(int(level)) or (own if int(level) == 0 else None)
    return _of_setup(pathlib.Path(container), int(setup), own)


def _of_setup(file: pathlib.Path, setup: int, factors: list | None) -> Sidecar | None:
    """Reads the XML beside a file or container; `factors` (x, y, z) over the finest level, None: not known."""
    path = file.with_suffix(".xml")
    content = content_of(path)
    if content is None:
        return None
    root = parse_xml(content, path)
    named = [e.text or "" for e in root.iter() if local_name(e) in ("hdf5", "n5")]
    if local_name(root) != "SpimData" or (named and not any(re.split(r"[/\\]", n)[-1] == file.name for n in named)):
        return None  # of another program, or of another file
    for view in (e for e in root.iter() if local_name(e) == "ViewSetup"):
        if (view.findtext("id") or "").strip() == str(setup):
            size = _size_nm(view.findtext("voxelSize/unit"), view.findtext("voxelSize/size"), factors, path)
            return Sidecar(str(path), size)
    return None


def _size_nm(unit: str | None, text: str | None, factors: list | None, path: pathlib.Path) -> Triple | None:
    nm, steps = NM.get((unit or "").strip().lower()), numbers(factors)
    if text is None or nm is None or steps is None:  # such as "pixel"
        return None
    try:
        size = triple([float(v) for v in text.replace(",", " ").split()], str(path))
        return tuple(s * f * nm for s, f in zip(size, triple(steps, str(path)), strict=True))[::-1]
    except (ValueError, UserError) as error:
        raise damaged(path, f"voxelSize {text.strip()[:40]!r} is not three positive numbers") from error
