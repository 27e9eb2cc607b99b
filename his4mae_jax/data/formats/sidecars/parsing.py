"""Parse JSON and XML that somebody left beside a volume."""

import pathlib
import re
import xml.etree.ElementTree

from his4mae_jax.data.stores.units import brief
from his4mae_jax.errors import UserError

MOST_BYTES = 64 << 20  # of a sidecar
_TYPE = re.compile(rb"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)


def damaged(name: object, why: str) -> UserError:
    """The error of a sidecar that is not understood."""
    return UserError(f"{name}: damaged, or not understood ({why}); correct it, or move it away")


def content_of(file: pathlib.Path) -> bytes | None:
    """Returns the content of a sidecar; None if there is no such file.

    Raises:
      UserError: it cannot be read, or is too large to be one.
    """
    try:
        if not file.is_file():
            return None
        if file.stat().st_size > MOST_BYTES:
            raise damaged(file, f"larger than {MOST_BYTES >> 20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}); check its access rights, or move it away"
        ) from error


def parse_xml(content: bytes | str, name: object) -> xml.etree.ElementTree.Element:
    """Parses XML without a document type: entities are not needed here, and can be made to fill the memory.

    Raises:
      UserError: it is damaged, or has a document type.
    """
    content = content.encode() if isinstance(content, str) else content
    if _TYPE.search(content.replace(b"\0", b"")):  # also in UTF-16
        raise damaged(name, "XML with a document type")
    try:
        return xml.etree.ElementTree.fromstring(content)
    except (xml.etree.ElementTree.ParseError, ValueError, LookupError) as error:
        raise damaged(name, f"no XML, {brief(error)}") from error


def local_name(element: xml.etree.ElementTree.Element) -> str:
    """Name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]
