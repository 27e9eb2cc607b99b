"""Layers as napari's layer data: `(data, keywords, kind of layer)`. Only `show` needs napari.

napari draws voxel i around i times the scale plus the translation, which are the voxel size and the origin here.
"""

import importlib
import math
from collections.abc import Sequence
from typing import Any

from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.view.layers import IMAGE, INSTANCES, LABELS, Layer
from his4mae_jax.view.levels import Lazy, Levels, open_levels
from his4mae_jax.view.table import columns

LayerData = tuple[Any, dict[str, Any], str]


def layer_data(layer: Layer, levels: Levels) -> LayerData:
    """Returns a layer as napari takes it: lazy arrays (z, y, x), one for each level, and what to show them with.

    Args:
      layer: what to show.
      levels: its volume, see `open_levels`.

    Raises:
      UserError: a table of instances is damaged.
    """
    factors = sorted(levels.volumes, key=math.prod)
    arrays = [Lazy(levels, factor) for factor in factors]
    keywords: dict[str, Any] = {
        "name": layer.name, "scale": layer.voxel_size_nm, "translate": layer.origin_nm, "units": ("nm",) * 3,
        "axis_labels": tuple("zyx"), "visible": layer.visible, "opacity": layer.opacity, "multiscale": len(arrays) > 1,
    }  # fmt: skip
    if layer.kind in (LABELS, INSTANCES):
        table = columns(layer)
        if table:
            keywords["features"] = {"index": table["id"], **{k: v for k, v in table.items() if k != "id"}}
        if layer.colours:
            clear = (0.0, 0.0, 0.0, 0.0)
            rgba = {i: (*(b / 255 for b in bytes.fromhex(c[1:])), 1.0) for i, c in layer.colours.items()}
            keywords["colormap"] = {None: clear, 0: clear, **rgba}
    else:
        keywords["contrast_limits"] = (layer.contrast.low, layer.contrast.high)
        if layer.kind == IMAGE:
            keywords["colormap"] = "gray_r" if layer.contrast.invert else "gray"
        else:
            keywords |= {"colormap": layer.colours[0], "blending": "additive"}
    kind = "labels" if layer.kind in (LABELS, INSTANCES) else "image"
    return arrays if len(arrays) > 1 else arrays[0], keywords, kind


def show(layers: Sequence[Layer], image: VolumeLike, title: str) -> None:
    """Opens the layers in a window of napari and returns when it is closed.

    Args:
      layers: as `layers.plan` finds them.
      image: the volume of the layer IMAGE.
      title: of the window.

    Raises:
      UserError: napari is not installed, or a volume cannot be opened.
    """
    napari = module()
    data = [layer_data(layer, open_levels(layer, image)) for layer in layers]
    viewer = napari.Viewer(title=title)
    for arrays, keywords, kind in data:
        viewer.add_layer(napari.layers.Layer.create(arrays, keywords, kind))
    overlays = getattr(getattr(viewer, "canvas", None), "overlays", viewer)  # napari 0.9 moved them
    overlays.scale_bar.visible = True
    napari.run()


def module() -> Any:
    """The package napari.

    Raises:
      UserError: it, or the Qt that it draws with, is not installed.
    """
    try:
        importlib.import_module("qtpy.QtWidgets")
        return importlib.import_module("napari")
    except Exception as error:  # qtpy has errors of its own for a missing Qt
        raise UserError(f"napari is not there ({error}): pip install his4mae_jax[napari]") from error
