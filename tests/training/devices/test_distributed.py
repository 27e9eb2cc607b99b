"""One run on one device, on eight, and in two processes of four: same numbers, stopped together, gone on with anywhere.

Float32 sums taken in another order differ in the last digit, and training carries that on. After 60 steps losses and
the norm of the gradient agree to `LOSS` (measured: 1e-7), what depends on the choice of codes to `CODES`, or to `ATOL`
where it is tiny (1e-3 and 3e-5: tokens that lie between two codes go here or there), and arrays of the state to `STATE`
of their largest value (3e-4). On the same topology everything is equal bit for bit.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from outputs import outputs

from his4mae_jax import main
from his4mae_jax.config import get_default
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.training.devices import distributed
from his4mae_jax.training.run import preemption

LOSS, CODES, ATOL, STATE = 1e-5, 1e-2, 1e-4, 3e-3
TOPOLOGIES = {"one": (1, 1), "eight": (1, 8), "two": (2, 4)}


@pytest.fixture(scope="module")
def done(runs):
    """`done(topology)`: its run to the end, once; outputs of its processes. Two processes go on to the scores."""
    outputs = {}

    def get(name):
        if name not in outputs:
            outputs[name] = runs.run(name, *TOPOLOGIES[name], f"--mode={'all' if name == 'two' else 'train'}")
        return outputs[name]

    return get


def close(runs, a, b, stopped_at=0):
    """Logs and states of two runs agree to the tolerances; one of them may have been stopped after a step."""
    # The line of the window in which it was stopped means the steps after that alone.
    cut = -(-stopped_at // 5) * 5
    logs = [{line["step"]: line for line in runs.log(name)} for name in (a, b)]
    assert max(logs[0]) == max(logs[1]) == 60
    tolerances = dict.fromkeys(("loss", "loss_recon", "grad_norm"), LOSS)
    tolerances |= dict.fromkeys(("loss_tea", "loss_stu", "perplexity", "dead_fraction"), CODES)
    for key, tolerance in tolerances.items():
        values = [[line[step].get(key, 0.0) for step in logs[0] if step != cut] for line in logs]
        np.testing.assert_allclose(*values, rtol=tolerance, atol=ATOL if tolerance == CODES else 1e-7, err_msg=key)
    (step_a, state_a), (step_b, state_b) = runs.state(a), runs.state(b)
    assert step_a == step_b == 60

    def compare(path, x, y):
        name = jax.tree_util.keystr(path)
        if "qkv" in name and "bias" in name:
            # Softmax does not see a bias of the keys: its gradient is rounding, which Adam makes steps of.
            x, y = (np.delete(v, slice(len(v) // 3, 2 * len(v) // 3)) for v in (x, y))
        np.testing.assert_allclose(x, y, rtol=0, atol=STATE * (np.abs(x).max() or 1.0), err_msg=name)

    jax.tree_util.tree_map_with_path(compare, (state_a.params, state_a.teacher), (state_b.params, state_b.teacher))


def same(runs, a, b):
    """The states of two runs are equal bit for bit."""
    (step_a, state_a), (step_b, state_b) = runs.state(a), runs.state(b)
    assert step_a == step_b == 60
    jax.tree.map(np.testing.assert_array_equal, state_a, state_b)


@pytest.mark.parametrize("name", ["eight", "two"])
def test_the_numbers_are_those_of_one_device(runs, done, name):
    done("one"), done(name)
    close(runs, "one", name)


def test_one_process_of_several_speaks_writes_and_scores(runs, done):
    first, other = done("two")
    assert "2 of 4 devices each" in first and "8 x cpu" in first and "mesh {'data': 8}" in first
    assert "evaluate" in first and "one-to-one" in first and "figure: " in first
    # Gloo counts peers, from several threads that mix up the words of its lines.
    gloo = r"\[Gloo\]|Rank|is connected to|Expected number of|connected peer ranks|peer ranks|is|[\d\s.:]"
    assert re.sub(gloo, "", other) == ""
    folder = runs.folder / "two"
    assert [line["step"] for line in runs.log("two")] == list(range(5, 65, 5))
    assert len(list((folder / "tensorboard").glob("events*"))) == 1
    assert json.loads((outputs(folder) / "metrics.json").read_text())["clusters"] == 4


def test_labels_that_processes_made_together_are_those_of_one(runs, done, tmp_path, monkeypatch):
    done("two")
    folder = runs.folder / "two"
    for name in ("config.json", "checkpoints"):
        (shutil.copytree if name == "checkpoints" else shutil.copy)(folder / name, tmp_path / name)
    spec = {}
    exec(runs.config.read_text(), spec)
    main.run(spec["get_config"](), str(tmp_path), "segment")
    read = lambda p: open_volume(outputs(p) / "labels.ome.zarr", image=False).read((slice(None),) * 3)  # noqa: E731
    np.testing.assert_array_equal(read(folder), read(tmp_path))


@pytest.fixture(scope="module")
def stopped(runs):
    """A run of two processes of which one was told to stop; of both the output."""
    started = runs.start("stopped", 2, 4, "--mode=train")
    statuses, outputs = runs.stop(started, "stopped", 10, which=1)
    assert statuses == [preemption.EXIT_STATUS] * 2, outputs
    assert runs.state("stopped")[0] < 60
    shutil.copytree(runs.folder / "stopped", runs.folder / "elsewhere")
    return outputs


def test_all_processes_save_and_stop_at_one_step_and_go_on_as_if_never_stopped(runs, done, stopped):
    step = runs.state("stopped")[0]
    assert f"step {step} of 60 is saved" in stopped[0] and "Traceback" not in stopped[0] + stopped[1]
    first, _ = runs.run("stopped", 2, 4, "--mode=train")
    assert f"going on from step {step} of 60" in first
    done("two")
    same(runs, "stopped", "two")


def test_a_checkpoint_of_two_processes_is_gone_on_with_by_one(runs, done, stopped):
    step = runs.state("elsewhere")[0]
    runs.run("elsewhere", 1, 8, "--mode=train")
    done("two")
    close(runs, "two", "elsewhere", step)


@pytest.mark.slow
def test_a_checkpoint_of_one_device_is_gone_on_with_by_two_processes(runs, done):
    """Stopped by the signal that SLURM sends before its limit."""
    statuses, outputs = runs.stop(runs.start("alone", 1, 1, "--mode=train"), "alone", 10, 0, signal.SIGUSR1)
    assert statuses == [preemption.EXIT_STATUS] and "SIGUSR1" in outputs[0], outputs
    assert "Traceback" not in outputs[0]
    step = runs.state("alone")[0]
    runs.run("alone", 2, 4, "--mode=train")
    done("one")
    close(runs, "one", "alone", step)


SRUN = """#!{python}
# Starts the two tasks of a job on this machine, as srun does on two nodes; the status is the highest.
import os, subprocess, sys
tasks = []
for index in range(2):
    env = dict(os.environ, SLURM_PROCID=str(index), SLURM_LOCALID="0", SLURM_NTASKS="2", SLURM_STEP_NUM_NODES="2",
               SLURM_STEP_NODELIST="localhost,other")
    tasks.append(subprocess.Popen([a for a in sys.argv[1:] if a != "--kill-on-bad-exit=1"], env=env))
sys.exit(max(t.wait() for t in tasks))
"""


def test_a_slurm_job_runs_as_two_processes(runs, tmp_path):
    """The script of the job itself, up to the refusal that tells hosts without an accelerator."""
    srun = tmp_path / "srun"
    srun.write_text(SRUN.format(python=sys.executable))
    srun.chmod(0o755)
    env = runs.environment(4, SLURM_JOB_ID=str(os.getpid()), PYTHON=sys.executable)
    env["PATH"] = f"{tmp_path}{os.pathsep}{env['PATH']}"
    root = os.path.dirname(os.path.dirname(main.__file__))
    job = ["bash", "launch/slurm_job.sh", str(runs.config), str(tmp_path / "run"), "--mode=train"]
    ended = subprocess.run(job, cwd=root, env=env, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 2, ended.stderr
    assert "processes: 2 of 4 devices each, found by SLURM" in ended.stderr
    assert ended.stderr.count("train.require_accelerator is True") == 2  # each for itself
    assert not (tmp_path / "run").exists()


def test_processes_that_do_not_share_their_workdir_are_refused(runs):
    other = {1: [f"--workdir={runs.folder / 'there'}"]}
    statuses, outputs = runs.wait(runs.start("here", 2, 1, "--mode=train", each=other))
    assert statuses == [2, 2], outputs
    for output in outputs:
        assert "config.json is not the same on processes 0 and 1" in output and "share" in output
    assert not list((runs.folder / "here").glob("checkpoints/*"))


def test_a_signal_ends_a_wait_within_xla():
    def stop(number, frame):
        raise KeyboardInterrupt

    before, began = signal.signal(signal.SIGALRM, stop), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            distributed._in_thread(lambda: time.sleep(5))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < 3


# Who the other processes are, by the environment alone.

ADDRESS = "node1:1234"
EXPLICIT = {"JAX_COORDINATOR_ADDRESS": ADDRESS, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
STEP = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "tpu"),
    [
        ({}, False),
        ({**EXPLICIT, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, False),
        ({**STEP, "SLURM_NTASKS": "1"}, False),
        ({k: v for k, v in STEP.items() if "STEP" not in k}, False),  # a batch script without srun
        ({"TPU_WORKER_HOSTNAMES": "host-0"}, True),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, False),  # libtpu or the chips are not there
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1", "JAX_PLATFORMS": "cpu"}, True),
        ({"TPU_SKIP_MDS_QUERY": "1"}, True),
    ],
)
def test_a_process_that_is_alone(environ, tpu):
    assert distributed.detect(environ, tpu) is None


@pytest.mark.parametrize(
    ("environ", "tpu", "how", "ids"),
    [
        (EXPLICIT, False, "environment", None),
        ({**STEP, **EXPLICIT}, True, "environment", None),
        (STEP, False, "SLURM", ()),
        ({**STEP, "SLURM_NTASKS": "8"}, False, "SLURM", None),  # one of the node's GPUs each
        ({**STEP, "SLURM_NTASKS": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, False, "SLURM", None),
        ({**STEP, "SLURM_NTASKS": "8", "CUDA_VISIBLE_DEVICES": "3"}, False, "SLURM", ()),  # SLURM shows each its own
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True, "GKE TPU", None),
        ({"TPU_WORKER_HOSTNAMES": "host-0", "MEGASCALE_NUM_SLICES": "2"}, True, "GKE TPU", None),
        ({}, True, "Cloud TPU", None),
    ],
)
def test_launchers_are_told_apart(environ, tpu, how, ids):
    found, arguments = distributed.detect(environ, tpu)
    assert found == how and arguments.get("local_device_ids") == ids


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"JAX_NUM_PROCESSES": ""}, "JAX_NUM_PROCESSES"),
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID"),
        ({"JAX_COORDINATOR_ADDRESS": ""}, "JAX_COORDINATOR_ADDRESS"),
        ({"JAX_NUM_PROCESSES": "two"}, "'two'"),
        ({"JAX_NUM_PROCESSES": "0"}, "'0'"),
        ({"JAX_PROCESS_ID": "2"}, "0 to 1"),
        ({"JAX_COORDINATOR_ADDRESS": "node1"}, "host:port"),
        ({"JAX_COORDINATOR_ADDRESS": "node1:x"}, "host:port"),
    ],
)
def test_variables_that_do_not_go_together_are_named(change, word):
    with pytest.raises(UserError, match=word):
        distributed.detect({**EXPLICIT, **change}, has_tpu=False)


def test_modes_for_one_process_are_refused_for_several(monkeypatch, tmp_path):
    for name, value in EXPLICIT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="--mode=compare is for one process"):
        main.run(get_default(), str(tmp_path / "run"), "compare")
