"""Training from Python."""

import os
from collections.abc import Sequence

import ml_collections

from his4mae_jax.bucket.path import PathLike, place
from his4mae_jax.config import SUPERVISED, get_small, validate
from his4mae_jax.data import datasets
from his4mae_jax.data.stores.units import triple
from his4mae_jax.errors import UserError
from his4mae_jax.library import config_files
from his4mae_jax.library.encoder import Encoder
from his4mae_jax.library.failures import one_family
from his4mae_jax.library.volumes import Input, VoxelSize, array_name, as_list, is_path, to_image
from his4mae_jax.progress import Log, say
from his4mae_jax.training.run import loop
from his4mae_jax.training.run.checkpoints import check_workdir


@one_family
def train(
    volumes: Input | Sequence[Input],
    config: str | os.PathLike | ml_collections.ConfigDict = "small",
    *,
    workdir: PathLike,
    voxel_size_nm: VoxelSize | None = None,
    log: Log | None = None,
) -> Encoder:
    """Trains an encoder without labels, or goes on with the training that the workdir holds.

    It writes the checkpoints, metrics and `config.json` that `his4mae train` writes, so that a run can be begun by one
    and continued by the other. A training that was interrupted goes on from its last checkpoint when the same call is
    made again, and one that is done is only opened.

    Args:
      volumes: one or several of: paths, URLs or names of known data sets, volumes of `his4mae_jax.open`, and NumPy
        arrays (z, y, x) of dtype uint8, uint16, int16 or float32.
      config: "small", a preset that trains in minutes on a CPU; a shipped config by name, or a file by its path; or a
        ConfigDict, as `his4mae_jax.config.get_small()` and `get_default()` return. Which volumes it names does not
        matter.
      workdir: folder of the run; it is created if need be.
      voxel_size_nm: edge length of a voxel in nm, one number or (z, y, x), of all arrays and paths. Paths may leave it
        to their metadata.
      log: called with each line of progress; None: lines, or a bar on a terminal, go to standard error.

    Returns:
      The student encoder of the last checkpoint.

    Raises:
      his4mae_jax.Error: a setting or a volume cannot be used, or the workdir holds a training with other settings or
        volumes.
    """
    log = log or say
    volumes = as_list(volumes)
    names = [
        os.fspath(v) if is_path(v) else v.name if hasattr(v, "read") else array_name(v, index)
        for index, v in enumerate(volumes)
    ]
    settings = _settings(config, volumes, names, voxel_size_nm)
    if place(workdir).exists() and not place(workdir).is_dir():
        raise UserError(f"{workdir}: a file is in the way; give the workdir another name")
    check_workdir(workdir, settings)
    opened = all(hasattr(v, "read") for v in volumes)  # a voxel size is then one too many
    images = [
        to_image(v, settings, None if hasattr(v, "read") and not opened else voxel_size_nm, name)[0]
        for v, name in zip(volumes, names, strict=True)
    ]
    datasets.check_training_volumes(images, settings, log)
    loop.train(settings, images, workdir, log)
    return Encoder.load(workdir)


def _settings(config, volumes, names, voxel_size_nm) -> ml_collections.ConfigDict:
    """A copy of the settings, valid, with the names of the volumes in place of those that it names."""
    if isinstance(config, ml_collections.ConfigDict):
        settings = config.copy_and_resolve_references()
    else:
        settings = get_small() if config == "small" else config_files.load(os.fspath(config))
    validate(settings)
    if settings.method in SUPERVISED:
        raise UserError(f"config key method is {settings.method!r}, which needs labels: train it with `his4mae train`")
    with settings.ignore_type():
        if settings.data.source != "files":
            settings.data.source, settings.data.test, settings.data.test_labels = "files", "", ""
        settings.data.train, settings.data.train_labels = tuple(names), ()
        if not settings.data.test and is_path(volumes[0]):
            settings.data.test = names[0]
        if voxel_size_nm is not None:
            settings.data.file_voxel_size_nm = triple(voxel_size_nm, "voxel_size_nm")
        elif len(sizes := {getattr(v, "voxel_size_nm", None) for v in volumes}) == 1 and None not in sizes:
            (settings.data.file_voxel_size_nm,) = sizes  # of open volumes, which may have got it when they were opened
    validate(settings)
    return settings
