"""Precomputed volumes whose chunks are gzip files, NAME.gz: what CloudVolume writes to a disk, where no web server says
that a file is compressed. TensorStore reads them only from such servers.
"""

import gzip
import itertools
import json
import os
import zlib

import numpy as np
import tensorstore as ts

from his4mae_jax.data.stores.location import Location, context
from his4mae_jax.data.stores.units import brief
from his4mae_jax.data.stores.virtual_chunked import virtual_array
from his4mae_jax.errors import UserError


def open_gzipped(array: ts.TensorStore, location: Location, missing_chunks: str, cache_bytes: int) -> ts.TensorStore:
    """Returns an array that unpacks a chunk when it is read; chunks that are not compressed are read as well.

    Args:
      array: x, y, z, channel, as TensorStore opens it.
      location: of the folder with `info`, on a local disk.
      missing_chunks: "fill" or "error", see `levels.OpenOptions`.
      cache_bytes: limit of decoded chunks kept in memory.

    Returns:
      The array with indices that start at 0.
    """
    spec = array.spec().to_json()
    scale = spec["scale_metadata"]
    offset, folder = array.domain.origin, os.path.join(location.path, scale["key"])
    own = context(0)
    memory = ts.KvStore.open({"driver": "memory"}, context=own).result()
    numbers = itertools.count()

    def read(box: tuple[slice, ...]) -> np.ndarray:
        lows = [o + s.start for o, s in zip(offset, box, strict=True)]
        bounds = [(low, low + s.stop - s.start) for low, s in zip(lows, box, strict=True)]
        name = "_".join(f"{low}-{high}" for low, high in bounds[:3])
        content = _content(os.path.join(folder, name), location.name)
        if content is None:
            if missing_chunks == "error":
                raise UserError(
                    f"{location.name}: a chunk is missing ({scale['key']}/{name}.gz); copy the volume again, or set "
                    "data.missing_chunks to 'fill' if its writer left out empty chunks"
                )
            return np.zeros([high - low for low, high in bounds], array.dtype.numpy_dtype)
        # TensorStore decodes it, whatever the encoding: from memory, as the only chunk of a volume.
        path = f"{next(numbers)}/"
        alone = scale | {"voxel_offset": lows[:3], "size": [high - low for low, high in bounds[:3]], "key": "chunk"}
        chunk_size = alone.pop("chunk_size")
        alone |= {"chunk_sizes": [chunk_size]}
        info = {
            "@type": "neuroglancer_multiscale_volume", "data_type": spec["dtype"], "scales": [alone],
            **spec["multiscale_metadata"],
        }  # fmt: skip
        try:
            memory.write(f"{path}info", json.dumps(info).encode()).result()
            memory.write(f"{path}chunk/{name}", content).result()
            store = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "memory", "path": path}}
            return ts.open(store, context=own, open=True, read=True).result().read().result()
        except (ValueError, OSError) as error:
            raise _damaged(location.name, f"{scale['key']}/{name}", error) from error
        finally:
            memory.delete_range(ts.KvStore.KeyRange(path, f"{path}\uffff")).result()

    chunks = [*scale["chunk_size"], array.shape[-1]]
    return virtual_array(read, array.shape, array.dtype.numpy_dtype, chunks, cache_bytes, reads_tensorstore=True)


def _content(path: str, name: str) -> bytes | None:
    """The bytes of a chunk, unpacked; None if it is not stored."""
    try:
        with open(f"{path}.gz", "rb") as file:
            return gzip.decompress(file.read())
    except FileNotFoundError:
        pass
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(name, f"{os.path.basename(path)}.gz", error) from error
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _damaged(name: str, chunk: str, error: Exception) -> UserError:
    return UserError(f"{name}: cannot read the data ({chunk}: {brief(error)}); copy the volume again from its source")
