"""A trained encoder, of a checkpoint or frozen (`inference.encoders`), and its binding to a volume."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from his4mae_jax.data.volumes.anisotropy import coarse_axis, slice_axes
from his4mae_jax.data.volumes.contrast import estimate_contrast
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.inference.coverage import Coverage
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.pretext.flop import flop_per_image
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.run.checkpoints import Checkpoints


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """The encoder of one checkpoint, or a frozen one of another kind.

    Attributes:
      models: of the pretext method it was trained by.
      params: of the encoder.
      step: of the checkpoint; 0 for a frozen one.
      voxel_size_nm: voxel edge, within slices, that it was trained at; None: it takes any.
      config: the settings of the training, or of the run that names a frozen encoder.
      fov_flop: FLOP of encoding one field of view; None: as `config` says.
      batch: fields of view that are best encoded at once; 0: as the kind of device says.
    """

    models: Any
    params: Any
    step: int
    voxel_size_nm: float | None
    config: ml_collections.ConfigDict
    fov_flop: float | None = None
    batch: int = 0

    def bind(
        self,
        volume: VolumeLike,
        segment: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        padding: tuple[float, ...] = (),
    ) -> VolumeEncoder:
        """Binds the encoder to the grey levels and the voxel size of a volume.

        Args:
          volume: to encode, at the voxel size of the training.
          segment: settings with the keys of `config.segment`; None: those of the training's config.
          seed: of the sample from which the window of grey levels is estimated.
          padding: see `VolumeEncoder`.

        Raises:
          UserError: the volume is anisotropic, and `segment.axes` lacks the axis across which slices can be taken.
        """
        segment, data = self.config.segment if segment is None else segment, self.config.data
        contrast = estimate_contrast(
            volume, percentiles=tuple(data.contrast_percentiles), invert=data.invert, seed=seed
        )  # fmt: skip
        isotropic, finest = coarse_axis(volume) is None, min(volume.voxel_size_nm)
        coverage = Coverage.from_settings(
            self.models, segment, slice_axes(volume, segment["axes"], "segment.axes"),
            spacing=(1.0,) * 3 if isotropic else tuple(size / finest for size in volume.voxel_size_nm),
        )  # fmt: skip
        flop = flop_per_image(self.config)["encode"] if self.fov_flop is None else self.fov_flop
        return VolumeEncoder(
            self.models, self.params, contrast, coverage, segment["batch_fovs"] or self.batch, padding, flop
        )  # fmt: skip


def load(checkpoints: Checkpoints, step: int, encoder: str = "student") -> TrainedEncoder:
    """Reads the encoder of one checkpoint.

    Args:
      checkpoints: of the workdir.
      step: one of `checkpoints.steps()`.
      encoder: "student" or "teacher".
    """
    about = checkpoints.about(step)
    config = ml_collections.ConfigDict(about["config"])
    method = METHODS[config.method]
    models = method.build(config)
    like = jax.eval_shape(lambda: method.init_params(jax.random.key(0), models)["encoder"])
    everywhere = meshes.replicated(meshes.make_local_mesh())
    params, _ = checkpoints.restore_encoder(step, encoder, like, everywhere)
    return TrainedEncoder(models, params, step, about["voxel_size_nm"], config)


def volume_encoder(
    config: ml_collections.ConfigDict, checkpoints: Checkpoints, step: int, volume: VolumeLike
) -> VolumeEncoder:
    """The encoder of one checkpoint bound to a volume, by the settings `segment` and `seed` of a run."""
    return load(checkpoints, step, config.segment.encoder).bind(volume, config.segment, seed=config.seed)
