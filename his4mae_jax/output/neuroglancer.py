"""Write a label volume as a neuroglancer precomputed segmentation, with its levels and names."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from his4mae_jax import files
from his4mae_jax.bucket.path import place
from his4mae_jax.data.ome_zarr import metadata as ome_metadata
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.stores import placement
from his4mae_jax.data.stores.units import Triple
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

    `voxel_offset` places each scale, to half a voxel (see `stores.placement`). Where that is not exact and the volume
    has a position of its own, `origin_nm` of the info holds it: x, y, z of the centre of the first voxel, in nm.

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
    with records.new(place(path)) as (part,):
        part.mkdir()
        datasets = attributes["multiscales"][0]["datasets"]
        for dataset in datasets:
            source = ome_zarr.open_array(place(labels_path) / dataset["path"], version)
            size, origin = ome_metadata.scale_of(dataset), ome_metadata.origin_of(dataset)
            _write_scale(part, source, size, origin, workers, progress)
        more = {}
        if names is not None:
            (part / PROPERTIES).mkdir()
            files.write_json(part / PROPERTIES / "info", _properties(names))
            more["segment_properties"] = PROPERTIES
        size, origin = ome_metadata.scale_of(datasets[0]), ome_metadata.origin_of(datasets[0])
        written = placement.from_voxel_offset(placement.voxel_offset(origin, size), size)
        if any(origin) and not np.allclose(written, origin, rtol=0, atol=1e-3):
            more["origin_nm"] = list(origin[::-1])
        if more:
            info = json.loads((part / "info").read_text("utf-8"))
            files.write_json(part / "info", {**info, **more})


def _write_scale(
    folder: pathlib.Path,
    source: ts.TensorStore,
    size_nm: Sequence[float],
    origin_nm: Triple,
    workers: int,
    progress: Callable[[int], object] | None,
) -> None:
    """Writes one scale of the volume; the precomputed format has x first."""
    offset = placement.voxel_offset(origin_nm, size_nm)
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "multiscale_metadata": {"type": "segmentation", "data_type": "uint32", "num_channels": 1},
        "scale_metadata": {
            "size": [int(n) for n in source.shape[::-1]],
            "resolution": size_nm[::-1],
            **({"voxel_offset": offset[::-1]} if any(offset) else {}),
            "chunk_size": CHUNK[::-1],
            "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": [8, 8, 8],
        },
    }
    out = ts.open(spec, create=True).result()[ts.d["channel"][0]].transpose([2, 1, 0])[ts.d[:].translate_to[0]]

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
