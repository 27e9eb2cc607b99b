"""Names of label ids as parts of file names."""

from his4mae_jax.files import slug


def slugs(names: dict[int, str]) -> dict[int, str]:
    """A part of a file name for each label id, no two alike.

    Of names that would be, all but the first get their id; so does one without any plain letter.
    """
    found: dict[int, str] = {}
    for label, name in names.items():
        part = slug(str(name), separator="") or f"class{label}"
        while part in found.values():
            part += f"id{label}"
        found[label] = part
    return found
