"""Compression of zarr 2 and N5 that TensorStore lacks, by numcodecs (extra: numcodecs): LZ4, LZMA, filters, ..."""

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from his4mae_jax.data.stores.chunks.decoded import Chunks
from his4mae_jax.errors import UserError

_LZ4_BLOCK = struct.Struct("<8sBiiI")  # magic, token, compressed and decompressed length, checksum
_STORED, _PACKED = 0x10, 0x20  # upper half of the token


def zarr2_chunks(metadata: dict[str, Any], name: str) -> Chunks:
    """How a zarr 2 array is stored, from its .zarray.

    Args:
      metadata: content of .zarray.
      name: of the array, for messages.

    Raises:
      UserError: the metadata are damaged, or its values are no numbers; numcodecs is not installed, or has no such
        codec.
    """
    try:
        shape, chunk = tuple(metadata["shape"]), tuple(metadata["chunks"])
        dtype, order = np.dtype(metadata["dtype"]), metadata.get("order", "C")
        fill = float(metadata.get("fill_value") or 0) if dtype.kind == "f" else int(metadata.get("fill_value") or 0)
        damaged = dtype.kind not in "iufb" or order not in ("C", "F") or len(shape) != len(chunk) or min(chunk) < 1
    except (KeyError, TypeError, ValueError):
        damaged = True
    if damaged:
        raise _damaged(name, "zarr 2")
    configs = [*(metadata.get("filters") or []), *([metadata["compressor"]] if metadata.get("compressor") else [])]
    codecs = [_codec(config, name) for config in configs]

    def decode(stored: bytes) -> np.ndarray:
        for codec in reversed(codecs):
            stored = codec.decode(stored)
        return np.frombuffer(np.ascontiguousarray(stored).tobytes(), dtype).reshape(chunk, order=order)

    return Chunks(shape, chunk, dtype.newbyteorder("="), fill, metadata.get("dimension_separator", "."), decode)


def n5_blocks(metadata: dict[str, Any], name: str) -> Chunks:
    """How an N5 data set with LZ4 is stored, from its attributes.json; arguments and errors as above."""
    try:
        shape, chunk = tuple(metadata["dimensions"]), tuple(metadata["blockSize"])
        dtype = np.dtype(metadata["dataType"]).newbyteorder(">")
        kind = metadata["compression"]["type"]
        damaged = dtype.kind not in "iuf" or len(shape) != len(chunk) or min(chunk) < 1
    except (KeyError, TypeError, ValueError):
        damaged = True
    if damaged:
        raise _damaged(name, "N5")
    if kind != "lz4":
        raise UserError(f"{name}: its compression {kind!r} is not known; write the volume again with another one")
    unpack = _lz4_stream(name)

    def decode(stored: bytes) -> np.ndarray:
        mode, rank = struct.unpack_from(">HH", stored)
        if mode not in (0, 1) or rank != len(shape):
            raise ValueError(f"mode {mode} and {rank} axes in the header of a block")
        size = struct.unpack_from(f">{rank}I", stored, 4)
        values = np.frombuffer(unpack(stored[4 + 4 * rank + 4 * mode :]), dtype)
        return values[: math.prod(size)].reshape(size, order="F")

    return Chunks(shape, chunk, dtype.newbyteorder("="), 0, "/", decode)


def _damaged(name: str, kind: str) -> UserError:
    return UserError(f"{name}: damaged or unsupported {kind} metadata; copy or write the volume again")


def _codec(config: Any, name: str) -> Any:
    codec = config.get("id") if isinstance(config, dict) else config
    numcodecs = _numcodecs(name, codec)
    try:
        return numcodecs.get_codec(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name}: its compression {codec!r} is not known to numcodecs either; convert it to OME-Zarr"
        ) from error


def _numcodecs(name: str, codec: str) -> Any:
    try:
        import numcodecs
    except ImportError as error:
        raise UserError(
            f"{name}: its compression {codec!r} needs the package numcodecs; pip install 'his4mae_jax[numcodecs]'"
        ) from error
    return numcodecs


def _lz4_stream(name: str) -> Callable[[bytes], bytes]:
    """Decoder of lz4-java's streams of blocks, which N5 uses."""
    lz4 = _numcodecs(name, "lz4").LZ4()

    def unpack(stream: bytes) -> bytes:
        parts, at = [], 0
        while at < len(stream):
            magic, token, packed, size, _ = _LZ4_BLOCK.unpack_from(stream, at)
            at += _LZ4_BLOCK.size
            if magic != b"LZ4Block" or token & 0xF0 not in (_STORED, _PACKED) or packed < 0 or size < 0:
                raise ValueError("no LZ4 block where one should begin")
            block, at = stream[at : at + packed], at + packed
            if size == 0:  # the end
                break
            part = block if token & 0xF0 == _STORED else lz4.decode(struct.pack("<i", size) + block)
            if len(part) != size:
                raise ValueError(f"an LZ4 block of {len(part)} bytes in place of {size}")
            parts.append(bytes(part))
        return b"".join(parts)

    return unpack
