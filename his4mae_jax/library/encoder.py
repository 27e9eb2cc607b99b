"""A trained encoder: features and segmentations of volumes."""

import contextlib
import dataclasses
import difflib
import functools
import os
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from his4mae_jax.bucket.path import PathLike, Place, place
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.fit import encoder_digest, fit_centres, read_codes
from his4mae_jax.config import SUPERVISED, from_saved, validate
from his4mae_jax.data.volumes.grid import Grid
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.inference import trained as trained_encoders
from his4mae_jax.inference.score_maps import texture_of
from his4mae_jax.inference.trained import TrainedEncoder
from his4mae_jax.library.failures import one_family
from his4mae_jax.library.probing import Labels, ProbeClasses, as_labels
from his4mae_jax.library.segmentation import ClusterCentres, LazyLabels, Segmentation
from his4mae_jax.library.volumes import Input, VoxelSize, is_path, to_image
from his4mae_jax.output.plan import bind_to, need_checkpoint
from his4mae_jax.probe.fit import fit_probe
from his4mae_jax.probe.labels import read_labels
from his4mae_jax.progress import Log, progress, say
from his4mae_jax.training.run.checkpoints import ENCODERS, Checkpoints, read_config

# Settings of `segment` that decide what the labels are; the others belong to the files that the command writes.
SETTINGS = (
    "axes", "batch_fovs", "block", "edge_weight", "expansion", "fit_least", "fit_tiles", "fit_voxels", "fraction",
    "grid", "inference", "metric", "overhang", "restarts", "shifts", "smooth", "stride", "symmetries", "tile",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """Features on a lattice, at most one point a patch along each axis.

    Attributes:
      features: `(z, y, x, D)` float32, averaged over axes and smoothed as they are clustered.
      positions: for each axis (z, y, x) where the lattice points lie, in voxels of the encoded volume (float). The
        last point may lie up to half a patch beyond the border.
      voxel_size_nm: (z, y, x) of those voxels.
    """

    features: np.ndarray
    positions: tuple[np.ndarray, np.ndarray, np.ndarray]
    voxel_size_nm: tuple[float, float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """The encoder of one checkpoint; made by `Encoder.load` and `his4mae_jax.train`.

    Attributes:
      workdir: of the training.
      config: its settings; `config.segment` are those that `encode` and `segment` use.
    """

    workdir: Place
    config: ml_collections.ConfigDict
    _trained: TrainedEncoder

    @classmethod
    @one_family
    def load(cls, workdir: PathLike, step: int | None = None, which: str = "student") -> "Encoder":
        """Opens the encoder of a training.

        Args:
          workdir: of a training by `his4mae_jax.train` or the command.
          step: of a checkpoint; None: the last.
          which: "student", or "teacher", the moving average of the student.

        Raises:
          his4mae_jax.Error: there is no such checkpoint, or it is damaged.
        """
        if which not in ENCODERS:
            raise UserError(f'which is {which!r}: choose "student" or "teacher"')
        need_checkpoint(workdir)
        saved = read_config(workdir)
        if saved is None:
            raise UserError(f"{workdir}: no config.json, so no workdir of a training; name another")
        config = from_saved(saved)
        config.segment.encoder_file = ""  # this is the encoder that was trained
        with contextlib.closing(Checkpoints(workdir, config)) as checkpoints:
            steps = checkpoints.steps()
            if step is not None and step not in steps:
                raise UserError(f"{workdir}: no checkpoint of step {step!r}; there are {', '.join(map(str, steps))}")
            trained = trained_encoders.load(checkpoints, steps[-1] if step is None else step, which)
        return cls(place(workdir), config, trained)

    def __repr__(self) -> str:
        return f"<{self.config.method} encoder of {self.workdir}, step {self.step}, {self.voxel_size_nm:g} nm a voxel>"

    @property
    def step(self) -> int:
        """Optimiser steps after which it was saved."""
        return self._trained.step

    @property
    def voxel_size_nm(self) -> float:
        """Voxel edge, within slices, that it was trained at, in nm."""
        return round(self._trained.voxel_size_nm, 6)  # a geometric mean: 7.999999999999999 for 8

    @functools.cached_property
    def digest(self) -> str:
        """A hash of its parameters: centres belong to the encoder with the same one."""
        return encoder_digest(self._trained.params)

    @one_family
    def encode(self, volume: Input, voxel_size_nm: VoxelSize | None = None) -> Tokens:
        """Features of a volume that fits in memory.

        Args:
          volume: a path, an open volume or an array (z, y, x); resampled where the training resampled.
          voxel_size_nm: of a path or an array, one number or (z, y, x). None: that of the file; for an array, that of
            the training's volumes.

        Raises:
          his4mae_jax.Error: the volume cannot be used, has another voxel size than the training's, or is too small.
        """
        image, _ = self._images(volume, voxel_size_nm)
        encoder, _ = bind_to(self._trained, image, self.config.segment, self.config.seed)
        with progress("encode", float(np.prod(image.shape)), unit="voxels", log=say) as bar:
            features, positions = encoder.features(image, bar=bar)
        return Tokens(features, positions, tuple(image.voxel_size_nm))

    @one_family
    def segment(
        self,
        volume: Input,
        clusters: int | None = None,
        *,
        centres: ClusterCentres | str | os.PathLike | None = None,
        seed: int | None = None,
        voxel_size_nm: VoxelSize | None = None,
        log: Log | None = None,
        **settings: Any,
    ) -> Segmentation:
        """Clusters the features of a volume and labels every voxel.

        With the same settings labels are those that `his4mae segment` writes.

        Args:
          volume: a path, an open volume or an array (z, y, x); resampled where the training resampled. Labels have
            its shape all the same, unless the setting `grid` is "model".
          clusters: number of labels; None: that of `centres`, or of the training's settings.
          centres: those of another segmentation with this encoder, or the path of a `centres.npz`: labels then mean
            the same in both volumes. None: k-means on a sample of this volume.
          seed: of that sample and of k-means; None: that of the training.
          voxel_size_nm: of a path or an array, one number or (z, y, x). None: that of the file; for an array, that of
            the training's volumes.
          log: called with each line of progress; None: they go to standard error.
          **settings: of `config.segment`, such as `stride=4` or `axes="z"`; see docs/settings.md.

        Returns:
          Labels, NumPy for an array and lazy for a volume, and centres.

        Raises:
          his4mae_jax.Error: a setting or the volume cannot be used, or the centres belong to another encoder.
        """
        config = self._segment_config(clusters, centres, seed, settings)
        given = self._given(centres, config, clusters)
        image, stored = self._images(volume, voxel_size_nm)
        encoder, inside = bind_to(self._trained, image, config.segment, config.seed)
        size = given.clusters if given else _labels(config)
        encoded = choice = None
        if given is None:
            fit = fit_centres(config, encoder, image, [size], None, self._codes(config), inside, log=log or say)
            given, encoded, choice = ClusterCentres(size, fit.centres[size], self.digest), fit.encoded, fit.choice
        names = getattr(given.centres, "names", ())
        scores = centre_files.linear_scores({size: given.centres})
        encoder = encoder.textured(texture_of(scores))
        output = image if config.segment.grid == "model" else stored
        labels = LazyLabels(image, encoder, scores, inside, config.segment, encoded, Grid.of(output), names)
        in_memory = not is_path(volume) and not hasattr(volume, "read")
        return Segmentation(labels.read((slice(None),) * 3) if in_memory else labels, given, choice)

    @one_family
    def probe(
        self,
        volume: Input,
        labels: Labels,
        *,
        hidden: int = 0,
        texture: float | None = None,
        names: Sequence[str] = (),
        clusters: ClusterCentres | None = None,
        seed: int | None = None,
        voxel_size_nm: VoxelSize | None = None,
        log: Log | None = None,
    ) -> ProbeClasses:
        """Fits a classifier of a few labelled voxels, as `his4mae probe` does.

        Args:
          volume: a path, an open volume or an array (z, y, x); resampled where the training resampled.
          labels: voxels by the name of their class, `{"mitochondria": [(z, y, x), ...], ...}`; or an array of ids of
            the volume's shape, 0 where there is no label; or the path of a table of points or of a label volume.
          hidden: units of a hidden layer; 0: a linear classifier.
          texture: sigma in tokens of the Gaussian in which the spread of features counts; 0: their means alone; None:
            `probe.texture` of the training's settings.
          names: of the ids 1, 2, ...; empty: those in the metadata, or "class 1" and so on.
          clusters: of a segmentation with this encoder: those with hardly any labels stay beside the classes.
          seed: of all draws; None: that of the training.
          voxel_size_nm: of a path or an array, one number or (z, y, x). None: that of the file; for an array, that of
            the training's volumes.
          log: called with each line of progress; None: they go to standard error.

        Returns:
          Classes, which `segment` takes as `centres`.

        Raises:
          his4mae_jax.Error: the labels or the volume cannot be used.
        """
        config = self._segment_config(None, None, seed, {})
        if config.method in SUPERVISED:
            raise UserError(f"config key method is {config.method!r}: its labels are classes already")
        if clusters is not None:
            self._given(clusters, config, None)
        image, own = self._images(volume, voxel_size_nm)
        encoder, inside = bind_to(self._trained, image, config.segment, config.seed)
        texture = config.probe.texture if texture is None else texture
        encoder = encoder.textured(0.0 if encoder.coverage.cover else texture)
        labelled = read_labels(
            as_labels(labels, own), own, image, inside, encoder.padding, names=names,
            fewest_classes=2 if clusters is None else 1, seed=config.seed,
        )  # fmt: skip
        fitted = fit_probe(
            encoder, image, inside, labelled, hidden=hidden, clusters=clusters and clusters.centres,
            fit_tiles=config.segment.fit_tiles, seed=config.seed, log=log or say,
        )  # fmt: skip
        return ProbeClasses.of(fitted, self.digest, own, image)

    def _images(self, volume: Input, voxel_size_nm: VoxelSize | None) -> tuple[VolumeLike, VolumeLike]:
        if voxel_size_nm is None and not is_path(volume) and not hasattr(volume, "read"):
            voxel_size_nm = self.config.data.file_voxel_size_nm or self.voxel_size_nm
        return to_image(volume, self.config, voxel_size_nm)

    def _segment_config(self, clusters, centres, seed, settings) -> ml_collections.ConfigDict:
        """The settings of the training with those of one segmentation in their place."""
        config = self.config.copy_and_resolve_references()
        with config.ignore_type():
            for key, value in settings.items():
                if key not in SETTINGS:
                    close = difflib.get_close_matches(key, SETTINGS, n=1)
                    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(SETTINGS)}"
                    raise UserError(f"there is no setting {key} of a segmentation; {hint}")
                config.segment[key] = value
            if seed is not None:
                config.seed = seed
            if clusters is not None:
                config.segment.clusters = clusters
        validate(config)
        if config.method in SUPERVISED and (centres is not None or clusters not in (None, config.supervised.classes)):
            raise UserError(f"config key method is {config.method!r}: its labels are classes, without clusters")
        return config

    def _given(self, centres, config, clusters) -> ClusterCentres | None:
        """The centres of another segmentation, after checking that they fit."""
        if centres is None:
            return None
        if is_path(centres):
            size = config.segment.clusters
            if clusters is None:
                sizes, classes = sorted(centre_files.load(centres)[0]), len(centre_files.class_names(centres))
                size = classes or (size if size in sizes else sizes[0])
            return ClusterCentres(size, centre_files.load_for(centres, [size], self.digest)[size], self.digest)
        if not isinstance(centres, ClusterCentres):
            raise UserError("centres: give the centres of a segmentation, or the path of a centres.npz")
        if centres.encoder_digest != self.digest:
            raise UserError("centres: they were fitted on features of another encoder; leave them out to fit new ones")
        if clusters not in (None, centres.clusters):
            raise UserError(f"clusters is {clusters}, but there are {centres.clusters} centres; leave one of them out")
        return centres

    def _codes(self, config: ml_collections.ConfigDict) -> np.ndarray | None:
        """The codebook, where `segment.centres` is "codebook"."""
        if config.segment.centres != "codebook":
            return None
        with contextlib.closing(Checkpoints(self.workdir, config)) as checkpoints:
            return read_codes(config, checkpoints, self.step)


def _labels(config: ml_collections.ConfigDict) -> int:
    return config.supervised.classes if config.method in SUPERVISED else config.segment.clusters
