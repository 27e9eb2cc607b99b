"""Which layers show a segmentation: decided here for all viewers, from the records and metadata of what was written.

Names and colours are those of the OME-Zarr `image-label` and `omero` metadata, which have them from `palette` or from
clusters.yaml, so that viewers, figures and files agree. Viewers draw nothing for label 0.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from his4mae_jax.data.ome_zarr import metadata as ome_metadata
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.stores.units import Triple
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.files import slugs
from his4mae_jax.naming import organelles
from his4mae_jax.output import outputs, records
from his4mae_jax.progress import Log

IMAGE, LABELS, INSTANCES, PROBABILITY = "image", "labels", "instances", "probability"
OPACITY = 0.5  # of labels over the image
_OF_LABELS = re.compile(r"instances_([a-z0-9]+)\.ome\.zarr")
_OF_NAMES = re.compile(r"organelles_([a-z0-9]+)_instances\.ome\.zarr")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a viewer.

    Attributes:
      name: shown to the user.
      kind: IMAGE, LABELS (few ids, with names and colours), INSTANCES (many ids without) or PROBABILITY.
      voxel_size_nm: (z, y, x).
      origin_nm: centre (z, y, x) of voxel (0, 0, 0), see `stores.placement`.
      path: folder of the OME-Zarr volume; None: the image, which is read through its Volume.
      channel: of a volume with a leading channel axis; None: it has none.
      names: by id, of LABELS.
      colours: "#RRGGBB" by id, of LABELS; of a PROBABILITY its one colour at 0.
      contrast: grey levels that are black and white, of IMAGE; those that are 0 and 1, of PROBABILITY.
      table: CSV file of the instances, where it is there.
      visible: whether it is shown at first.
      opacity: from 0 to 1.
    """

    name: str
    kind: str
    voxel_size_nm: Triple
    origin_nm: Triple
    path: pathlib.Path | None = None
    channel: int | None = None
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    colours: Mapping[int, str] = dataclasses.field(default_factory=dict)
    contrast: Contrast | None = None
    table: pathlib.Path | None = None
    visible: bool = False
    opacity: float = 1.0


def plan(image: VolumeLike, folder: pathlib.Path, log: Log) -> list[Layer]:
    """Finds what there is to show of a segmentation, from the bottom layer to the top one.

    The image and the labels by name are visible, or the labels by cluster where there are no names.

    Args:
      image: what was segmented, on any grid.
      folder: of the labels, with the records of what was written.
      log: prints one line for what is left out because it is of other labels.

    Raises:
      UserError: nothing has been segmented, or a record or a volume is damaged.
    """
    facts = records.segmented(folder, ())
    written = records.labels_named_by(folder / records.SEGMENTATION, facts)
    names = _current(folder / organelles.RECORD, facts, log)
    named = organelles.ORGANELLES in names
    size, origin = tuple(image.voxel_size_nm), origin_of(image)
    contrast = Contrast.from_json(facts["what"]["contrast"])
    layers = [Layer("image", IMAGE, size, origin, contrast=contrast, visible=True)]
    others = sorted((n for n in written if n.startswith("labels_c")), key=lambda n: int(re.sub(r"\D", "", n)))
    for name in [*others, organelles.LABELS]:
        if (folder / name).is_dir():
            layers.append(_labels(folder / name, visible=name == organelles.LABELS and not named))
    if len(layers) == 1:
        raise UserError(f"{folder}: the label volumes that {records.SEGMENTATION} names are gone; segment again")
    if named:
        layers.append(_labels(folder / organelles.ORGANELLES, visible=True))
    layers += _instances(folder, _current(folder / outputs.MANIFEST, facts, log), _OF_LABELS, organelles.LABELS)
    layers += _instances(folder, names, _OF_NAMES, organelles.ORGANELLES)
    if records.PROBABILITIES in written:
        layers += _probabilities(folder / records.PROBABILITIES)
    return layers


def _current(record: pathlib.Path, facts: Mapping[str, Any], log: Log) -> list[str]:
    """The volumes that a record of further outputs names and that are there; none if they are of other labels."""
    content = records.read(record)
    listed, of = content.get("outputs") or [], content.get("of") or {}
    if not isinstance(listed, list) or not isinstance(of, dict) or not all(isinstance(n, str) for n in listed):
        raise UserError(f"{record}: damaged, or not written by this program; move it elsewhere")
    if listed and of.get("segmentation", facts.get("job")) != facts.get("job"):
        log(f"view: {', '.join(listed)} left out: of an earlier segmentation")
        return []
    # A name with a folder in it is none that this program wrote.
    return [name for name in listed if pathlib.PurePath(name).name == name and (record.parent / name).exists()]


def _labels(path: pathlib.Path, *, visible: bool) -> Layer:
    size, origin, attributes = _metadata(path)
    names, colours = image_label(attributes)
    title = path.name.removesuffix(".ome.zarr").replace("labels_c", "labels, C = ")
    return Layer(title, LABELS, size, origin, path=path, names=names, colours=colours, visible=visible, opacity=OPACITY)


def _instances(folder: pathlib.Path, there: list[str], pattern: re.Pattern, source: str) -> list[Layer]:
    layers = []
    for file in there:
        if match := pattern.fullmatch(file):
            size, origin, _ = _metadata(folder / file)
            known = image_label(_metadata(folder / source)[2])[0]
            full = {slug: known[i] for i, slug in slugs(known).items()}
            table = folder / file.replace(".ome.zarr", ".csv")
            layers.append(
                Layer(
                    f"instances of {full.get(match[1], match[1])}",
                    INSTANCES,
                    size,
                    origin,
                    path=folder / file,
                    table=table if table.exists() else None,
                    opacity=OPACITY,
                )  # fmt: skip
            )
    return layers


def _probabilities(path: pathlib.Path) -> list[Layer]:
    size, origin, attributes = _metadata(path)
    layers = []
    for i, channel in enumerate(attributes["omero"]["channels"]):
        window = channel["window"]
        contrast = Contrast(float(window["start"]), float(window["end"]))
        layers.append(
            Layer(
                f"probability of {channel['label']}",
                PROBABILITY,
                size,
                origin,
                path=path,
                channel=i,
                colours={0: f"#{channel['color']}"},
                contrast=contrast,
                opacity=OPACITY,
            )  # fmt: skip
        )
    return layers


def _metadata(path: pathlib.Path) -> tuple[Triple, Triple, dict[str, Any]]:
    """Voxel size and origin of level 0, and the attributes, of a volume that this package wrote."""
    _, attributes = ome_zarr.read_group(path)
    first = attributes["multiscales"][0]["datasets"][0]
    return tuple(ome_metadata.scale_of(first)), ome_metadata.origin_of(first), attributes


def image_label(attributes: Mapping[str, Any]) -> tuple[dict[int, str], dict[int, str]]:
    """Names and colours ("#RRGGBB") by id, of a label volume's metadata; 0 is no label and left out.

    Args:
      attributes: as `ome_zarr.read_group` returns them.
    """
    label = attributes.get("image-label", {})
    names = {p["label-value"]: p["name"] for p in label.get("properties", ())}
    colours = {c["label-value"]: "#" + bytes(c["rgba"][:3]).hex().upper() for c in label.get("colors", ())}
    return {i: n for i, n in names.items() if i}, {i: c for i, c in colours.items() if i}


def described(layers: list[Layer]) -> str:
    """One line for each layer, with the names of its ids."""
    lines = []
    for layer in layers:
        named = ": " + ", ".join(f"{i} {name}" for i, name in layer.names.items()) if layer.names else ""
        lines.append(f"  {layer.name}{named}" + ("" if layer.visible else " (hidden at first)"))
    return "\n".join(lines)
