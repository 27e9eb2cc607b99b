"""What a checkpoint holds: the items of a state, and the JSON beside them."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from his4mae_jax.files import parse_json
from his4mae_jax.settings.table import is_saved
from his4mae_jax.training.step.state import TrainState
from his4mae_jax.workdir import checkpoint_steps


def split(state: TrainState) -> dict[str, Any]:
    """The three items of arrays, which together hold every leaf of the state once."""
    params = {k: v for k, v in state.params.items() if k != "encoder"}
    return {
        "student": state.params["encoder"],
        "teacher": state.teacher,
        "rest": {"step": state.step, "params": params, "opt_state": state.opt_state, "codes": state.codes},
    }


def join(items: dict[str, Any], like: TrainState) -> TrainState:
    """The inverse of `split`."""
    rest = dict(items["rest"])
    params = {**rest.pop("params"), "encoder": items["student"]}
    return like.replace(params=params, teacher=items["teacher"], **rest)


def by_itself(*, read_only: bool) -> dict[str, Any]:
    """Options of a process that reads, or writes, without waiting for the others."""
    own = jax.process_index()
    processes = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )
    return {"read_only": read_only, "multiprocessing_options": processes}


def check_about(about: Any) -> None:
    """Raises `ValueError` where the JSON item of a checkpoint has another shape than the one that is saved."""
    numbers = [about.get(key) for key in ("seconds", "voxel_size_nm")] if isinstance(about, dict) else [None]
    if not all(isinstance(number, (int, float)) for number in numbers) or not is_saved(about.get("config")):
        raise ValueError("not what is saved beside a checkpoint")


def spread(state: TrainState, sharding: Sharding) -> TrainState:
    """The same state on all devices of the run, from the whole that each process has."""

    def place(x: jax.Array) -> jax.Array:
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(place, state)


def damaged_step(folder: pathlib.Path) -> int | None:
    """The first step whose metadata are no JSON object, for which orbax cannot open the folder at all."""
    for step in checkpoint_steps(folder.parent):
        try:
            if not isinstance(parse_json((folder / str(step) / "_CHECKPOINT_METADATA").read_bytes()), dict):
                return step
        except (OSError, ValueError):
            return step
    return None
