"""The voxel size and position in the metadata of a TIFF."""

import math
import pathlib
import xml.etree.ElementTree

import tifffile

from his4mae_jax.data.formats.sidecars.parsing import content_of, local_name, parse_xml
from his4mae_jax.data.formats.tiff.headers import tiff_description
from his4mae_jax.data.stores.levels import Level
from his4mae_jax.data.stores.units import NM, triple


def voxel_size(tif: tifffile.TiffFile, file: pathlib.Path) -> Level:
    """Returns the voxel size from a JSON description, OME-XML or ImageJ's tags; without a scale if it is incomplete."""
    spacing = tiff_description(tif).get("spacing_nm")
    if spacing is not None:
        return Level("", triple(spacing, str(file)), ("nm",) * 3)
    size, units, position = [], [None] * 3, None
    if tif.is_ome:
        pixels = _pixels(parse_xml(tif.ome_metadata, file), file)
        if pixels is not None:
            units = [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "ZYX"]  # OME's default
            size = [float(pixels.get(f"PhysicalSize{axis}") or 0) for axis in "ZYX"]
            position = _plane_position(pixels, units)
    elif tif.imagej_metadata:
        about = tif.imagej_metadata  # `unit` is that of all axes that have none of their own
        units = [about.get(key, about.get("unit")) for key in ("zunit", "yunit", "unit")]
        size.append(float(about.get("spacing", 0)))
        for tag in ("YResolution", "XResolution"):
            pixels, length = tif.pages[0].tags[tag].value if tag in tif.pages[0].tags else (0, 0)
            size.append(length / pixels if pixels else 0)
        # Of the point 0, in voxels from the centre of the first.
        origin = [_number(about.get(f"{axis}origin")) for axis in "zyx"]
        position = tuple(-o * s if o else 0.0 for o, s in zip(origin, size, strict=True))
    whole = len(size) == 3 and all(0 < v < math.inf for v in size)
    return Level("", tuple(size), tuple(units), position) if whole else Level("")


def _pixels(root: xml.etree.ElementTree.Element, file: pathlib.Path) -> xml.etree.ElementTree.Element | None:
    """The first `Pixels` of OME-XML, or of the companion file beside a TIFF of a set that names one."""
    pixels = next((e for e in root.iter() if local_name(e) == "Pixels"), None)
    only = next((e for e in root.iter() if local_name(e) == "BinaryOnly"), None)
    name = "" if pixels is not None or only is None else only.get("MetadataFile") or ""
    if not name or name.startswith(".") or any(c in name for c in "/\\:\0"):  # none elsewhere
        return pixels
    companion = file.with_name(name)
    content = None if companion == file or name.lower().endswith((".tif", ".tiff")) else content_of(companion)
    if content is None:
        return None
    root = parse_xml(content, companion)
    images = [e for e in root.iter() if local_name(e) == "Pixels"]
    own = [p for p in images if any(e.get("FileName") == file.name for e in p.iter() if local_name(e) == "UUID")]
    return next(iter(own or images), None)


def _plane_position(pixels: xml.etree.ElementTree.Element, units: list[str]) -> tuple[float, float, float] | None:
    """Returns Position Z, Y, X of the first plane of OME-XML, in `units`; 0 on an axis without a known unit."""
    planes = [e for e in pixels if e.tag.endswith("}Plane")]
    first = next((p for p in planes if all(p.get(f"The{axis}", "0") == "0" for axis in "ZCT")), None)
    if first is None:
        return None
    position = []
    for axis, unit in zip("ZYX", units, strict=True):
        own, to = (NM.get(str(u).strip().lower()) for u in (first.get(f"Position{axis}Unit"), unit))
        position.append(_number(first.get(f"Position{axis}")) * own / to if own and to else 0.0)
    return tuple(position)


def _number(value: object) -> float:
    """Returns a finite number of metadata that are not checked otherwise; 0 for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0
