"""Orbax checkpoints: atomic, asynchronous, and quick to open for inference.

Each holds the items `student` and `teacher` (the encoders), `rest` (all other state) and `about` (JSON: the
configuration, seconds trained, pixel size, and checksums of all arrays). Inference reads one encoder and `about`.
"""

import shutil
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from his4mae_jax.bucket.path import BucketPath, PathLike, Place, place
from his4mae_jax.config import flat_settings, total_steps
from his4mae_jax.errors import UserError
from his4mae_jax.files import parse_json, write_json, writing
from his4mae_jax.settings.table import fixed_by_training, is_saved
from his4mae_jax.training.run import checkpoint_items, checksums
from his4mae_jax.training.run.bucket_checkpoints import Mirror
from his4mae_jax.training.run.run_lock import check_there
from his4mae_jax.training.step.state import TrainState

ENCODERS = ("student", "teacher")


def checkpoint_every(config: ml_collections.ConfigDict) -> int:
    """Returns the number of steps between checkpoints: `train.checkpoint_every`, or a tenth of the run."""
    return config.train.checkpoint_every or max(1, -(-total_steps(config) // 10))


class Checkpoints:
    """The checkpoints of one workdir.

    The newest three are kept, and `train.keep_checkpoints` spread evenly over the run, on which the curve of DSC over
    training is scored.

    Attributes:
      path: the folder.
      every: steps between checkpoints.
    """

    def __init__(self, workdir: PathLike, config: ml_collections.ConfigDict, *, together: bool = False):
        """Opens the folder, which is made if it is missing.

        Args:
          workdir: of the run.
          config: the whole configuration of the run.
          together: where several processes share the run: True for all that train, which save and restore at the
            same time; False for a process that reads by itself.
        """
        self.path: Place = place(workdir).absolute() / "checkpoints"
        self.every = checkpoint_every(config)
        kept = max(1, config.train.keep_checkpoints)
        self._period = -(-total_steps(config) // (kept * self.every)) * self.every
        bucket = isinstance(self.path, BucketPath)
        self._mirror = Mirror(self.path, self._kept) if bucket else None
        local = self._mirror.local if bucket else self.path
        alone = jax.process_count() == 1
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1 if bucket else 3,
            keep_period=None if bucket else self._period,
            enable_async_checkpointing=True,
            create=False,
            **({} if alone or together and not bucket else checkpoint_items.by_itself(read_only=not together)),
        )
        with writing(self.path):
            local.mkdir(parents=True, exist_ok=True)
            try:
                self._manager = ocp.CheckpointManager(local, options=options)
            except (ValueError, TypeError, RecursionError) as error:
                raise self._damaged(checkpoint_items.damaged_step(local), error) from error

    def steps(self) -> list[int]:
        """Returns the steps with a whole checkpoint, ascending; partly written ones do not count."""
        return self._mirror.steps() if self._mirror else sorted(self._manager.all_steps())

    def _kept(self, steps: list[int]) -> set[int]:
        """Which of all steps are kept in a bucket, as orbax keeps them on a disk."""
        return {*steps[-3:], *(step for step in steps if step % self._period == 0)}

    def spread(self) -> list[int]:
        """Returns the steps kept evenly over the run, and the last: the points of the curve over training."""
        steps = self.steps()
        return [step for step in steps if step % self._period == 0 or step == steps[-1]]

    def check_space(self, state: TrainState) -> None:
        """Checks that the disk has room for one more checkpoint.

        This comes before each save, because errors in orbax's threads do not say what to do.

        Raises:
          UserError: it has not, or the workdir is gone.
        """
        check_there(self.path)
        folder = self._mirror.local if self._mirror else self.path
        need = sum(x.nbytes for x in jax.tree.leaves(state)) + (1 << 20)
        free = shutil.disk_usage(folder).free
        if free < need:
            raise UserError(
                f"{folder}: no space left on the device: a checkpoint needs {need / 1e6:.1f} MB and "
                f"{free / 1e6:.1f} MB are free; free some and run the same command again"
            )

    def save(self, step: int, state: TrainState, about: dict[str, Any]) -> None:
        """Starts to save a copy of the state, which is written while training goes on.

        Args:
          step: of the state.
          state: what to save.
          about: JSON values to save beside it.

        Raises:
          UserError: the disk has no room.
        """
        if self._mirror:
            self.wait()
            if jax.process_index() > 0:
                return  # every process has the whole state, and the first one sends it
            if jax.process_count() > 1:
                state = jax.device_get(state)
        self.check_space(state)
        items = checkpoint_items.split(state)
        about = checksums.added(about, items)
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        with writing(self.path):
            self._manager.save(step, args=ocp.args.Composite(about=ocp.args.JsonSave(about), **args), force=True)
            if self._mirror:
                self._mirror.send(step, self._manager.wait_until_finished)

    def restore(self, step: int, like: TrainState, sharding: Sharding) -> tuple[TrainState, dict[str, Any]]:
        """Reads one checkpoint whole.

        Args:
          step: one of `steps()`.
          like: a state of the same structure, such as `state_like` returns.
          sharding: of all arrays.

        Returns:
          `(state, about)`.

        Raises:
          UserError: the checkpoint is damaged.
        """
        several = self._mirror is not None and jax.process_count() > 1  # each reads the whole for itself
        first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        own = first if several else sharding
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=own), checkpoint_items.split(like)
        )
        args = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        restored = self._restore(step, ocp.args.Composite(about=ocp.args.JsonRestore(), **args))
        state = checkpoint_items.join(restored, like)
        return checkpoint_items.spread(state, sharding) if several else state, restored["about"]

    def _restore(self, step: int, args: ocp.args.Composite) -> Any:
        try:
            if self._mirror:
                self._mirror.fetch(step, args.keys())
            restored = self._manager.restore(step, args=args)
            checkpoint_items.check_about(restored["about"])
            checksums.check(restored)
        except UserError:
            raise
        except Exception as error:
            raise self._damaged(step, error) from error
        return restored

    def _damaged(self, step: int | None, error: Exception) -> UserError:
        if step is None:
            return UserError(f"{self.path}: cannot be read ({type(error).__name__}: {error}); move what is not ours")
        return UserError(
            f"{self.path / str(step)}: this checkpoint cannot be read ({type(error).__name__}); delete that "
            "folder to go on from the one before it"
        )

    def restore_encoder(self, step: int, which: str, like: Any, sharding: Sharding) -> tuple[Any, dict[str, Any]]:
        """Reads one encoder, for inference on any number of devices.

        Args:
          step: one of `steps()`.
          which: one of `ENCODERS`.
          like: parameters of the same structure.
          sharding: of all arrays.

        Returns:
          `(params, about)`.

        Raises:
          UserError: the checkpoint is damaged.
        """
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
        args = ocp.args.Composite(about=ocp.args.JsonRestore(), **{which: ocp.args.StandardRestore(wanted)})
        restored = self._restore(step, args)
        return restored[which], restored["about"]

    def about(self, step: int) -> dict[str, Any]:
        """Returns the JSON item of one checkpoint."""
        return self._restore(step, ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]

    def wait(self) -> None:
        """Waits until all saves are on disk, and raises the errors they had."""
        with writing(self.path):
            if self._mirror:
                self._mirror.wait()
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` does, and closes the folder."""
        try:
            self.wait()
            self._manager.close()
        finally:
            if self._mirror:
                self._mirror.close()


def read_config(workdir: PathLike) -> dict[str, Any] | None:
    """Returns the saved `config.json` of a run as a dict; None if there is none."""
    path = place(workdir) / "config.json"
    try:
        saved = parse_json(path.read_bytes())
        if not is_saved(saved):
            raise ValueError("not the settings of a run")
        return saved
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: damaged ({error}); delete it and train again with the config of this run, which writes it and "
            "goes on from the last checkpoint, or use another workdir"
        ) from error


def check_workdir(workdir: PathLike, config: ml_collections.ConfigDict) -> None:
    """Checks that a workdir holds no training with other settings.

    Raises:
      UserError: it does; names the first setting that differs.
    """
    saved = read_config(workdir)
    if saved is None:
        return
    saved, now = flat_settings(saved), flat_settings(config.to_dict())
    for key, value in now.items():
        if fixed_by_training(key, config.method) and saved[key] != value:
            raise UserError(
                f"{workdir}: holds a run of another config ({key} was {saved[key]!r}, now {value!r}); use another "
                "workdir, or the config of that run"
            )


def shared_config(workdir: PathLike) -> dict[str, Any]:
    """Returns content and time of `config.json`, for `check_same`: equal on all processes if they share the workdir."""
    path = place(workdir) / "config.json"
    if isinstance(path, BucketPath):
        return {f"{path}": [read_config(workdir), path.version()]}
    return {f"{path}": [read_config(workdir), path.stat().st_mtime_ns if path.exists() else None]}


def initial_in_memory_gb(workdir: PathLike, config: ml_collections.ConfigDict) -> float:
    """Returns the `data.in_memory_gb` that the training in a workdir began with; for a new one, that of `config`."""
    saved = read_config(workdir)
    return config.data.in_memory_gb if saved is None else flat_settings(saved)["data.in_memory_gb"]


def write_config(workdir: PathLike, config: ml_collections.ConfigDict, *, in_memory_gb: float | None = None) -> None:
    """Writes `config.json`, whole or not at all.

    Args:
      workdir: of the run.
      config: the whole configuration.
      in_memory_gb: written in place of the configured one: that with which the training began.
    """
    path, settings = place(workdir) / "config.json", config.to_dict()
    if in_memory_gb is not None:
        settings["data"]["in_memory_gb"] = in_memory_gb
    with writing(workdir):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
