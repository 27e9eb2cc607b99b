"""What is segmented, with which encoder, and into which label volumes."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.clustering.centres import class_names as classes_in
from his4mae_jax.clustering.centres import class_texture, load
from his4mae_jax.clustering.fit import encoder_digest
from his4mae_jax.config import SUPERVISED
from his4mae_jax.data.stores.placement import origin_of
from his4mae_jax.data.volumes.anisotropy import in_plane_nm, size_text
from his4mae_jax.data.volumes.blocks import stored_of
from his4mae_jax.data.volumes.contrast import content_box
from his4mae_jax.data.volumes.grid import Grid, VoxelMap
from his4mae_jax.data.volumes.padding import padding_values
from his4mae_jax.data.volumes.volume import Box, VolumeLike
from his4mae_jax.errors import UserError, mask
from his4mae_jax.inference.trained import TrainedEncoder
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.output.records import PROBABILITIES, label_file
from his4mae_jax.output.records import volume as published
from his4mae_jax.training.run.checkpoints import Checkpoints
from his4mae_jax.workdir import checkpoint_steps

# Settings of `segment` that decide what is made of the labels, or who makes them, not what the labels are.
OUTPUT_SETTINGS = (
    "pyramid", "outputs", "instances", "min_instance_voxels", "instance_connectivity", "volume", "file_voxel_size_nm",
    "grid", "engine", "scheduler",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Task:
    """What one run of the segment stage works with.

    `inside` is the box of `volume` without padding, `mask` limits the fit of centres, labels are written on the grid
    `output`.
    """

    config: ml_collections.ConfigDict
    folder: Place
    volume: VolumeLike
    output: Grid
    class_names: Sequence[str]
    checkpoints: Checkpoints | None
    step: int
    encoder: VolumeEncoder
    inside: Box
    mask: VolumeLike | None
    labels: dict[int, Place]
    probabilities: Place | None
    log: Callable[[str], object]

    @property
    def sizes(self) -> list[int]:
        """Numbers of clusters, ascending."""
        return sorted(self.labels)

    @property
    def onto(self) -> VoxelMap:
        """The voxels that are labelled, among those that are encoded."""
        return self.output.among(Grid.of(self.volume))

    @property
    def bytes_written(self) -> int:
        """Bytes that are written for each voxel."""
        return len(self.labels) + (headline(self.config) if self.probabilities else 0)

    @property
    def paths(self) -> list[Place]:
        """Final paths of all volumes."""
        return [*self.labels.values(), *([self.probabilities] if self.probabilities else [])]


@dataclasses.dataclass(frozen=True)
class Bound:
    """The encoder of a run bound to a volume, by `bind_to`: what the stages of one command share.

    Attributes:
      step: of its checkpoint.
      encoder: bound to the volume.
      inside: the box of the volume that is not padding.
    """

    step: int
    encoder: VolumeEncoder
    inside: Box


def headline(config: ml_collections.ConfigDict) -> int:
    """The number of labels in `labels.ome.zarr`: C, or the number of classes of a supervised method or a probe."""
    if config.method in SUPERVISED:
        return config.supervised.classes
    return len(classes_in(config.segment.centres_file)) or config.segment.clusters


def label_sizes(config: ml_collections.ConfigDict) -> list[int]:
    """Every number of labels to segment with, ascending: the headline's and those of `evaluate.clusters`."""
    if config.method in SUPERVISED:
        return [headline(config)]
    if classes_in(config.segment.centres_file):
        there = load(config.segment.centres_file)[0]
        return sorted(size for size in there if size == headline(config) or size in config.evaluate.clusters)
    return sorted({config.segment.clusters, *config.evaluate.clusters})


def label_path(workdir: PathLike, clusters: int, headline: int) -> Place:
    """Where `label_file` of a published segmentation lies in a workdir."""
    return published(place(workdir) / label_file(clusters, headline))


def label_names(config: ml_collections.ConfigDict, size: int, class_names: Sequence[str]) -> dict[int, str]:
    """Name of each label id: the classes of a supervised method or a probe, else numbered clusters."""
    if config.method in SUPERVISED:
        return dict(enumerate(class_names, 1))
    probed = classes_in(config.segment.centres_file)
    if size == len(probed):
        return dict(enumerate(probed, 1))
    return {i: f"cluster {i}" for i in range(1, size + 1)}


def volume_paths(config: ml_collections.ConfigDict, workdir: PathLike) -> tuple[dict[int, Place], Place | None]:
    """Final paths, but for those in a bucket (`records.stored`), of the volumes that the segment stage writes.

    Returns:
      ({C: label volume}, the headline's first; the volume of probabilities, or None where it is not requested).
    """
    first = headline(config)
    sizes = sorted(label_sizes(config), key=lambda size: size != first)
    labels = {size: place(workdir) / label_file(size, first) for size in sizes}
    return labels, place(workdir) / PROBABILITIES if config.segment.probabilities else None


def labelled_by(config: ml_collections.ConfigDict, segmentation: Mapping[str, Any]) -> str:
    """What made the labels that segment.json describes: the name of a frozen encoder's file, or the method."""
    return pathlib.PurePath(segmentation.get("encoder_file", "")).stem or config.method


def has_checkpoint(workdir: PathLike) -> bool:
    """Whether a workdir holds a checkpoint of a training."""
    return bool(checkpoint_steps(workdir))


def need_checkpoint(workdir: PathLike) -> None:
    """Checks that the workdir holds a trained run.

    Raises:
      UserError: there is no checkpoint.
    """
    if not has_checkpoint(workdir):
        folder = place(workdir) / "checkpoints"
        raise UserError(
            f"{folder}: no checkpoint; train in this workdir first (`his4mae train`, or his4mae_jax.train in Python)"
        )


def need_encoder(config: ml_collections.ConfigDict, workdir: PathLike) -> None:
    """Checks that there is an encoder to segment with: a frozen one (`segment.encoder_file`), or one of the workdir.

    Raises:
      UserError: no frozen one is named, and there is no checkpoint.
    """
    if not config.segment.encoder_file:
        need_checkpoint(workdir)


def check_voxel_size(volume: VolumeLike, trained_nm: float) -> None:
    """Checks that the pixels of slices have the size that the model was trained at.

    Raises:
      UserError: they differ by more than 1 %: organelles would have another size than those the model knows.
    """
    if abs(in_plane_nm(volume) / trained_nm - 1) > 0.01:
        raise UserError(
            f"{volume.name}: voxels of {size_text(volume)}, but the model was trained at {trained_nm:g} nm; give the "
            "volume's true size (config key segment.file_voxel_size_nm), or train at one size (data.voxel_size_nm)"
        )


def check_size(encoder: VolumeEncoder, volume: VolumeLike, inside: Box) -> None:
    """Checks that slices across every axis in use hold a field of view, within the box that is not padding.

    Raises:
      UserError: the volume is too small.
    """
    shape = tuple(s.stop - s.start for s in inside)
    small = encoder.coverage.axis_too_small(shape)
    if small:
        raise UserError(
            f"{volume.name}: {'x'.join(map(str, shape))} voxels (z, y, x) at {size_text(volume)}: slices across "
            f"{small} are smaller than the field of view of {encoder.coverage.fov}; segment a larger volume or leave "
            "that axis out of segment.axes"
        )


def bind_to(
    trained: TrainedEncoder, volume: VolumeLike, segment: Mapping[str, Any], seed: int
) -> tuple[VolumeEncoder, Box]:
    """Binds an encoder to a volume to segment, after checking that they fit each other.

    Features have the texture that classes of `segment.centres_file` count.

    Args:
      trained: the encoder.
      volume: to segment.
      segment: settings with the keys of `config.segment`.
      seed: of the sample of grey levels.

    Returns:
      (encoder, the box of the volume that is not padding).

    Raises:
      UserError: the volume has another voxel size than the training's, or is too small.
    """
    if trained.voxel_size_nm is not None:
        check_voxel_size(volume, trained.voxel_size_nm)
    encoder = trained.bind(volume, segment, seed=seed).textured(class_texture(segment["centres_file"]))
    inside = content_box(volume)
    check_size(encoder, volume, inside)
    return dataclasses.replace(encoder, padding=padding_values(volume, inside)), inside


def filled_share(encoder: VolumeEncoder, volume: VolumeLike, inside: Box) -> float:
    """The fraction of the tiles of a volume that are encoded: all but those of padding of which nothing is stored."""
    if not encoder.padding or stored_of(volume) is None:
        return 1.0
    tiling = encoder.coverage.tiles(volume.shape, inside=inside)
    return sum(not tile.all_padding(volume, encoder.padding) for tile in tiling) / len(tiling)


def labels_depend_on(
    config: ml_collections.ConfigDict,
    encoder: VolumeEncoder,
    volume: VolumeLike,
    inside: Box,
    fitted: VolumeLike | None,
    step: int,
    output: Grid,
) -> dict[str, Any]:
    """All that the labels depend on, as JSON: two segmentations with equal values have equal labels."""
    settings = {k: v for k, v in config.segment.to_dict().items() if k not in OUTPUT_SETTINGS}
    if not settings["keep_features"]:  # with it labels are those of float16; without, records stay what they were
        del settings["keep_features"]
    if settings["centres_file"]:
        settings["centres_file"] = hashlib.sha256(place(settings["centres_file"]).read_bytes()).hexdigest()
    del settings["checkpoint"]  # the step stands for it
    frozen = settings.pop("encoder_file")
    if frozen:  # not its name, but what is in its files; records of trained encoders are what they were
        settings["encoder_file"] = encoder_digest(encoder.params)
    values = {
        "first_label": 1, "step": step, "volume": mask(volume.name), "shape": volume.shape, "dtype": volume.dtype.name,
        "voxel_size_nm": volume.voxel_size_nm, "contrast": encoder.contrast.to_json(),
        "inside": [[s.start, s.stop] for s in inside], "padding": encoder.padding, "clusters": label_sizes(config),
        "mask": None if fitted is None else mask(fitted.name), "seed": config.seed, "slices": encoder.coverage.axes,
        "settings": settings,
    }  # fmt: skip
    origin = origin_of(volume)
    if any(origin):  # labels of a volume at 0 keep the record that they had before positions were written
        values["origin_nm"] = origin
    if output != Grid.of(volume):
        values["grid"] = dataclasses.asdict(output)
    return json.loads(json.dumps(values))


def same_labels(before: dict[str, Any] | None, values: dict[str, Any]) -> bool:
    """Whether the labels that `labels_depend_on` described before are those of `values`.

    Ground truth that was taken away does not matter: labels whose centres were fitted inside its mask stay.
    """
    if before is not None and values["mask"] is None:
        return {**before, "mask": None} == values
    return before == values


def differs(before: dict[str, Any], values: dict[str, Any]) -> str:
    """The first thing in which two segmentations differ, from what `labels_depend_on` says of them."""
    before, values = ({**each, **each.get("settings", {})} for each in (before, values))
    before.pop("settings", None), values.pop("settings", None)
    key = next((k for k in {**before, **values} if before.get(k) != values.get(k)), None)
    return f"{key}: {before.get(key)!r} here, {values.get(key)!r} there"
