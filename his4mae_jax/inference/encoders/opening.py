"""The encoder that a config names: of a checkpoint of the workdir, or frozen in an ONNX file."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
import numpy as np

from his4mae_jax.bucket.path import PathLike
from his4mae_jax.errors import UserError
from his4mae_jax.inference.encoders.description import Description, read
from his4mae_jax.inference.encoders.network import frozen_models
from his4mae_jax.inference.trained import TrainedEncoder, load
from his4mae_jax.training.run.checkpoints import Checkpoints


@contextlib.contextmanager
def checkpoints_of(config: ml_collections.ConfigDict, workdir: PathLike) -> Iterator[Checkpoints | None]:
    """The checkpoints of a workdir, or None, and nothing opened, where `segment.encoder_file` names an encoder."""
    if config.segment.encoder_file:
        yield None
        return
    with contextlib.closing(Checkpoints(workdir, config)) as checkpoints:
        yield checkpoints


def open_encoder(
    config: ml_collections.ConfigDict, checkpoints: Checkpoints | None, step: int | None = None
) -> TrainedEncoder:
    """The encoder to segment with.

    Args:
      config: of the run; `segment.encoder_file`, `segment.encoder` and `segment.checkpoint` choose the encoder.
      checkpoints: of `checkpoints_of`.
      step: of the checkpoint; None: that of `segment.checkpoint`.

    Raises:
      UserError: it cannot be opened, there is no such checkpoint, or the settings `segment` do not go with it.
    """
    if checkpoints is None:
        return frozen(config)
    return load(checkpoints, chosen_step(config, checkpoints) if step is None else step, config.segment.encoder)


def chosen_step(config: ml_collections.ConfigDict, checkpoints: Checkpoints) -> int:
    """The step that `segment.checkpoint` names, or that of the newest checkpoint.

    Raises:
      UserError: there is no checkpoint of that step.
    """
    steps, wanted = checkpoints.steps(), config.segment.checkpoint
    if wanted and wanted not in steps:
        raise UserError(
            f"config key segment.checkpoint is {wanted}: {checkpoints.path} has those of the steps "
            f"{', '.join(map(str, steps))}"
        )
    return wanted or steps[-1]


def frozen(config: ml_collections.ConfigDict) -> TrainedEncoder:
    """The frozen encoder that `segment.encoder_file` names: no step, and no weights among its parameters.

    Raises:
      UserError: the file or its description cannot be used, or the settings `segment` do not go with it.
    """
    about = read(config.segment.encoder_file)
    check_settings(config.segment, about)
    models = frozen_models(about)
    # A hash in the place of parameters: centres and labels belong to the encoder with the same one.
    params = {"sha256": np.frombuffer(bytes.fromhex(about.digest), np.uint8)}
    return TrainedEncoder(
        models, params, 0, about.voxel_size_nm, config, fov_flop=models.encoder.fov_flop, batch=models.encoder.batch
    )  # fmt: skip


def check_settings(segment: Mapping[str, Any], about: Description) -> None:
    """Checks what the constraints between settings say of `model.fov` and `model.patch_size`, for a frozen encoder.

    Raises:
      UserError: a setting does not go with its field of view or its patches.
    """
    fov, patch = about.fov, about.voxels_per_patch
    rules = (
        ("stride", segment["stride"] > fov or segment["stride"] % patch, f"a multiple of {patch}, at most {fov}"),
        ("shifts", segment["shifts"] > patch, f"at most {patch}"),
        ("overhang", segment["overhang"] >= fov, f"below {fov}"),
    )
    for key, broken, rule in rules:
        if broken:
            raise UserError(
                f"config key segment.{key} is {segment[key]}, but must be {rule}: the encoder {about.path} has a field "
                f"of view of {fov} voxels and patches of {patch}"
            )
