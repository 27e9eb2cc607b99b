"""Layers as a neuroglancer state. To be imported where the package neuroglancer is known to be there.

Neuroglancer gets every volume from this process, chunk by chunk, and from the level that it asks for. Its voxel i
covers [i, i + 1], so that a grid begins half a voxel before the centre of its first voxel.
"""

import math
from collections.abc import Sequence
from typing import Any

import neuroglancer
import numpy as np
from neuroglancer.chunks import encode_npz

from his4mae_jax.data.stores.units import Triple
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log
from his4mae_jax.view.layers import IMAGE, INSTANCES, LABELS, PROBABILITY, Layer
from his4mae_jax.view.levels import Factor, Lazy, Levels

MESH_VOXELS = 1 << 24  # of the level from which surfaces are made: it is held in memory
BLOCK = 64  # voxels of level 0, or of the coarsest stored level, that one voxel may be made of
GREY = """#uicontrol invlerp normalized
void main() { emitGrayscale(normalized()); }
"""
COLOURED = """#uicontrol invlerp normalized
#uicontrol vec3 colour color
void main() { float p = normalized(); emitRGBA(vec4(colour, p)); }
"""


class Served(neuroglancer.LocalVolume):
    """A volume that neuroglancer fetches in chunks, each read from the level that suits its zoom."""

    def __init__(self, levels: Levels, dimensions: Any, log: Log, name: str) -> None:
        coarsest = max(math.prod(factor) for factor in levels.volumes)
        super().__init__(
            Lazy(levels), dimensions, volume_type="segmentation" if levels.labels else "image",
            max_downsampling=BLOCK * coarsest,
        )  # fmt: skip
        self._levels, self._log, self._name = levels, log, name

    def get_encoded_subvolume(
        self, data_format: str, start: Sequence[int], end: Sequence[int], scale_key: str
    ) -> tuple[bytes, str]:
        """Returns a chunk and its content type.

        Args:
          data_format: "npz", the one of this class.
          start, end: its bounds (z, y, x) in the grid of the scale.
          scale_key: voxels of level 0 (z, y, x) that one of the scale covers, such as "1,2,2".

        Raises:
          ValueError: there is no such chunk, or it cannot be read.
        """
        factor = tuple(int(f) for f in scale_key.split(","))
        if len(factor) != 3 or min(factor) < 1 or math.prod(factor) > self.max_downsampling or data_format != "npz":
            raise ValueError("no such scale")
        shape = self._levels.shape(factor)
        bounds = [(int(a), int(b)) for a, b in zip(start, end, strict=True)]
        if len(bounds) != 3 or not all(0 <= a <= b <= n for (a, b), n in zip(bounds, shape, strict=True)):
            raise ValueError("outside the volume")
        try:
            block = self._levels.read(tuple(slice(a, b) for a, b in bounds), factor)
        except UserError as error:
            self._log(f"view: {self._name}: {error}")
            raise ValueError("cannot be read") from error
        return encode_npz(block), "application/octet-stream"


class Surfaces(neuroglancer.LocalVolume):
    """The surfaces of the labels of one level, which is read as a whole when the first of them is shown."""

    def __init__(self, levels: Levels, factor: Factor, dimensions: Any, log: Log, name: str) -> None:
        super().__init__(Lazy(levels, factor), dimensions, volume_type="segmentation")
        self._log, self._name = log, name

    def get_object_mesh(self, object_id: int) -> bytes:
        """Returns the surface of a label. Raises `ValueError` where the volume cannot be read."""
        try:
            return super().get_object_mesh(object_id)
        except UserError as error:
            self._log(f"view: {self._name}: {error}")
            raise ValueError("cannot be read") from error


def dimensions(size_nm: Triple) -> Any:
    """Neuroglancer's description of the axes z, y, x with voxels of this size."""
    return neuroglancer.CoordinateSpace(names=list("zyx"), units="nm", scales=list(size_nm))


def placed(volume: Any, size_nm: Triple, corner_nm: Triple, shift: float = 0.0) -> Any:
    """A data source whose grid begins at a corner.

    Args:
      volume: what is served.
      size_nm: edge lengths (z, y, x) of its voxels.
      corner_nm: outer corner (z, y, x) of its first voxel.
      shift: voxels by which it is moved on each axis.
    """
    matrix = np.eye(3, 4)
    matrix[:, 3] = [c / s + shift for c, s in zip(corner_nm, size_nm, strict=True)]
    transform = neuroglancer.CoordinateSpaceTransform(output_dimensions=dimensions(size_nm), matrix=matrix)
    return neuroglancer.LayerDataSource(url=volume, transform=transform)


def corner(origin_nm: Triple, size_nm: Triple) -> Triple:
    """The outer corner of the voxel whose centre is at the origin."""
    return tuple(o - s / 2 for o, s in zip(origin_nm, size_nm, strict=True))


def sources(layer: Layer, levels: Levels, log: Log) -> list[Any]:
    """The data sources of a layer: its volume and, of labels, the surfaces of a level that is small enough."""
    size, begin = layer.voxel_size_nm, corner(layer.origin_nm, layer.voxel_size_nm)
    volume = placed(Served(levels, dimensions(size), log, layer.name), size, begin)
    volume.subsources["meshes"] = False
    if not levels.labels:
        return [volume]
    small = [f for f, v in levels.volumes.items() if math.prod(v.shape) <= MESH_VOXELS]
    if not small:
        return [volume]
    factor = min(small, key=math.prod)
    coarse = tuple(s * f for s, f in zip(size, factor, strict=True))
    surfaces = Surfaces(levels, factor, dimensions(coarse), log, layer.name)
    # The package puts the surface of a voxel i around i, and draws the voxel itself around i + 0.5.
    source = placed(surfaces, coarse, begin, shift=0.5)
    source.enable_default_subsources = False
    source.subsources["meshes"] = True
    return [volume, source]


def state_layer(layer: Layer, data_sources: Sequence[Any]) -> Any:
    """A layer of neuroglancer.

    Args:
      layer: what to show.
      data_sources: what it is read from, see `sources`.
    """
    if layer.kind in (LABELS, INSTANCES):
        shown = neuroglancer.SegmentationLayer(
            source=list(data_sources), hide_segment_zero=True, selected_alpha=layer.opacity, tab="segments"
        )
        if layer.colours:
            shown.segment_colors = {i: colour for i, colour in layer.colours.items()}
        return shown
    window = [layer.contrast.low, layer.contrast.high]
    controls: dict[str, Any] = {"normalized": {"range": window[::-1] if layer.contrast.invert else window}}
    if layer.kind == PROBABILITY:
        controls["colour"] = layer.colours[0]
    return neuroglancer.ImageLayer(
        source=list(data_sources), shader=GREY if layer.kind == IMAGE else COLOURED, shader_controls=controls,
        opacity=layer.opacity,
    )  # fmt: skip


def fill(state: Any, layers: Sequence[Layer], shown: Sequence[Any], shape: Sequence[int]) -> None:
    """Sets up a neuroglancer state.

    Args:
      state: a `neuroglancer.ViewerState` to change.
      layers: what is shown, the image first.
      shown: the layers of neuroglancer, see `state_layer`.
      shape: (z, y, x) of the image, in whose middle the view begins.
    """
    image = layers[0]
    scales = list(image.voxel_size_nm[::-1])
    state.dimensions = neuroglancer.CoordinateSpace(names=list("xyz"), units="nm", scales=scales)
    middle = [
        o / s + (n - 1) // 2 for o, s, n in zip(image.origin_nm, image.voxel_size_nm, shape, strict=True)
    ]  # fmt: skip
    state.position = middle[::-1]
    for layer, each in zip(layers, shown, strict=True):
        state.layers.append(name=layer.name, layer=each, visible=layer.visible)
    state.layout = "4panel"
    top = [layer.name for layer in layers if layer.visible and layer.names]
    if top:
        state.selected_layer.layer, state.selected_layer.visible = top[-1], True
