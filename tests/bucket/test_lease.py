"""A lock in a bucket: one holder, which is known to live or to be gone."""

import json
import subprocess
import sys
import threading

import pytest

from his4mae_jax.bucket import lease, probe
from his4mae_jax.bucket.lease import HeldError, Lease, check_held
from his4mae_jax.bucket.path import place
from his4mae_jax.errors import UserError
from his4mae_jax.training.run.run_lock import RunLock


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("LEASE", 1.0), ("RENEW", 0.1), ("LOOK", 0.05)):
        monkeypatch.setattr(lease, name, seconds)


def _elsewhere(path, **more):
    """The lock of a process on another machine."""
    path.write_text(json.dumps({"holder": "process 7 on pod-1", "machine": "another", "pid": 7, **more}))


def test_two_runs_and_the_one_after(folder):
    said = []
    first = Lease(folder / "lock", said.append)
    with pytest.raises(HeldError, match=r"process \d+ on "):
        Lease(folder / "lock", said.append)
    assert "looking whether it lives" in said[0] and len(said) == 1
    check_held(folder / "a")
    first.release()
    assert not folder.exists()
    Lease(folder / "lock", said.append).release()


def test_one_line_for_a_second_run(folder):
    with RunLock(folder) as lock:
        lock.take()
        with pytest.raises(UserError, match=f"{folder}: another process trains in this workdir .process"):
            RunLock(folder).take()


def test_a_holder_that_is_gone_on_this_machine_is_known_at_once(folder, monkeypatch):
    monkeypatch.setattr(lease, "LEASE", 1e6)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    _elsewhere(folder / "lock", machine=lease._machine(), pid=int(gone.stdout))
    Lease(folder / "lock", print).release()


def test_one_elsewhere_is_waited_for(folder):
    _elsewhere(folder / "lock")
    taken = Lease(folder / "lock", print)
    assert json.loads((folder / "lock").read_bytes())["machine"] == lease._machine()
    taken.release()


def test_of_those_that_take_over_one_does(google, clean):  # conditions of moto's puts do not hold between threads
    folder = place("gs://cells/several")
    _elsewhere(folder / "lock")
    taken, refused = [], []

    def take():
        try:
            taken.append(Lease(folder / "lock", print))
        except HeldError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1 and len(refused) == 3
    taken[0].release()


def test_a_holder_that_was_taken_over_ends(folder):
    taken = Lease(folder / "lock", print)
    _elsewhere(folder / "lock")
    taken._thread.join(10)
    with pytest.raises(UserError, match="its lock is gone"):
        check_held(folder / "checkpoints" / "4")
    check_held(folder.parent / f"{folder.name}2")
    taken.release()
    assert (folder / "lock").exists()  # it is another one's


def test_without_conditions_nothing_is_locked(faulty):
    faulty(0, hidden=("If-None-Match", "If-Match"))
    folder = place("s3://cells/unlocked")
    assert not probe.is_conditional(folder)
    for _ in range(2):
        Lease(folder / "lock", print)
    assert not folder.exists()
