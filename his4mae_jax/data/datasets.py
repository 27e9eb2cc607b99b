"""From `config.data` to open volumes: training images, the test image, and the ground truth of both.

`data.source` decides what the names in the config stand for: "files" paths, URLs and names of known data sets,
"betaseg" the same with `betaseg:` before a bare cell name, "phantom" synthetic cells.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence

from ml_collections import ConfigDict

from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.known import names
from his4mae_jax.data.known.source import Source
from his4mae_jax.data.phantom import dataset as phantom
from his4mae_jax.data.volumes.anisotropy import in_plane_nm, size_text, slice_axes, target_size
from his4mae_jax.data.volumes.contrast import with_window
from his4mae_jax.data.volumes.label_grid import resample_labels
from his4mae_jax.data.volumes.labels import Foreground
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.data.volumes.volume import Triple, Volume, VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log

Spec = str | os.PathLike  # a path, a URL or a name, each with a crop if need be


@dataclasses.dataclass(frozen=True)
class Target:
    """The volume to segment, and the ground truth it is scored with.

    Attributes:
      image: as it is segmented: resampled, with its contrast window.
      labels: on the grid of the image; None: not scored.
      class_names: names of the label ids 0, 1, ...
    """

    image: VolumeLike
    labels: VolumeLike | None
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """An image that the config names, its ground truth ("" or None: none) and the voxel size (z, y, x) of the file."""

    image: Spec
    labels: Spec | None = None
    voxel_size_nm: Triple | None = None


def open_image(spec: Spec, config: ConfigDict, voxel_size_nm: Triple | None = None) -> VolumeLike:
    """Opens one image as it is trained on and segmented: at the voxel size of the config, with its contrast window.

    Args:
      spec: a path or URL, or the name of a known volume, each with a crop if need be.
      config: the ConfigDict of a run.
      voxel_size_nm: (z, y, x) of the file; None: its metadata give it. Known volumes have their own.

    Raises:
      UserError: the volume cannot be opened.
    """
    source = _source(spec, config, voxel_size_nm)
    volume = _open(source, config)
    target_nm = target_size(volume.voxel_size_nm, config.data.voxel_size_nm)
    if target_nm != volume.voxel_size_nm:
        at_level = _open(source, config, target_nm)  # of a multiscale volume, the level nearest to that size
        volume = resample(at_level, target_nm)
    return with_window(volume, config.data.contrast_window or source.window, config.data.invert != source.invert)


def prepare_image(volume: VolumeLike, config: ConfigDict) -> VolumeLike:
    """An open image as it is trained on and segmented; see `open_image`."""
    target_nm = target_size(volume.voxel_size_nm, config.data.voxel_size_nm)
    volume = volume if target_nm == volume.voxel_size_nm else resample(volume, target_nm)
    return with_window(volume, config.data.contrast_window, config.data.invert)


def training_volumes(config: ConfigDict, workdir: str | os.PathLike, log: Log | None = None) -> list[VolumeLike]:
    """Opens the images to train on, at the voxel size to train at.

    Args:
      config: the ConfigDict of a run.
      workdir: its folder, which holds the phantoms.
      log: prints a warning for each anisotropic volume.

    Raises:
      UserError: one of them cannot be used.
    """
    volumes = [open_image(entry.image, config, entry.voxel_size_nm) for entry in _training(config, workdir)]
    check_training_volumes(volumes, config, log)
    return volumes


def check_training_volumes(volumes: Sequence[VolumeLike], config: ConfigDict, log: Log | None = None) -> None:
    """Checks that volumes can be trained on together; arguments and errors are those of `training_volumes`."""
    for volume in volumes:
        slice_axes(volume, config.data.axes, "data.axes", log)
        _check_voxel_size(volume, volumes[0])


def training_labels(config: ConfigDict, workdir: str | os.PathLike) -> list[VolumeLike]:
    """Opens the ground truth of the volumes to train on, one each, for supervised methods.

    Raises:
      UserError: a volume has none, or it does not fit its image.
    """
    return [labels for _, labels in _labelled_training(config, workdir)]


def class_names(config: ConfigDict) -> tuple[str, ...]:
    """Names of the label ids 0, 1, ...: `data.class_names`, else those of the data set; empty without labels."""
    if config.data.class_names:
        return tuple(config.data.class_names)
    if config.data.source == "phantom":
        return phantom.CLASSES
    if config.data.source in names.SETS:
        return names.SETS[config.data.source].CLASSES
    labelled = [names.parse(spec) for spec in (config.data.test_labels, *_listed(config.data.train_labels))]
    return next((names.classes(name) for name in labelled if name), ())


def target(config: ConfigDict, workdir: str | os.PathLike, *, need_labels: bool, log: Log | None = None) -> Target:
    """Opens the volume to segment, and its ground truth where it has some.

    `segment.volume` takes the place of the data set's own test volume and has no labels.

    Args:
      config: the ConfigDict of a run.
      workdir: its folder, which holds the phantoms.
      need_labels: whether a volume without labels is an error.
      log: prints a warning for an anisotropic volume.

    Raises:
      UserError: labels are needed and there are none, or they do not fit the image, or the volume cannot be used.
    """
    if config.segment.volume:
        if need_labels:
            raise UserError(
                "config key segment.volume: this volume has no labels to score; give data.test and data.test_labels"
            )
        entry = _segment_entry(config)
    else:
        entry = _test(config, workdir)
    if need_labels and not entry.labels:
        raise UserError("config key data.test_labels is empty: give the ground truth of data.test to score")
    image = open_image(entry.image, config, entry.voxel_size_nm)
    slice_axes(image, config.segment.axes, "segment.axes", log)
    if not entry.labels:
        return Target(image, None, tuple(config.data.class_names) if config.segment.volume else class_names(config))
    labels = _open_labels(entry, image, config)
    return Target(image, labels, _need(class_names(config), "data.class_names", "the names of label ids 0, 1, ..."))


def all_volumes(config: ConfigDict, workdir: str | os.PathLike) -> list[tuple[str, VolumeLike]]:
    """Opens every image that the config names: `(roles, volume)`, such as `("train, test", volume)`.

    Raises:
      UserError: the config names none, or one cannot be opened.
    """
    entries = []
    if config.data.source == "phantom" or config.data.train:
        entries += [("train", entry) for entry in _training(config, workdir)]
    if config.data.source == "phantom" or config.data.test:
        entries.append(("test", _test(config, workdir)))
    if config.segment.volume:
        entries.append(("segment", _segment_entry(config)))
    if not entries:
        raise UserError("config keys data.train, data.test and segment.volume are empty: name a volume to look at")
    roles: dict[tuple[str, Triple | None], list[str]] = {}
    for role, entry in entries:
        roles.setdefault((os.fspath(entry.image), entry.voxel_size_nm), []).append(role)
    return [
        (", ".join(dict.fromkeys(own)), open_image(spec, config, voxel_size_nm))
        for (spec, voxel_size_nm), own in roles.items()
    ]


def labelled_volumes(config: ConfigDict, workdir: str | os.PathLike) -> Iterator[tuple[str, VolumeLike, VolumeLike]]:
    """Opens, one after the other, every image whose ground truth a run uses, with that ground truth.

    That of the training volumes is used by supervised methods only. That of the test volume scores the result.

    Yields:
      `(config key of the labels, image, labels)`.

    Raises:
      UserError: a volume cannot be opened, or labels do not fit their image.
    """
    if config.method in SUPERVISED:
        for image, labels in _labelled_training(config, workdir):
            yield "data.train_labels", image, labels
    if not config.segment.volume and (config.data.source == "phantom" or config.data.test):
        test = target(config, workdir, need_labels=False)
        if test.labels is not None:
            yield "data.test_labels", test.image, test.labels


def _training(config: ConfigDict, workdir: str | os.PathLike) -> list[_Entry]:
    """The volumes to train on, with the ground truth that belongs to each as far as the data set decides that."""
    source = config.data.source
    if source == "phantom":
        return [_Entry(*phantom.cell_paths(config, workdir, index)) for index in range(config.data.phantom.cells)]
    meaning = "cell names to train on" if source in names.SETS else "paths of volumes to train on"
    specs = [names.qualify(spec, source) for spec in _listed(_need(config.data.train, "data.train", meaning))]
    return [_Entry(spec, spec if source in names.SETS else None, _file_voxel_size(config)) for spec in specs]


def _labelled_training(config: ConfigDict, workdir: str | os.PathLike) -> list[tuple[VolumeLike, VolumeLike]]:
    """(image, labels) of each volume to train on."""
    entries = _training(config, workdir)
    if not all(entry.labels for entry in entries):
        paths = _listed(config.data.train_labels)
        if len(paths) != len(entries):
            raise UserError(
                f"config key data.train_labels holds {len(paths)} paths for {len(entries)} volumes: method "
                f'"{config.method}" is supervised: give the ground truth of each volume of data.train'
            )
        entries = [dataclasses.replace(entry, labels=path) for entry, path in zip(entries, paths, strict=True)]
    images = [open_image(entry.image, config, entry.voxel_size_nm) for entry in entries]
    return [(image, _open_labels(entry, image, config)) for entry, image in zip(entries, images, strict=True)]


def _test(config: ConfigDict, workdir: str | os.PathLike) -> _Entry:
    """The data set's own test volume."""
    source = config.data.source
    if source == "phantom":
        return _Entry(*phantom.cell_paths(config, workdir, config.data.phantom.cells))
    meaning = "the name of the test cell" if source in names.SETS else "the volume to segment"
    spec = names.qualify(_need(config.data.test, "data.test", meaning), source)
    return _Entry(spec, spec if source in names.SETS else config.data.test_labels, _file_voxel_size(config))


def _segment_entry(config: ConfigDict) -> _Entry:
    """`segment.volume`, another volume than that of the data set."""
    return _Entry(config.segment.volume, None, tuple(config.segment.file_voxel_size_nm) or None)


def _source(spec: Spec, config: ConfigDict, voxel_size_nm: Triple | None) -> Source:
    name = names.parse(spec)
    if name is None:
        return Source(os.fspath(spec), voxel_size_nm)
    return names.image(name, config.data.root, config.data.voxel_size_nm or None)


def _open(source: Source, config: ConfigDict, target_nm: Triple | None = None) -> Volume:
    return open_volume(
        source.path, source.voxel_size_nm, target_nm=target_nm, missing_chunks=config.data.missing_chunks,
        cache_bytes=config.data.cache_mb << 20,
    )  # fmt: skip


def _open_labels(entry: _Entry, image: VolumeLike, config: ConfigDict) -> VolumeLike:
    """Opens the ground truth of an entry, on the grid of its image.

    Raises:
      UserError: it covers another space.
    """
    name = names.parse(entry.labels)
    if name is not None:
        return resample_labels(names.labels(name, config.data.root), image)
    # Label files often lack a voxel size: they are taken for labels of the image's full resolution.
    full = _open(_source(entry.image, config, entry.voxel_size_nm), config)
    labels = open_volume(entry.labels, full.voxel_size_nm, image=False)
    if labels.shape != full.shape:
        try:
            labels = open_volume(entry.labels, image=False)
        except UserError:
            raise UserError(
                f"{labels.name}: labels of {labels.shape} voxels (z, y, x) do not fit the image {full.name} of "
                f"{full.shape}; give labels of the same volume"
            ) from None
    return resample_labels(Foreground(labels) if config.data.binary_labels else labels, image)


def _file_voxel_size(config: ConfigDict) -> Triple | None:
    return tuple(config.data.file_voxel_size_nm) or None


def _check_voxel_size(volume: VolumeLike, first: VolumeLike) -> None:
    """Raises `UserError` for voxels of another size than the first volume's: one model knows one voxel size."""
    if abs(in_plane_nm(volume) / in_plane_nm(first) - 1) > 0.01:
        raise UserError(
            f"{volume.name}: voxels of {size_text(volume)} beside others of {size_text(first)}; set "
            "config key data.voxel_size_nm to the size that all are to be resampled to"
        )


def _need(value, key: str, meaning: str):
    """`value`, unless it is empty: then a `UserError` names the key and what to give."""
    if not value:
        raise UserError(f"config key {key} is empty: give {meaning}")
    return value


def _listed(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
