"""Several processes as one run: finding each other, waiting for each other, leaving together.

One process drives all accelerators of its host. `initialise` finds the others by what the launcher tells in the
environment:

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID   set by hand, or by launch/gke_gpu.yaml
    SLURM_*                                                       of a step that srun started
    TPU_WORKER_HOSTNAMES, or Google's metadata server             on hosts with TPUs

Arrays that all processes share go through XLA; what is here is for the host's side.
"""

import glob
import hashlib
import importlib.util
import json
import os
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import multihost

from his4mae_jax.errors import UserError
from his4mae_jax.training.devices.mesh import batch_sharding, replicated

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_NODES", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
GRACE = 5  # seconds
LONG = 7 * 24 * 3600  # seconds that a process may wait for the others: process 0 scores while they do


def tpu_chips():
    """Whether this host has TPUs that JAX can use."""
    return bool(importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")))


def detect(environ, has_tpu):
    """`(how, arguments of jax.distributed.initialize)`, or None for a process that is alone.

    `how` names the launcher, for the log. Raises `UserError` for variables that do not go together.
    """
    if environ.get("JAX_NUM_PROCESSES") or environ.get("JAX_PROCESS_ID"):
        return _explicit(environ)
    if all(environ.get(name) for name in SLURM):
        processes, nodes = _number(environ, "SLURM_NTASKS", 1), _number(environ, "SLURM_STEP_NUM_NODES", 1)
        if processes == 1:
            return None
        # JAX would give each process the one GPU of its number on the node. Where a node runs one process, or
        # SLURM shows each its own, all that are visible are meant: no ids, but not None either.
        all_visible = processes == nodes or environ.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0
        return "SLURM", {"cluster_detection_method": "slurm", "local_device_ids": () if all_visible else None}
    if has_tpu and "tpu" in (environ.get("JAX_PLATFORMS") or "tpu").split(","):
        hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
        slices = environ.get("MEGASCALE_NUM_SLICES") or "1"
        if hosts:
            return None if "," not in hosts and slices == "1" else ("GKE TPU", {})
        return None if environ.get("TPU_SKIP_MDS_QUERY") else ("Cloud TPU", {})
    if environ.get("JAX_COORDINATOR_ADDRESS"):
        return _explicit(environ)
    return None


def _explicit(environ):
    missing = [name for name in EXPLICIT if not environ.get(name)]
    if missing:
        raise UserError(
            f"environment variable {missing[0]} is not set, and others of {', '.join(EXPLICIT)} are: set all three in "
            "every process, or none"
        )
    address = environ["JAX_COORDINATOR_ADDRESS"]
    count, index = _number(environ, "JAX_NUM_PROCESSES", 1), _number(environ, "JAX_PROCESS_ID", 0)
    if not address.rpartition(":")[0] or not address.rpartition(":")[2].isdigit():
        raise UserError(f"environment variable JAX_COORDINATOR_ADDRESS is {address!r}: give host:port of process 0")
    if index >= count:
        raise UserError(f"environment variable JAX_PROCESS_ID is {index}: give 0 to {count - 1} (JAX_NUM_PROCESSES)")
    if count == 1:
        return None
    return "environment", {
        "coordinator_address": address, "num_processes": count, "process_id": index,
        "cluster_detection_method": "deactivate",
    }  # fmt: skip


def _number(environ, name, least):
    try:
        value = int(environ[name])
    except ValueError:
        value = least - 1
    if value < least:
        raise UserError(f"environment variable {name} is {environ[name]!r}: give a whole number of at least {least}")
    return value


def initialise(environ=os.environ):
    """Join the other processes of the run, where there are any; returns how they were found, or None.

    To be called before JAX is used. Raises `UserError` where the others cannot be reached.
    """
    found = detect(environ, tpu_chips())
    if found is None:
        return None
    how, arguments = found
    # Its handler of SIGTERM would take the place of ours; training/run/preemption.py agrees on a step by itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**arguments, shutdown_timeout_seconds=LONG)
    except (RuntimeError, ValueError, OSError) as error:  # XLA's errors are RuntimeErrors
        where = arguments.get("coordinator_address", f"the address found by {how}")
        raise UserError(
            f"cannot join the other processes of this run at {where} ({str(error).splitlines()[0][:200]}); check that "
            "all were started, that the port is free on the first host and that no firewall is between them"
        ) from error
    return how


def is_main():
    """Whether this is process 0, which alone writes logs, metrics and figures."""
    return jax.process_index() == 0


def barrier(name):
    """Wait until every process has come to the barrier of this name; a name serves once."""
    multihost.get_barrier_sync_fn()(key=f"his4mae/{name}", timeout_ms=LONG * 1000)


def compiled_together(function, name):
    """`function` (jitted, always called with the same shapes), after whose compilation processes wait for each other.

    Else the first to be done would wait within a collective, and on CPUs that is given up after 30 seconds.
    """
    if jax.process_count() == 1:
        return function
    ready = None

    def call(*args):
        nonlocal ready
        if ready is None:
            ready = function.lower(*args).compile()
            barrier(f"compiled {name}")
        return ready(*args)

    return call


def check_same(facts):
    """Raise `UserError`, on all processes, unless all have the same `facts`: `{what: JSON value}`."""
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    texts = [json.dumps(value, sort_keys=True, default=str) for value in facts.values()]
    digests_Fx32 = np.stack([np.frombuffer(hashlib.sha256(t.encode()).digest(), np.uint8) for t in texts])
    digests_PxFx32 = multihost_utils.process_allgather(digests_Fx32)
    differs_PxF = (digests_PxFx32 != digests_PxFx32[0]).any(axis=2)
    for what, text, differs_P in zip(facts, texts, differs_PxF.T, strict=True):
        if differs_P.any():
            raise UserError(
                f"{what} is not the same on processes 0 and {int(differs_P.argmax())} ({text[:80]} on process "
                f"{jax.process_index()}): start all with the same command, and give them a --workdir and data on a "
                "file system that all hosts share"
            )


class Agreement:
    """Whether any process was told to stop: the same answer on all of them, without waiting for any.

    A process alone answers at once. Several reduce their notices on the devices, call by call, and read what
    the call before has found, as metrics are read: the accelerator never waits for the host.
    """

    def __init__(self, mesh):
        self._waiting = None
        self._alone = jax.process_count() == 1
        if not self._alone:
            split, share = batch_sharding(mesh), jax.local_device_count()
            own = {told: np.full(share, told, np.int32) for told in (False, True)}
            self._own = {told: jax.make_array_from_process_local_data(split, x) for told, x in own.items()}
            self._any = jax.jit(jnp.max, in_shardings=split, out_shardings=replicated(mesh))

    def __call__(self, told):
        """`told` is whether this process was; called by all processes equally often."""
        if self._alone:
            return told
        before, self._waiting = self._waiting, self._any(self._own[told])
        self._waiting.copy_to_host_async()
        return before is not None and bool(np.asarray(before))


def shut_down():
    """Wait until all processes have come here, then part. The wait can be interrupted by signals."""
    if not jax.distributed.is_initialized():
        return
    failed = []

    def shutdown():
        try:
            jax.distributed.shutdown()
        except Exception as error:  # raised below, in the thread that waits
            failed.append(error)

    # In a thread: within XLA's own wait Python would handle no signal.
    thread = threading.Thread(target=shutdown, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failed:
        raise failed[0]


def leave(status):
    """End this process now with `status`.

    One of several does not wait for the others: they wait for it, and the launcher ends them when it is gone. The
    first, without whom all others end at once, gives them a moment to tell the same error.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if is_main():
            time.sleep(GRACE)
        os._exit(status)
    sys.exit(status)
