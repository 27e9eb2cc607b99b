"""What viewers list beside the ids of a layer: their names, or the sizes of instances."""

import csv
import itertools
from typing import Any

from his4mae_jax.errors import UserError
from his4mae_jax.view.layers import Layer

ROWS = 100_000  # instances: viewers get slow with longer tables
SIZES = {"voxels": int, "volume_um3": float}  # columns of a table of instances


def columns(layer: Layer) -> dict[str, list[Any]]:
    """Returns `id` and `name` of the labels of a layer; `id`, `voxels` and `volume_um3` of its first instances.

    Empty for a layer without either.

    Raises:
      UserError: a table of instances is damaged.
    """
    if layer.names:
        return {"id": list(layer.names), "name": list(layer.names.values())}
    if layer.table is None:
        return {}
    rows: dict[str, list[Any]] = {"id": [], **{name: [] for name in SIZES}}
    try:
        with open(layer.table, newline="", encoding="utf-8") as file:
            for row in itertools.islice(csv.DictReader(file), ROWS):
                rows["id"].append(int(row["id"]))
                for name, kind in SIZES.items():
                    rows[name].append(kind(row[name]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{layer.table}: no table of instances as this program writes them; name again") from error
    return rows


def segment_properties(layer: Layer) -> dict[str, Any] | None:
    """Returns `columns` as neuroglancer's segment properties (the content of an `info`); None without any."""
    table = columns(layer)
    if not table:
        return None
    labels = table["name"] if "name" in table else [f"{volume:.3g} µm³" for volume in table["volume_um3"]]
    properties: list[dict[str, Any]] = [{"id": "label", "type": "label", "values": labels}]
    for name, kind in (("voxels", "uint32"), ("volume_um3", "float32")):
        if name in table:
            properties.append({"id": name, "type": "number", "data_type": kind, "values": table[name]})
    inline = {"ids": [str(i) for i in table["id"]], "properties": properties}
    return {"@type": "neuroglancer_segment_properties", "inline": inline}
