"""Open an array in chunks, whatever its chunks are called and however they are compressed."""

import dataclasses
import json
from typing import Any

import tensorstore as ts

from his4mae_jax.data.stores.chunks import names
from his4mae_jax.data.stores.chunks.codecs import n5_blocks, zarr2_chunks
from his4mae_jax.data.stores.chunks.decoded import open_decoded
from his4mae_jax.data.stores.chunks.gzipped import open_gzipped
from his4mae_jax.data.stores.location import Location, UnsupportedMetadata, open_array

# What TensorStore reads, and the members that it knows: of others it refuses the array, though none of them is needed
# to decode a chunk (a zstd frame says itself whether it has a checksum, and then it is verified).
_ZARR = {
    "blosc": ("cname", "clevel", "shuffle", "blocksize"), "zlib": ("level",), "gzip": ("level",), "bz2": ("level",),
    "zstd": ("level",),
}  # fmt: skip
_N5 = {
    "raw": (), "gzip": ("level", "useZlib"), "bzip2": ("blockSize",), "xz": ("preset",), "zstd": ("level",),
    "blosc": ("cname", "clevel", "shuffle", "blocksize"),
}  # fmt: skip


def open_chunks(
    driver: str, location: Location, missing_chunks: str, cache_bytes: int, **more: Any
) -> ts.TensorStore:  # fmt: skip
    """Opens an array as `location.open_array` does, whatever its chunks are called and however they are compressed.

    Zarr 2 arrays with nested chunks and no `dimension_separator` are read, and so are precomputed chunks that were
    compressed as files of their own (NAME.gz, as CloudVolume writes them to disk). What TensorStore cannot decode in
    zarr 2 and N5 is left to numcodecs (extra: numcodecs). Arguments are those of `open_array`.

    Raises:
      UserError: also where most files in the folder are no chunks of this array, and where numcodecs is not installed.
    """
    try:
        array = open_array(driver, location, missing_chunks, cache_bytes, **more)
    except UnsupportedMetadata:
        file, metadata = _metadata(driver, location)
        own = _readable(driver, metadata) if metadata else None
        if own is None:
            raise
        if own == metadata:
            return _decoded(driver, metadata, location, missing_chunks, cache_bytes)
        more["overlay"] = {file: json.dumps(own).encode()}
        array = open_array(driver, location, missing_chunks, cache_bytes, **more)
    if not location.on_disk:
        return array
    found = names.look(driver, array.spec().to_json(), array.rank, location)
    if driver == "neuroglancer_precomputed" and found.gzipped:
        return open_gzipped(array, location, missing_chunks, cache_bytes)
    if driver == "zarr" and found.nested and "dimension_separator" not in location.read_json(".zarray")[".zarray"]:
        return open_array(driver, location, missing_chunks, cache_bytes, metadata={"dimension_separator": "/"}, **more)
    found.check()
    return array


def _metadata(driver: str, location: Location) -> tuple[str, dict[str, Any]]:
    file = {"zarr": ".zarray", "n5": "attributes.json"}.get(driver, "")
    return file, location.read_json(file).get(file, {}) if file else {}


def _readable(driver: str, metadata: dict[str, Any]) -> dict[str, Any] | None:
    """What TensorStore reads of metadata that it refuses.

    Returns:
      Metadata without members that only describe how chunks were compressed; the same object if chunks have to be
      decoded here; None if compression is not why it refuses them.
    """
    member, key, known = ("compressor", "id", _ZARR) if driver == "zarr" else ("compression", "type", _N5)
    codec = metadata.get(member) or {}
    if metadata.get("filters") or not isinstance(codec, dict) or (codec and codec.get(key) not in known):
        return metadata
    own = {name: value for name, value in codec.items() if name == key or name in known[codec[key]]}
    return None if own == codec else metadata | {member: own}


def _decoded(
    driver: str, metadata: dict[str, Any], location: Location, missing_chunks: str, cache_bytes: int
) -> ts.TensorStore:
    chunks = (zarr2_chunks if driver == "zarr" else n5_blocks)(metadata, location.name)
    if location.on_disk:
        found = names.look(driver, {"metadata": metadata}, len(chunks.shape), location)
        if driver == "zarr" and found.nested and "dimension_separator" not in metadata:
            chunks = dataclasses.replace(chunks, separator="/")
        else:
            found.check()
    return open_decoded(chunks, location, missing_chunks, cache_bytes)
