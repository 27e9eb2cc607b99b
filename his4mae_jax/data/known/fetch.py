"""Download what the names in a config stand for, and convert it to a form that is read in parts (`--mode=fetch`)."""

import pathlib

from ml_collections import ConfigDict

from his4mae_jax.data.known import names
from his4mae_jax.data.known.source import Name
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log

_IMAGE_KEYS = ("data.train", "data.test", "segment.volume")
_LABEL_KEYS = ("data.train_labels", "data.test_labels")


def fetch(config: ConfigDict, log: Log) -> None:
    """Downloads the known data sets that the config names to `data.root`; what is there already is left alone.

    BetaSeg's cells are taken out of its zip (which is kept) and written as OME-Zarr, EPFL's TIFFs stay as they are,
    and of OpenOrganelle the crops named are copied at the level that `data.voxel_size_nm` picks; whole volumes are
    streamed. Stopped at any point, the same command goes on from there.

    Args:
      config: the ConfigDict of a run.
      log: prints a line of progress.

    Raises:
      UserError: nothing is named, or something cannot be downloaded, unpacked or written.
    """
    images, ground_truth = _names(config, _IMAGE_KEYS), _names(config, _LABEL_KEYS)
    if not images and not ground_truth:
        raise UserError(
            "config keys data.train, data.test and segment.volume name no known data set, so there is nothing to "
            "fetch; name volumes such as betaseg:high_c4, epfl:training or openorganelle:jrc_mus-pancreas-2"
        )
    if not config.data.root:
        raise UserError("config key data.root is empty: set it to the folder to download to")
    root, target_nm = pathlib.Path(config.data.root), config.data.voxel_size_nm or None
    wanted = list(dict.fromkeys(images + [name for name in ground_truth if names.classes(name)]))
    for key, data_set in names.SETS.items():
        members = [name for name in wanted if name.set == key]
        if members:
            data_set.fetch(members, root, target_nm, log)
    log(f"fetch: all that the config names is in {root}, or read from its source")


def _names(config: ConfigDict, keys: tuple[str, ...]) -> list[Name]:
    """The names of known data sets among the values of some keys, each once."""
    parsed = []
    for key in keys:
        section, _, leaf = key.partition(".")
        value = config[section][leaf]
        for spec in [value] if isinstance(value, str) else list(value):
            parsed.append(names.parse(names.qualify(spec, config.data.source) if section == "data" else spec))
    return [name for name in dict.fromkeys(parsed) if name]
