"""The volumes that a mode works on, and their folders in the workdir."""

import ml_collections

from his4mae_jax.bucket.path import PathLike, Place
from his4mae_jax.errors import UserError
from his4mae_jax.workdir import only_volume, volume_folder

# `data.entries` is imported within the functions: with TensorStore and SciPy it takes most of a second, for which a
# mistyped flag need not wait.


def to_segment(config: ml_collections.ConfigDict, workdir: PathLike) -> list[tuple[ml_collections.ConfigDict, Place]]:
    """The volumes to segment: for each a config that names it alone, and the folder of its labels.

    Where the config names none, and the workdir has the labels of one, it is that.
    """
    from his4mae_jax.data import entries

    several = entries.listed(config.segment.volume)
    if not several and config.data.source != "phantom" and not config.data.test and (known := only_volume(workdir)):
        config = _naming(config, known["volume"])
        config.segment.file_voxel_size_nm = tuple(known.get("file_voxel_size_nm", ()))
    configs_of = [_naming(config, spec) for spec in several] if len(several) > 1 else [config]
    return [(own, volume_folder(workdir, entries.target(own, workdir).image)) for own in configs_of]


def _naming(config, spec):
    own = config.copy_and_resolve_references()
    own.segment.volume = (spec,)
    return own


def one(config: ml_collections.ConfigDict, workdir: PathLike) -> tuple[ml_collections.ConfigDict, Place]:
    """As `to_segment`, for a mode that takes one.

    Raises:
      UserError: the config names several.
    """
    found = to_segment(config, workdir)
    if len(found) > 1:
        raise UserError(f"config key segment.volume names {len(found)} volumes, and this mode takes one; name one")
    return found[0]


def created(config: ml_collections.ConfigDict, workdir: PathLike) -> Place:
    """The folder of the volume that a config names, made where it is not there."""
    from his4mae_jax.data import entries

    entry = entries.target(config, workdir)
    facts = {"file_voxel_size_nm": entry.voxel_size_nm} if entry.voxel_size_nm else {}
    return volume_folder(workdir, entry.image, create=True, **facts)
