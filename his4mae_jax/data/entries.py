"""What `config.data` and `config.segment` name: images, their ground truth, their voxel sizes."""

import dataclasses
import os
from collections.abc import Iterable
from typing import TypeVar

from ml_collections import ConfigDict

from his4mae_jax.bucket.path import BucketPath, PathLike
from his4mae_jax.data.known import names
from his4mae_jax.data.phantom import dataset as phantom
from his4mae_jax.data.volumes.volume import Triple
from his4mae_jax.errors import UserError

T = TypeVar("T")
Spec = str | os.PathLike  # a path, a URL or a name, each with a crop if need be


@dataclasses.dataclass(frozen=True)
class Entry:
    """An image that the config names, its ground truth ("" or None: none) and the voxel size (z, y, x) of the file."""

    image: Spec
    labels: Spec | None = None
    voxel_size_nm: Triple | None = None


def training(config: ConfigDict, workdir: PathLike) -> list[Entry]:
    """The volumes to train on, with the ground truth that belongs to each as far as the data set decides that."""
    source = config.data.source
    if source == "phantom":
        return [_cell(config, workdir, index) for index in range(config.data.phantom.cells)]
    meaning = "cell names to train on" if source in names.SETS else "paths of volumes to train on"
    specs = [names.qualify(spec, source) for spec in listed(need(config.data.train, "data.train", meaning))]
    return [Entry(spec, spec if source in names.SETS else None, _file_voxel_size(config)) for spec in specs]


def test(config: ConfigDict, workdir: PathLike) -> Entry:
    """The data set's own test volume."""
    source = config.data.source
    if source == "phantom":
        return _cell(config, workdir, config.data.phantom.cells)
    meaning = "the name of the test cell" if source in names.SETS else "the volume to segment"
    spec = names.qualify(need(config.data.test, "data.test", meaning), source)
    return Entry(spec, spec if source in names.SETS else config.data.test_labels, _file_voxel_size(config))


def _cell(config: ConfigDict, workdir: PathLike, index: int) -> Entry:
    paths = phantom.cell_paths(config, workdir, index)
    return Entry(*(str(path) if isinstance(path, BucketPath) else path for path in paths))


def to_segment(config: ConfigDict) -> list[Entry]:
    """The volumes that `segment.volume` names in place of that of the data set; none where it is empty."""
    size = tuple(config.segment.file_voxel_size_nm) or None
    return [Entry(spec, None, size) for spec in listed(config.segment.volume)]


def target(config: ConfigDict, workdir: PathLike) -> Entry:
    """The volume to segment: `segment.volume`, else the data set's own test volume.

    Raises:
      UserError: `segment.volume` names several.
    """
    several = to_segment(config)
    if len(several) > 1:
        raise UserError(f"config key segment.volume names {len(several)} volumes, and this takes one; name one of them")
    return several[0] if several else test(config, workdir)


def class_names(config: ConfigDict) -> tuple[str, ...]:
    """Names of the label ids 0, 1, ...: `data.class_names`, else those of the data set; empty without labels."""
    if config.data.class_names:
        return tuple(config.data.class_names)
    if config.data.source == "phantom":
        return phantom.CLASSES
    if config.data.source in names.SETS:
        return names.SETS[config.data.source].CLASSES
    labelled = [names.parse(spec) for spec in (config.data.test_labels, *listed(config.data.train_labels))]
    return next((names.classes(name) for name in labelled if name), ())


def _file_voxel_size(config: ConfigDict) -> Triple | None:
    return tuple(config.data.file_voxel_size_nm) or None


def need(value: T, key: str, meaning: str) -> T:
    """`value`, unless it is empty: then a `UserError` names the key and what to give."""
    if not value:
        raise UserError(f"config key {key} is empty: give {meaning}")
    return value


def listed(value: str | Iterable[str]) -> list[str]:
    """One or several specs as a list."""
    return [value] if isinstance(value, str) else list(value)
