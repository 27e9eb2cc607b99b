"""Write a label volume as a neuroglancer precomputed segmentation, with its levels and names."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from his4mae_jax import files
from his4mae_jax.data.ome_zarr import metadata as ome_metadata
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.blocks import boxes, in_order
from his4mae_jax.data.volumes.volume import Box
from his4mae_jax.output import records

CHUNK = (64, 64, 64)
PROPERTIES = "segment_properties"  # folder of the names


def write_precomputed(
    labels_path: str | os.PathLike,
    path: str | os.PathLike,
    *,
    names: dict[int, str] | None = None,
    workers: int = 4,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Copies every level of an OME-Zarr label volume, chunk by chunk.

    Segments are the labels. Neuroglancer takes segment 0 for background and does not show it, as other viewers do.

    Args:
      labels_path: folder of a label volume that this package wrote.
      path: new folder, which takes its name when it is whole.
      names: of the labels; neuroglancer shows them beside each segment.
      workers: number of threads.
      progress: called with the number of voxels newly written.

    Raises:
      UserError: `labels_path` cannot be read, `path` cannot be written, or something is there already.
    """
    version, attributes = ome_zarr.read_group(labels_path)
    with records.new(pathlib.Path(path)) as (part,):
        part.mkdir()
        for dataset in attributes["multiscales"][0]["datasets"]:
            source = ome_zarr.open_array(pathlib.Path(labels_path) / dataset["path"], version)
            _write_scale(part, source, ome_metadata.scale_of(dataset), workers, progress)
        if names is not None:
            (part / PROPERTIES).mkdir()
            files.write_json(part / PROPERTIES / "info", _properties(names))
            info = json.loads((part / "info").read_text("utf-8"))
            files.write_json(part / "info", {**info, "segment_properties": PROPERTIES})


def _write_scale(
    folder: pathlib.Path,
    source: ts.TensorStore,
    size_nm: Sequence[float],
    workers: int,
    progress: Callable[[int], object] | None,
) -> None:
    """Writes one scale of the volume; the precomputed format has x first."""
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "multiscale_metadata": {"type": "segmentation", "data_type": "uint32", "num_channels": 1},
        "scale_metadata": {
            "size": [int(n) for n in source.shape[::-1]],
            "resolution": size_nm[::-1],
            "chunk_size": CHUNK[::-1],
            "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": [8, 8, 8],
        },
    }
    out = ts.open(spec, create=True).result()[ts.d["channel"][0]].transpose([2, 1, 0])

    def copy(box: Box) -> int:
        with ome_zarr.reading(folder):
            ids = source[box].read().result().astype(np.uint32)
        out[box].write(ids).result()
        return ids.size

    # Boxes of whole chunks of both volumes: no chunk is written by two threads, and few are read twice.
    block = [n * max(1, m // n) for n, m in zip(CHUNK, source.chunk_layout.read_chunk.shape, strict=True)]
    for size in in_order(copy, boxes(source.shape, block), workers):
        if progress is not None:
            progress(size)


def _properties(names: dict[int, str]) -> dict[str, Any]:
    """Neuroglancer's segment properties: a label for each id."""
    labels = {"id": "label", "type": "label", "values": list(names.values())}
    return {
        "@type": "neuroglancer_segment_properties",
        "inline": {"ids": [str(i) for i in names], "properties": [labels]},
    }
