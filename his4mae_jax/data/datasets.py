"""From `config.data` to open volumes: training images, the test image, and the ground truth of both.

`data.source` decides what the names in the config stand for: "files" paths, URLs and names of known data sets,
"betaseg" the same with `betaseg:` before a bare cell name, "phantom" synthetic cells.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from ml_collections import ConfigDict

from his4mae_jax.config import SUPERVISED
from his4mae_jax.data import entries
from his4mae_jax.data.entries import Entry, Spec, class_names
from his4mae_jax.data.formats.path import with_channel
from his4mae_jax.data.known import names
from his4mae_jax.data.known.source import Source
from his4mae_jax.data.volumes.anisotropy import in_plane_nm, size_text, slice_axes, target_size
from his4mae_jax.data.volumes.contrast import with_window
from his4mae_jax.data.volumes.crop import Crop
from his4mae_jax.data.volumes.grid import Grid, VoxelMap
from his4mae_jax.data.volumes.label_grid import resample_labels
from his4mae_jax.data.volumes.labels import Foreground
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.data.volumes.volume import Box, NoVoxelSize, Triple, Volume, VolumeLike, open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log, of_many, say


@dataclasses.dataclass(frozen=True)
class Target:
    """The volume to segment, and the ground truth it is scored with.

    Attributes:
      image: as it is encoded: resampled, with its contrast window.
      labels: ground truth on the grid of `image`; None: not scored.
      class_names: names of the label ids 0, 1, ...
      written: image and ground truth on the grid that labels are written on; None: that of `image`.
    """

    image: VolumeLike
    labels: VolumeLike | None
    class_names: tuple[str, ...]
    written: tuple[VolumeLike, VolumeLike | None] | None = None

    @property
    def output(self) -> VolumeLike:
        """The image on the grid that labels are written on."""
        return self.written[0] if self.written else self.image

    @property
    def output_labels(self) -> VolumeLike | None:
        """Ground truth on that grid: there it is scored; None: not scored."""
        return self.written[1] if self.written else self.labels

    @property
    def onto(self) -> VoxelMap:
        """The voxels of that grid among those of `image`."""
        return Grid.of(self.output).among(Grid.of(self.image))

    def cropped(self, box: Box) -> Self:
        """A part of it: `box` counts voxels of `image`."""
        written = self.written
        if written:
            own = self.onto.inside(box, tuple(self.image.shape))
            written = tuple(None if volume is None else Crop(volume, own) for volume in written)
        labels = None if self.labels is None else Crop(self.labels, box)
        return dataclasses.replace(self, image=Crop(self.image, box), labels=labels, written=written)


def open_image(spec: Spec, config: ConfigDict, voxel_size_nm: Triple | None = None) -> VolumeLike:
    """Opens one image as it is trained on and segmented: at the voxel size of the config, with its contrast window.

    Args:
      spec: a path or URL, or the name of a known volume, each with a crop if need be.
      config: the ConfigDict of a run.
      voxel_size_nm: (z, y, x) of the file; None: its metadata give it. Known volumes have their own.

    Raises:
      UserError: the volume cannot be opened.
    """
    return open_both(spec, config, voxel_size_nm)[0]


def open_both(spec: Spec, config: ConfigDict, voxel_size_nm: Triple | None = None) -> tuple[VolumeLike, VolumeLike]:
    """Opens one image twice: as `open_image` does, and at the voxel size of the file, or of the level that is named.

    Both have the contrast window; they are the same object where nothing is resampled.
    """
    source = _source(spec, config, voxel_size_nm)
    stored = volume = _open(source, config)
    target_nm = target_size(stored.voxel_size_nm, config.data.voxel_size_nm)
    if target_nm != stored.voxel_size_nm:
        at_level = _open(source, config, target_nm)  # of a multiscale volume, the level nearest to that size
        volume = resample(at_level, target_nm)
    return _both(volume, stored, config.data.contrast_window or source.window, config.data.invert != source.invert)


def prepare_image(volume: VolumeLike, config: ConfigDict) -> tuple[VolumeLike, VolumeLike]:
    """An open image as it is trained on and segmented, and at its own voxel size; see `open_both`."""
    target_nm = target_size(volume.voxel_size_nm, config.data.voxel_size_nm)
    resampled = volume if target_nm == volume.voxel_size_nm else resample(volume, target_nm)
    return _both(resampled, volume, config.data.contrast_window, config.data.invert)


def _both(image, stored, window, invert):
    windowed = with_window(image, window, invert)
    same = tuple(image.shape) == tuple(stored.shape) and image.voxel_size_nm == stored.voxel_size_nm
    return windowed, windowed if same else with_window(stored, window, invert)


def training_volumes(config: ConfigDict, workdir: str | os.PathLike, log: Log | None = None) -> list[VolumeLike]:
    """Opens the images to train on, at the voxel size to train at.

    Args:
      config: the ConfigDict of a run.
      workdir: its folder, which holds the phantoms.
      log: prints a warning for each anisotropic volume.

    Raises:
      UserError: one of them cannot be used.
    """
    with of_many(log or say) as gathered:
        volumes = [open_image(entry.image, config, entry.voxel_size_nm) for entry in entries.training(config, workdir)]
        check_training_volumes(volumes, config, gathered if log else None)
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
    entry = entries.target(config, workdir)
    if need_labels and not entry.labels:
        raise UserError("config key data.test_labels is empty: give the ground truth of data.test to score")
    image, stored = open_both(entry.image, config, entry.voxel_size_nm)
    slice_axes(image, config.segment.axes, "segment.axes", log)
    names, truth = tuple(config.data.class_names), None
    if entry.labels or not config.segment.volume:
        names = class_names(config)
    if entry.labels:
        truth = _open_labels(entry, config)
        entries.need(names, "data.class_names", "the names of label ids 0, 1, ...")
    labels = None if truth is None else resample_labels(truth, image)
    if config.segment.grid == "model" or stored is image:
        return Target(image, labels, names)
    return Target(image, labels, names, (stored, None if truth is None else resample_labels(truth, stored)))


def stored_image(config: ConfigDict, workdir: str | os.PathLike) -> VolumeLike:
    """The volume to segment at the voxel size of its file, whatever grid labels are written on."""
    entry = entries.target(config, workdir)
    return open_both(entry.image, config, entry.voxel_size_nm)[1]


def all_volumes(config: ConfigDict, workdir: str | os.PathLike) -> list[tuple[str, VolumeLike, VolumeLike]]:
    """Opens every image that the config names, as `open_both` does: `(roles, image, stored)`.

    Roles are a text such as `"train, test"`.

    Raises:
      UserError: the config names none, or one cannot be opened.
    """
    named = []
    if config.data.source == "phantom" or config.data.train:
        named += [("train", entry) for entry in entries.training(config, workdir)]
    if config.data.source == "phantom" or config.data.test:
        named.append(("test", entries.test(config, workdir)))
    named += [("segment", entry) for entry in entries.to_segment(config)]
    if not named:
        raise UserError("config keys data.train, data.test and segment.volume are empty: name a volume to look at")
    roles: dict[tuple[str, Triple | None], list[str]] = {}
    for role, entry in named:
        roles.setdefault((os.fspath(entry.image), entry.voxel_size_nm), []).append(role)
    return [
        (", ".join(dict.fromkeys(own)), *open_both(spec, config, voxel_size_nm))
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


def _labelled_training(config: ConfigDict, workdir: str | os.PathLike) -> list[tuple[VolumeLike, VolumeLike]]:
    """(image, labels) of each volume to train on."""
    named = entries.training(config, workdir)
    if not all(entry.labels for entry in named):
        paths = entries.listed(config.data.train_labels)
        if len(paths) != len(named):
            raise UserError(
                f"config key data.train_labels holds {len(paths)} paths for {len(named)} volumes: method "
                f'"{config.method}" is supervised: give the ground truth of each volume of data.train'
            )
        named = [dataclasses.replace(entry, labels=path) for entry, path in zip(named, paths, strict=True)]
    images = [open_image(entry.image, config, entry.voxel_size_nm) for entry in named]
    return [
        (image, resample_labels(_open_labels(entry, config), image)) for entry, image in zip(named, images, strict=True)
    ]


def _source(spec: Spec, config: ConfigDict, voxel_size_nm: Triple | None) -> Source:
    spec = with_channel(spec, config.data.channel)
    name = names.parse(spec)
    if name is None:
        return Source(spec, voxel_size_nm)
    return names.image(name, config.data.root, config.data.voxel_size_nm or None)


def _open(source: Source, config: ConfigDict, target_nm: Triple | None = None) -> Volume:
    more = {"missing_chunks": config.data.missing_chunks, "cache_bytes": config.data.cache_mb << 20}
    return open_volume(source.path, source.voxel_size_nm, target_nm=target_nm, **more)


def _open_labels(entry: Entry, config: ConfigDict) -> VolumeLike:
    """Opens the ground truth of an entry, on its own grid.

    Raises:
      UserError: it covers another space.
    """
    name = names.parse(entry.labels)
    if name is not None:
        return names.labels(name, config.data.root)
    # Label files often lack a voxel size: they are taken for labels of the image's full resolution. A size that the
    # user gives is that of both files.
    full = _open(_source(entry.image, config, entry.voxel_size_nm), config)
    labels = open_volume(entry.labels, full.voxel_size_nm, image=False)
    if labels.shape != full.shape or not entry.voxel_size_nm:
        try:
            own = open_volume(entry.labels, image=False)
        except NoVoxelSize:
            own = labels
            if labels.shape != full.shape:
                raise UserError(
                    f"{labels.name}: labels of {labels.shape} voxels (z, y, x) do not fit the image {full.name} of "
                    f"{full.shape}; give labels of the same volume"
                ) from None
        rounded = own.shape == full.shape and np.allclose(own.voxel_size_nm, full.voxel_size_nm, rtol=0.01)
        labels = dataclasses.replace(own, voxel_size_nm=full.voxel_size_nm) if rounded else own
    return Foreground(labels) if config.data.binary_labels else labels


def _check_voxel_size(volume: VolumeLike, first: VolumeLike) -> None:
    """Raises `UserError` for voxels of another size than the first volume's: one model knows one voxel size."""
    if abs(in_plane_nm(volume) / in_plane_nm(first) - 1) > 0.01:
        raise UserError(
            f"{volume.name}: voxels of {size_text(volume)} beside others of {size_text(first)}; set "
            "config key data.voxel_size_nm to the size that all are to be resampled to"
        )
