"""Training runs: the same state however steps are grouped, whatever cuts the samples, and through a resume."""

import json
import time

import jax
import numpy as np
import pytest

from his4mae_jax.config import total_steps
from his4mae_jax.errors import UserError
from his4mae_jax.training.devices.mesh import make_mesh, replicated
from his4mae_jax.training.run import loop, save_clock
from his4mae_jax.training.run.checkpoints import Checkpoints
from his4mae_jax.training.step.dispatch import StepPrograms
from his4mae_jax.training.step.state import state_like


class Memory:
    name, voxel_size_nm = "volume", (10.0,) * 3

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, slices):
        return self.array[slices].copy()


@pytest.fixture(scope="module")
def volumes():
    rng = np.random.default_rng(0)
    return [
        Memory(rng.integers(0, 255, (40, 45, 50), dtype=np.uint8)),
        Memory(rng.integers(0, 900, (24, 60, 30)).astype(np.uint16)),
    ]


@pytest.fixture
def config(tiny):
    """20 steps: epochs of 4, the codebook placed before step 7, checkpoints every 9 steps."""
    tiny.train.checkpoint_every, tiny.codebook.start = 9, 0.35
    return tiny


def final_state(config, workdir):
    checkpoints = Checkpoints(workdir, config)
    state, _ = checkpoints.restore(total_steps(config), state_like(config), replicated(make_mesh()))
    checkpoints.close()
    return jax.device_get(state)


def log_of(workdir):
    lines = [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in lines]


def run(config, volumes, workdir, sampler="host", per_dispatch=1):
    config.data.sampler, config.train.steps_per_call = sampler, per_dispatch
    messages = []
    loop.train(config, volumes, workdir, messages.append)
    return messages


@pytest.fixture(scope="module")
def reference(volumes, tmp_path_factory):
    """State and log of a run of single steps, fed by the host."""
    found = {}

    def get(config):
        if not found:
            workdir = tmp_path_factory.mktemp("reference")
            run(config, volumes, workdir)
            found["run"] = final_state(config, workdir), log_of(workdir)
        return found["run"]

    return get


def wrap_advance(monkeypatch, wrap):
    """Make runs call `wrap(advance)` in place of `StepPrograms.advance`."""

    class Wrapped(StepPrograms):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            self.advance = wrap(self.advance)

    monkeypatch.setattr(loop, "StepPrograms", Wrapped)


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(("sampler", "per_dispatch"), [("host", 4), ("device", 1), ("device", 6)])
def test_the_final_state_is_the_same_bit_for_bit(config, volumes, reference, tmp_path, sampler, per_dispatch):
    messages = run(config, volumes, tmp_path, sampler, per_dispatch)
    state, log = reference(config)
    equal(final_state(config, tmp_path), state)
    assert log_of(tmp_path) == log
    assert any(
        f"{per_dispatch} in a dispatch" in m and f"{sampler} sampler" in m and "mesh {'data': 1}" in m for m in messages
    )


@pytest.mark.parametrize(("sampler", "per_dispatch"), [("host", 5), ("device", 4)])
def test_a_run_stopped_in_the_middle_goes_on_to_the_same_state(
    config, volumes, reference, tmp_path, sampler, per_dispatch, monkeypatch
):
    class Stop(Exception):
        pass

    def stop_midway(advance):
        steps = 0

        def stopping(state, data, count, ready):
            nonlocal steps
            steps += count
            if steps > 14:  # in the middle between two checkpoints, of which the first is to be whole
                deadline = time.time() + 60
                while not (tmp_path / "checkpoints" / "9").exists() and time.time() < deadline:
                    time.sleep(0.01)
                raise Stop
            return advance(state, data, count, ready)

        return stopping

    wrap_advance(monkeypatch, stop_midway)
    with pytest.raises(Stop):
        run(config, volumes, tmp_path, sampler, per_dispatch)
    monkeypatch.undo()
    messages = run(config, volumes, tmp_path, "host" if sampler == "device" else "device", 3)
    assert "going on from step 9" in messages[0]
    state, log = reference(config)
    equal(final_state(config, tmp_path), state)
    assert [line["step"] for line in log_of(tmp_path)] == [line["step"] for line in log]


@pytest.mark.parametrize("per_dispatch", [1, 4])
def test_a_resident_run_moves_nothing_between_host_and_device(config, volumes, tmp_path, per_dispatch, monkeypatch):
    """Once compiled, calls are given what is on the device already."""
    guarded = []

    def guard(advance):
        warm = set()

        def guarded_advance(state, data, count, ready):
            if count in warm:
                guarded.append(count)
                with jax.transfer_guard("disallow"):
                    return advance(state, data, count, ready)
            warm.add(count)
            return advance(state, data, count, ready)

        return guarded_advance

    wrap_advance(monkeypatch, guard)
    run(config, volumes, tmp_path, "device", per_dispatch)
    assert len(guarded) >= (15 if per_dispatch == 1 else 2)
    with jax.transfer_guard("disallow"), pytest.raises(Exception, match="[Dd]isallowed"):
        jax.jit(lambda x: x + 1)(np.float32(1))  # the guard does guard on this backend


def test_a_loss_that_is_not_finite_is_told_and_not_saved(config, volumes, tmp_path):
    config.train.lr, config.train.warmup = 1e38, 0.0
    with pytest.raises(UserError, match=r"not finite at step \d+; lower config key train.lr"):
        run(config, volumes, tmp_path, "host", 1)
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]


def test_training_goes_on_while_a_checkpoint_is_written(config, volumes, reference, tmp_path, monkeypatch):
    """A disk that has not finished the save of step 9 until step 18 holds no step up, and gets step 9's state.

    Steps donate their state: what is written must be a copy.
    """
    import threading

    import orbax.checkpoint as ocp

    undisturbed, _ = reference(config)  # before anything is patched: it may be this test that makes it
    go, save, steps, states_at = threading.Event(), ocp.StandardCheckpointHandler.async_save, [], {}

    class SlowDisk(ocp.future.Future):
        def __init__(self, written):
            self._written = written

        def result(self, timeout=None):
            assert go.wait(60)
            return self._written.result(timeout)

    async def slow_save(self, *args, **kwargs):
        return [SlowDisk(written) for written in await save(self, *args, **kwargs)]

    def watch(advance):
        def step(state, data, count, ready):
            first = int(state.step)
            state, metrics = advance(state, data, count, ready)
            steps.append((first, go.is_set()))
            if first + count == 9:
                states_at[9] = jax.device_get(jax.tree.map(lambda x: x.copy(), state))
            if first + count == 17:
                assert not Checkpoints(tmp_path, config).steps()  # nothing is whole yet
                go.set()
            return state, metrics

        return step

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "async_save", slow_save)
    wrap_advance(monkeypatch, watch)
    run(config, volumes, tmp_path)
    assert [first for first, finished in steps if not finished and first >= 9] == list(range(9, 17))
    equal(final_state(config, tmp_path), undisturbed)
    checkpoints = Checkpoints(tmp_path, config)
    saved, _ = checkpoints.restore(9, jax.eval_shape(lambda: states_at[9]), replicated(make_mesh()))
    checkpoints.close()
    equal(jax.device_get(saved), states_at[9])


@pytest.mark.parametrize(
    ("method", "codebook", "cases"),
    [("his4mae", True, [False, True]), ("his4mae", False, [False, True]), ("maester", True, [True])],
)
def test_only_who_distils_later_has_a_time_before_it(config, volumes, tmp_path, monkeypatch, method, codebook, cases):
    """On accelerators each case is a program of its own, to be compiled."""
    config.method, config.codebook.enabled, seen = method, codebook, []

    def note(advance):
        def noting(state, data, count, ready):
            seen.append(ready)
            return advance(state, data, count, ready)

        return noting

    wrap_advance(monkeypatch, note)
    run(config, volumes, tmp_path, per_dispatch=6)
    assert sorted({bool(ready) for ready in seen}) == cases


def test_slow_runs_are_saved_by_time(config, volumes, reference, tmp_path, monkeypatch):
    """Each dispatch takes a minute of a clock that the test drives."""
    config.train.checkpoint_every, config.train.checkpoint_minutes = 100, 4.0
    now, saved = [0.0], []
    monkeypatch.setattr(save_clock, "monotonic", lambda: now[0])

    def minute(advance):
        def advancing(*args):
            now[0] += 60
            return advance(*args)

        return advancing

    wrap_advance(monkeypatch, minute)
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, *rest: (saved.append(step), save(self, step, *rest)))
    run(config, volumes, tmp_path)
    # Not right after the one before: of several processes that request could be from before it.
    assert saved == [4, 8, 12, 16, 20]


def test_a_run_goes_on_with_other_memory_and_checkpoint_settings(config, volumes, reference, tmp_path):
    """Microbatches change only the rounding; what is kept, and when, does not change the samples."""
    state, log = reference(config)
    config.train.steps_per_call = 1

    class Stop(Exception):
        pass

    workdir = tmp_path
    with pytest.MonkeyPatch.context() as patch:
        wrap_advance(patch, lambda advance: _stop_after(advance, 12, workdir / "checkpoints" / "9", Stop))
        with pytest.raises(Stop):
            run(config, volumes, workdir)
    config.train.microbatch, config.train.checkpoint_every, config.train.keep_checkpoints = 2, 4, 1
    config.data.in_memory_gb, config.train.log_every = 1e-6, 5
    messages = run(config, volumes, workdir)
    assert any("going on from step 9" in message for message in messages)
    resumed = final_state(config, workdir)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), resumed.params, state.params)
    assert [line["step"] for line in log_of(workdir)] == [line["step"] for line in log]


def _stop_after(advance, last, path, error):
    """`advance` until `last` steps are done; then `error`, once the checkpoint at `path` is whole."""
    done = 0

    def stopping(state, data, count, ready):
        nonlocal done
        done += count
        if done > last:
            deadline = time.time() + 60
            while not path.exists() and time.time() < deadline:
                time.sleep(0.01)
            raise error
        return advance(state, data, count, ready)

    return stopping
