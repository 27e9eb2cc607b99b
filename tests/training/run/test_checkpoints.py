"""Checkpoints: whole states come back, encoders alone too, and damage is told in one line."""

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from his4mae_jax.errors import UserError
from his4mae_jax.training.run.checkpoints import Checkpoints, checkpoint_every
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.settings import StepSettings


@pytest.fixture
def saved(tiny, tmp_path):
    """Checkpoints at every fifth step of a state whose leaves tell the step."""
    tiny.train.steps, tiny.train.checkpoint_every, tiny.train.keep_checkpoints = 60, 5, 3
    state = jax.jit(lambda: states.create(StepSettings.from_config(tiny)))()
    checkpoints = Checkpoints(tmp_path, tiny)
    for step in range(5, 61, 5):
        numbered = jax.tree.map(lambda x, step=step: (x * 0 + step).astype(x.dtype), state)
        checkpoints.save(step, numbered, {"seconds": step / 10, "config": tiny.to_dict(), "voxel_size_nm": 8.0})
    checkpoints.wait()
    yield checkpoints, state
    checkpoints.close()


HERE = SingleDeviceSharding(jax.devices()[0])


def test_the_whole_state_comes_back(saved):
    checkpoints, like = saved
    state, about = checkpoints.restore(60, jax.eval_shape(lambda: like), HERE)
    assert jax.tree.structure(state) == jax.tree.structure(like)
    assert all((np.asarray(x) == 60).all() for x in jax.tree.leaves(state))
    assert about["seconds"] == 6.0 and about["config"]["train"]["steps"] == 60


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_one_encoder_is_restored_without_the_rest(saved, which):
    checkpoints, like = saved
    params, _ = checkpoints.restore_encoder(40, which, jax.eval_shape(lambda: like.teacher), HERE)
    assert jax.tree.structure(params) == jax.tree.structure(like.teacher)
    assert all((np.asarray(x) == 40).all() for x in jax.tree.leaves(params))


def test_the_newest_and_a_few_spread_over_the_run_are_kept(saved):
    checkpoints, _ = saved
    assert checkpoints.steps() == [20, 40, 50, 55, 60]
    assert checkpoints.spread() == [20, 40, 60]


def test_a_damaged_checkpoint_names_its_folder(saved):
    checkpoints, like = saved
    for path in (checkpoints.path / "60" / "student").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(UserError, match=r"checkpoints/60.*delete that folder"):
        checkpoints.restore(60, jax.eval_shape(lambda: like), HERE)


def test_a_disk_without_room_is_told_before_saving(saved, monkeypatch):
    checkpoints, like = saved
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="no space left"):
        checkpoints.save(65, like, {})
    assert checkpoints.steps()[-1] == 60


def test_a_tenth_of_the_run_between_checkpoints_by_default(tiny):
    tiny.train.steps = 95
    assert checkpoint_every(tiny) == 10
