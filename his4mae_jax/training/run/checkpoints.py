"""Orbax checkpoints: atomic, asynchronous, and quick to open for inference.

Each holds the items `student` and `teacher` (the encoders), `rest` (all other state) and
`about` (JSON: config, voxel size, seconds trained). Inference reads one encoder and `about`.
"""

import json
import os
import pathlib
import shutil

import jax
import orbax.checkpoint as ocp

from his4mae_jax.config import flat_settings, total_steps
from his4mae_jax.errors import UserError
from his4mae_jax.files import writing

ENCODERS = ("student", "teacher")


def checkpoint_every(config):
    """Steps between checkpoints: as configured, or a tenth of the run."""
    return config.train.checkpoint_every or max(1, -(-total_steps(config) // 10))


def _split(state):
    """The state's three array items; together they hold every leaf once."""
    params = {k: v for k, v in state.params.items() if k != "encoder"}
    return {
        "student": state.params["encoder"],
        "teacher": state.teacher,
        "rest": {
            "step": state.step, "params": params, "opt_state": state.opt_state, "codes": state.codes,
        },
    }  # fmt: skip


def _join(items, like):
    rest = dict(items["rest"])
    params = {**rest.pop("params"), "encoder": items["student"]}
    return like.replace(params=params, teacher=items["teacher"], **rest)


def _alone():
    """Options of a reader that waits for no other process."""
    own = jax.process_index()
    processes = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )
    return {"read_only": True, "multiprocessing_options": processes}


class Checkpoints:
    """The checkpoints of one workdir.

    The newest three are kept, and `train.keep_checkpoints` spread evenly over the run: the
    curve of DSC over training is scored on those. Where several processes share the run, those that train open
    the checkpoints `together`, and save and restore at the same time; a process that only reads does so by itself.
    """

    def __init__(self, workdir, config, *, together=False):
        self.path = pathlib.Path(workdir).absolute() / "checkpoints"
        self.every = checkpoint_every(config)
        kept = max(1, config.train.keep_checkpoints)
        self._period = -(-total_steps(config) // (kept * self.every)) * self.every
        options = ocp.CheckpointManagerOptions(
            max_to_keep=3, keep_period=self._period, enable_async_checkpointing=True, create=False,
            **({} if together or jax.process_count() == 1 else _alone()),
        )  # fmt: skip
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.path, options=options)

    def steps(self):
        """Steps with a whole checkpoint, ascending; partly written ones do not count."""
        return sorted(self._manager.all_steps())

    def spread(self):
        """The evenly kept steps and the last: what the curve over training is drawn from."""
        steps = self.steps()
        return [step for step in steps if step % self._period == 0 or step == steps[-1]]

    def check_space(self, state):
        """Raise `UserError` unless the disk holds one more checkpoint.

        Asked before each save: what fails in orbax's threads can only be told untidily.
        """
        need = sum(x.nbytes for x in jax.tree.leaves(state)) + (1 << 20)
        free = shutil.disk_usage(self.path).free
        if free < need:
            raise UserError(
                f"{self.path}: no space left on the device: a checkpoint needs {need / 1e6:.1f} MB and "
                f"{free / 1e6:.1f} MB are free; free some and run the same command again"
            )

    def save(self, step, state, about):
        """Start saving; training goes on while the copy is written."""
        self.check_space(state)
        args = {name: ocp.args.StandardSave(tree) for name, tree in _split(state).items()}
        with writing(self.path):
            self._manager.save(step, args=ocp.args.Composite(about=ocp.args.JsonSave(about), **args), force=True)

    def restore(self, step, like, sharding):
        """`(state, about)` of one step; `like` is a state of the same structure."""
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), _split(like))
        args = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        restored = self._restore(step, ocp.args.Composite(about=ocp.args.JsonRestore(), **args))
        return _join(restored, like), restored["about"]

    def _restore(self, step, args):
        try:
            return self._manager.restore(step, args=args)
        except Exception as error:
            raise UserError(
                f"{self.path / str(step)}: this checkpoint cannot be read ({type(error).__name__}); delete that "
                "folder to go on from the one before it"
            ) from error

    def restore_encoder(self, step, which, like, sharding):
        """`(params, about)`: one encoder, for inference on any number of devices."""
        wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
        args = ocp.args.Composite(about=ocp.args.JsonRestore(), **{which: ocp.args.StandardRestore(wanted)})
        restored = self._restore(step, args)
        return restored[which], restored["about"]

    def about(self, step):
        """The JSON item of one checkpoint."""
        return self._restore(step, ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]

    def wait(self):
        """Block until what was started is on disk; raises what went wrong in the background."""
        with writing(self.path):
            self._manager.wait_until_finished()

    def close(self):
        self.wait()
        self._manager.close()


def read_config(workdir):
    """The saved `config.json` as a dict; None if there is none."""
    path = pathlib.Path(workdir) / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); use another --workdir") from error


def shared_config(workdir):
    """What all processes of a run see of `config.json`, where they share the workdir."""
    path = pathlib.Path(workdir) / "config.json"
    return {f"{path}": [read_config(workdir), path.stat().st_mtime_ns if path.exists() else None]}


def began_with(workdir, config):
    """`data.in_memory_gb` that the training in a workdir began with; of one that begins, that of `config`."""
    saved = read_config(workdir)
    return config.data.in_memory_gb if saved is None else flat_settings(saved)["data.in_memory_gb"]


def write_config(workdir, config, *, in_memory_gb=None):
    """Save `config.json`, whole or not at all; with `data.in_memory_gb` as the training began with it, where given."""
    path, settings = pathlib.Path(workdir) / "config.json", config.to_dict()
    if in_memory_gb is not None:
        settings["data"]["in_memory_gb"] = in_memory_gb
    with writing(workdir):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".partial")
        part.write_text(json.dumps(settings, indent=2))
        os.replace(part, path)
