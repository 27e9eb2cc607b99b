"""The script of a SLURM job that segments: scheduler, workers and command as real processes; srun is a stand-in."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from his4mae_jax.cli import stages

ROOT = pathlib.Path(__file__).parents[3]
DONE = pathlib.Path("volumes/cell/segment.partial/done")
# Starts the tasks of a step on this machine, as srun does on its nodes.
SRUN = """#!/usr/bin/env bash
trap 'kill $(jobs -p); wait; exit 143' TERM
for number in 0 1; do
    SLURM_LOCALID=$number "$@" &
done
wait
"""


@pytest.fixture
def job(run, tmp_path):
    """Function: starts the script of the job for a workdir."""
    for name, text in {"srun": SRUN, "scontrol": f"#!/bin/sh\necho $* >{tmp_path}/scontrol.said\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = dict(os.environ, PATH=path, PYTHON=sys.executable, SLURM_JOB_ID="7", JAX_PLATFORMS="cpu", PYTHONPATH=ROOT)

    def start(workdir):
        command = ["bash", "launch/slurm_job.sh", f"saved:{workdir}/config.json", workdir, "--mode=segment"]
        return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)

    return start


def test_a_slurm_job_segments_with_a_worker_for_each_task_and_is_queued_again(run, job, tmp_path):
    workdir = run.copy()
    with job(workdir) as process:
        limit = time.monotonic() + 100
        while not list((workdir / DONE).glob("*")):
            assert time.monotonic() < limit and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)  # to the script alone, as --signal=B:USR1@120 does
        said = process.communicate()[1]
    assert process.returncode == 75 and "2 workers" in said and "stopped by SIGTERM" in said, said
    assert (tmp_path / "scontrol.said").read_text() == "requeue 7\n"
    assert not list(workdir.glob("scheduler*"))
    limit = time.monotonic() + 20
    while subprocess.run(["pgrep", "-g", str(process.pid)], stdout=subprocess.DEVNULL).returncode == 0:
        assert time.monotonic() < limit, "processes are left"
        time.sleep(0.1)
    stages.run(run.config(), workdir, "segment")
    assert run.labels(workdir) == run.labels(run.local())
