"""Parse a path or URL as a place in one of TensorStore's key-value stores: a folder, or a folder in a zip file."""

import dataclasses
import os
import pathlib
import re
import urllib.parse

from his4mae_jax.bucket.access import s3_spec
from his4mae_jax.data.stores.location import Location
from his4mae_jax.errors import UserError

_ARCHIVE = re.compile(r"[^/]\.(?:zip|ozx)(?=/)", re.IGNORECASE)
_PARTLY = re.compile(r"(?:n5|zarr2?|zarr3|precomputed)://(?=[a-z0-9]+://)")


def locate(place: str) -> Location:
    """Parses a path or URL; nothing is read. Inside a .zip or .ozx file, the path goes on as in a folder.

    Args:
      place: a path, or a URL of file://, http(s)://, s3:// or gs://.

    Raises:
      UserError: an unknown scheme, or invalid environment variables.
    """
    place = _PARTLY.sub("", place)
    url = urllib.parse.urlsplit(place)
    scheme = url.scheme.lower() if "://" in place else ""
    if scheme in ("", "file"):
        path = urllib.parse.unquote(url.path) if scheme else place
        own = Location(path, {"driver": "file"}, f"{pathlib.Path(path).absolute()}/".replace("//", "/"), False)
        return _in_archive(own)
    folder = urllib.parse.unquote(url.path).strip("/")
    folder = f"{folder}/" if folder else ""
    if not url.netloc:
        raise UserError(f"{place}: names no server or bucket; give {scheme}://NAME/path")
    if scheme in ("http", "https"):
        base = f"{scheme}://{url.netloc}" + (f"?{url.query}" if url.query else "")
        return _in_archive(Location(place, {"driver": "http", "base_url": base}, f"/{folder}", True))
    if scheme in ("gs", "gcs"):
        return _in_archive(Location(place, {"driver": "gcs", "bucket": url.netloc}, folder, True))
    if scheme == "s3":
        store = s3_spec(url.netloc, dict(urllib.parse.parse_qsl(url.query)), place)
        return _in_archive(Location(place, store, folder, True))
    raise UserError(f"{place}: unknown scheme {scheme}://; give a path, or a URL of http(s)://, s3:// or gs://")


def _in_archive(location: Location) -> Location:
    """The same place inside a zip file, if the path leads into one; on a disk, a folder of such a name is a folder."""
    for match in _ARCHIVE.finditer(location.path):
        file = location.path[: match.end()]
        if location.remote or os.path.isfile(file):
            store = {"driver": "zip", "base": {**location.store, "path": file}}
            return dataclasses.replace(location, store=store, path=location.path[match.end() + 1 :])
    return location
