"""A run with a frozen encoder (`segment.encoder_file`): nothing is trained, and the workdir may have no checkpoint."""

import ml_collections

from his4mae_jax.bucket.path import PathLike
from his4mae_jax.cli.process import log
from his4mae_jax.errors import UserError

USING = ("segment", "all", "probe", "inspect")  # modes that encode with it


def check(config: ml_collections.ConfigDict, mode: str) -> None:
    """Opens the encoder before anything long is begun.

    Raises:
      UserError: it cannot be used, or the mode is for encoders of our own.
    """
    if not config.segment.encoder_file:
        return
    if mode == "export":
        raise UserError(
            "config key segment.encoder_file: that encoder is an ONNX file already; leave the key empty to export the "
            "one that was trained in the workdir"
        )
    if mode in USING:
        from his4mae_jax.inference.encoders.opening import frozen

        frozen(config)
    if mode == "all":
        log(f"train: skipped, segment.encoder_file names the frozen encoder {config.segment.encoder_file}")


def keep_config(config: ml_collections.ConfigDict, workdir: PathLike) -> None:
    """Writes config.json, which a training would have, so that later stages and the page of the run find it."""
    if not config.segment.encoder_file:
        return
    from his4mae_jax.output.plan import has_checkpoint
    from his4mae_jax.training.devices import distributed
    from his4mae_jax.training.run.checkpoints import write_config

    if distributed.is_main() and not has_checkpoint(workdir):
        write_config(workdir, config)
