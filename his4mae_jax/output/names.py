"""Names of label ids as parts of file names."""

import re
import unicodedata


def slug(name: str) -> str:
    """The letters (a to z) and digits of a name, in lower case; empty if it has none.

    No underscore: in CellSketch's `<prefix>_<name>_mask.tif` it separates the parts.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "", plain.lower())


def slugs(names: dict[int, str]) -> dict[int, str]:
    """A part of a file name for each label id, no two alike.

    Of names that would be, all but the first get their id; so does one without any plain letter.
    """
    found: dict[int, str] = {}
    for label, name in names.items():
        part = slug(str(name)) or f"class{label}"
        while part in found.values():
            part += f"id{label}"
        found[label] = part
    return found
