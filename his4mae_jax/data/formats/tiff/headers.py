"""Check the headers of a TIFF when it is opened, so that a damaged one is refused before it is used.

tifffile cannot do this alone: it logs a header that leads outside the file and goes on with the pages before it, drops
a description that lies outside, and follows a circular chain of more than 100 pages without end. Walking the chain
here is also 20 times faster than making tifffile's pages.
"""

import contextlib
import errno
import json
import pathlib
import struct
from collections.abc import Iterator
from typing import Any, NoReturn

import tifffile

from his4mae_jax.data.stores.units import brief
from his4mae_jax.errors import UserError

# BitsPerSample, ImageDescription, and the offsets and byte counts of strips and tiles.
_CHECKED_TAGS = {258, 270, 273, 279, 324, 325}
# Bytes of one value, by TIFF type.
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


@contextlib.contextmanager
def tiff_errors(file: pathlib.Path) -> Iterator[None]:
    """Raises whatever fails inside as a UserError that names the file."""
    try:
        yield
    except (UserError, MemoryError, PermissionError):
        raise
    except Exception as error:  # every codec raises exceptions of its own
        if "imagecodecs" in str(error):
            raise UserError(
                f"{file}: its compression needs the package imagecodecs; pip install imagecodecs"
            ) from error
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise UserError(
                f"{file}: this process may have no more open files, and each volume in a TIFF file is one; raise "
                "`ulimit -n`, or convert volumes to OME-Zarr"
            ) from error
        raise UserError(f"{file}: unreadable TIFF ({brief(error)}); copy or export it again") from error


@contextlib.contextmanager
def checked_tiff(file: pathlib.Path) -> Iterator[tifffile.TiffFile]:
    """Opens a TIFF after `check_tiff_headers`; see `tiff_errors`."""
    with tiff_errors(file):
        check_tiff_headers(file)
        with tifffile.TiffFile(file) as tif:
            yield tif


def truncated(file: pathlib.Path) -> NoReturn:
    """Raises UserError: the end of the file is missing."""
    raise UserError(f"{file}: truncated TIFF, the end of the file is missing; copy it again")


def check_tiff_headers(file: pathlib.Path) -> None:
    """Walks the chain of page headers.

    Raises:
      UserError: the file is no TIFF, or a header leads outside the file or back to an earlier page.
    """
    end = file.stat().st_size
    if end == 0:
        raise UserError(f"{file}: the file is empty; copy it again")
    with open(file, "rb") as stream:
        header = stream.read(16)
        order = {b"II": "<", b"MM": ">"}.get(header[:2])
        if order is None or len(header) < 8 or header[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
            raise UserError(f"{file}: not a TIFF or zarr volume; convert it to OME-Zarr or TIFF")
        big = 43 in header[2:4]
        if big and len(header) < 16:
            truncated(file)
        count_code, offset_code, entry = ("Q", "Q", "HHQ8s") if big else ("H", "I", "HHI4s")
        inline = 8 if big else 4
        count_size, entry_size = struct.calcsize(count_code), struct.calcsize("<" + entry)
        (offset,) = struct.unpack_from(order + offset_code, header, 8 if big else 4)
        seen = set()
        while offset:
            if offset in seen:
                raise UserError(f"{file}: damaged TIFF, its chain of pages is circular; copy or export it again")
            seen.add(offset)
            stream.seek(offset)
            start = stream.read(count_size)
            if len(start) < count_size:
                truncated(file)
            (count,) = struct.unpack(order + count_code, start)
            size = count * entry_size
            if offset + count_size + size + inline > end:
                truncated(file)
            body = stream.read(size + inline)
            for tag, kind, n, value in struct.iter_unpack(order + entry, body[:size]):
                n_bytes = n * _TYPE_BYTES.get(kind, 1)
                if tag in _CHECKED_TAGS and n_bytes > inline:
                    if struct.unpack(order + offset_code, value)[0] + n_bytes > end:
                        truncated(file)
            (offset,) = struct.unpack(order + offset_code, body[size:])


def tiff_description(tif: tifffile.TiffFile) -> dict[str, Any]:
    """Returns the first page's description if it is a JSON object, else {}."""
    try:
        value = json.loads(tif.pages[0].description)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
