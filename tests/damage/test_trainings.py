"""Trainings that share a workdir, lose it, or go wrong: one line, and nothing that is damaged is saved."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from his4mae_jax.errors import UserError
from his4mae_jax.files import lock_file
from his4mae_jax.training.devices import distributed
from his4mae_jax.training.run import loop
from his4mae_jax.training.run.run_lock import FILE, RunLock
from his4mae_jax.training.step.dispatch import StepPrograms
from his4mae_jax.workdir import checkpoint_steps

ROOT = pathlib.Path(__file__).parents[2]
HOLD = "import sys, pathlib; from his4mae_jax.files import lock_file; held = lock_file(pathlib.Path(sys.argv[1])); \
print('held', flush=True); sys.stdin.read()"


def change_states(monkeypatch, change):
    """Makes trainings call `change(step, state)` on the state after each dispatch."""

    class Changed(StepPrograms):
        def advance(self, state, *args):
            state, metrics = super().advance(state, *args)
            return change(int(state.step), state), metrics

    monkeypatch.setattr(loop, "StepPrograms", Changed)


def test_a_second_training_in_a_workdir_is_refused(runs):
    workdir = runs.copy("whole")
    shutil.rmtree(workdir / "checkpoints/2")
    log = (workdir / "train.jsonl").read_bytes()
    with RunLock(workdir):
        error = runs.run(workdir, "train")
        assert f"{workdir}: another process trains in this workdir (process {os.getpid()} on " in error
        assert (workdir / "train.jsonl").read_bytes() == log and checkpoint_steps(workdir) == [1]
    assert runs.run(workdir, "train") is None and checkpoint_steps(workdir) == [1, 2]


def test_a_new_workdir_is_locked_when_it_is_made(tmp_path):
    first, second = RunLock(tmp_path / "new"), RunLock(tmp_path / "new")
    with first, second:
        assert not (tmp_path / "new").exists()
        first.take(), first.take()
        with pytest.raises(UserError, match="another process trains in this workdir"):
            second.take()


def test_a_killed_process_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / FILE)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process trains"):
            RunLock(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with RunLock(tmp_path):
        assert lock_file(tmp_path / FILE, wait=False) is None


def test_of_several_processes_of_a_run_the_first_locks(tmp_path, monkeypatch):
    with RunLock(tmp_path):
        monkeypatch.setattr(distributed, "is_main", lambda: False)
        with RunLock(tmp_path):
            pass


def test_a_workdir_deleted_under_a_training_ends_it(runs, monkeypatch):
    workdir = runs.copy("whole")
    shutil.rmtree(workdir / "checkpoints")

    def delete(step, state):
        shutil.rmtree(workdir, ignore_errors=True)
        return state

    change_states(monkeypatch, delete)
    assert "deleted or moved while the training ran" in runs.run(workdir, "train", train__steps_per_call=1)
    assert not workdir.exists()


def test_a_workdir_deleted_under_a_segmentation_ends_it(runs, monkeypatch):
    from his4mae_jax.output.engine.markers import Markers

    workdir, mark = runs.copy("half"), Markers.mark

    def delete(job, *args):
        shutil.rmtree(workdir)
        mark(job, *args)

    monkeypatch.setattr(Markers, "mark", delete)
    assert "deleted or moved while tiles were written" in runs.run(workdir, "segment")


@pytest.mark.parametrize("part", ["params", "teacher", "opt_state"])
def test_a_state_that_is_not_finite_is_never_saved(runs, monkeypatch, part):
    """The loss of the step is finite: it is that of the parameters before the update."""
    workdir = runs.copy("whole")
    shutil.rmtree(workdir / "checkpoints/2")

    def spoil(step, state):
        leaves, tree = jax.tree.flatten(getattr(state, part))
        i = next(i for i, x in enumerate(leaves) if x.dtype == np.float32 and x.ndim == 1)
        leaves[i] = leaves[i].at[0].set(np.nan)
        return state.replace(**{part: jax.tree.unflatten(tree, leaves)})

    change_states(monkeypatch, spoil)
    error = runs.run(workdir, "train")
    assert "not finite after step 2, which is not saved" in error and "train.lr" in error
    assert checkpoint_steps(workdir) == [1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"segment__instances": ("nucleoli",)}, "segment.instances"),
        ({"segment__instances": (9,)}, "segment.instances"),
        ({"data__class_names": ("one",)}, "class_names"),
        ({"data__class_names": ()}, "class_names"),
        ({"segment__centres": "probe"}, "probe"),
    ],
)
def test_settings_of_late_stages_are_told_before_the_first(runs, tmp_path, changes, said):
    assert said in runs.run(tmp_path / "run", "all", **changes)
    assert not (tmp_path / "run" / "checkpoints").exists()
