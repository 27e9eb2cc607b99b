"""Several processes as one run: they find each other, wait for each other, and end together.

One process drives all accelerators of its host. `initialise` reads from the environment whether a launcher started
several:

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID   set by hand, or by launch/gke_gpu.yaml
    SLURM_*                                                       in a step that srun started
    TPU_WORKER_HOSTNAMES, or Google's metadata server             on hosts with TPUs

For SLURM and TPUs `jax.distributed.initialize` then finds addresses and process numbers by its own detection. Arrays
that all processes share go through XLA; this module is for the host's side.
"""

import collections
import enum
import glob
import hashlib
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from orbax.checkpoint import multihost

from his4mae_jax.errors import UserError
from his4mae_jax.training.devices.mesh import batch_sharding, replicated

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_NODES", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
EXIT_DELAY = 5  # seconds that process 0 waits before it ends after an error
MAX_WAIT = 7 * 24 * 3600  # seconds that a process may wait for the others: process 0 scores while they do
_reached: collections.Counter[str] = collections.Counter()  # barriers of each name


def has_tpu_chips() -> bool:
    """Returns whether this host has TPUs that JAX can use."""
    return bool(importlib.util.find_spec("libtpu") and (glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")))


def detect(environ: Mapping[str, str], has_tpu: bool) -> tuple[str, dict[str, Any]] | None:
    """Finds out whether a launcher started several processes.

    Args:
      environ: environment variables.
      has_tpu: whether the host has TPUs.

    Returns:
      `(launcher, arguments of jax.distributed.initialize)`, the launcher's name being for the log; None for a process
      that is alone.

    Raises:
      UserError: variables contradict each other.
    """
    if environ.get("JAX_NUM_PROCESSES") or environ.get("JAX_PROCESS_ID"):
        return _explicit(environ)
    if all(environ.get(name) for name in SLURM):
        processes, nodes = _number(environ, "SLURM_NTASKS", 1), _number(environ, "SLURM_STEP_NUM_NODES", 1)
        if processes == 1:
            return None
        # JAX would give each process one GPU, by its number on the node. Where a node runs one process, or SLURM
        # shows each process its own GPU, all visible ones are meant, for which JAX wants an empty tuple.
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


def _explicit(environ: Mapping[str, str]) -> tuple[str, dict[str, Any]] | None:
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
        "coordinator_address": address,
        "num_processes": count,
        "process_id": index,
        "cluster_detection_method": "deactivate",
    }


def _number(environ: Mapping[str, str], name: str, least: int) -> int:
    try:
        value = int(environ[name])
    except ValueError:
        value = least - 1
    if value < least:
        raise UserError(f"environment variable {name} is {environ[name]!r}: give a whole number of at least {least}")
    return value


def initialise(environ: Mapping[str, str] = os.environ) -> str | None:
    """Joins the other processes of the run, if there are any; to be called before JAX is used.

    Args:
      environ: environment variables.

    Returns:
      The launcher's name; None for a process that is alone.

    Raises:
      UserError: the others cannot be reached, or variables contradict each other.
    """
    detected = detect(environ, has_tpu_chips())
    if detected is None:
        return None
    launcher, arguments = detected
    # JAX's handler of SIGTERM would replace that of training/run/preemption.py.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**arguments, shutdown_timeout_seconds=MAX_WAIT)
    except (RuntimeError, ValueError, OSError) as error:  # XLA's errors are RuntimeErrors
        where = arguments.get("coordinator_address", f"the address found by {launcher}")
        raise UserError(
            f"cannot join the other processes of this run at {where} ({str(error).splitlines()[0][:200]}); check that "
            "all were started, that the port is free on the first host and that no firewall is between them"
        ) from error
    return launcher


def is_main() -> bool:
    """Returns whether this is process 0, which alone writes logs, metrics and figures."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has reached this barrier. Signals can interrupt the wait.

    Args:
      name: of the barrier; all processes come to those of one name equally often.
    """
    if jax.process_count() == 1:
        return
    _reached[name] += 1
    sync, key = multihost.get_barrier_sync_fn(), f"his4mae/{name} {_reached[name]}"
    _in_thread(lambda: sync(key=key, timeout_ms=MAX_WAIT * 1000))


def of_first(values: np.ndarray) -> np.ndarray:
    """The values of process 0, on all processes.

    Args:
      values: numbers; those of other processes count for their shape and dtype alone.
    """
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    barrier("values of the first")  # a collective would not wait so long
    return np.asarray(multihost_utils.broadcast_one_to_all(values))


def compiled_together(function: Callable, name: str) -> Callable:
    """Returns a jitted function after whose compilation the processes wait for each other.

    Otherwise the first to have compiled it would wait in a collective, which times out after 30 seconds on CPUs.

    Args:
      function: jitted; always called with the same shapes.
      name: of the barrier.
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


def check_same(facts: Mapping[str, Any]) -> None:
    """Checks that all processes have the same facts.

    Args:
      facts: JSON values by what they are, as an error message names them.

    Raises:
      UserError: on all processes, if a fact differs on any.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    texts = [json.dumps(value, sort_keys=True, default=str) for value in facts.values()]
    digests_Fx32 = np.stack([np.frombuffer(hashlib.sha256(t.encode()).digest(), np.uint8) for t in texts])
    digests_PxFx32 = multihost_utils.process_allgather(digests_Fx32)
    differs_PxF = (digests_PxFx32 != digests_PxFx32[0]).any(axis=2)
    for name, text, differs_P in zip(facts, texts, differs_PxF.T, strict=True):
        if differs_P.any():
            raise UserError(
                f"{name} is not the same on processes 0 and {int(differs_P.argmax())} ({text[:80]} on process "
                f"{jax.process_index()}): start all with the same command, and give them one workdir, and data, on a "
                "file system that all hosts share"
            )


class Request(enum.IntEnum):
    """What a process asks all to do after a dispatch; what is larger includes what is smaller."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


class Agreement:
    """The largest `Request` of any process: the same answer on all, without waiting for any.

    A single process answers at once. Several reduce their flags on the devices, dispatch by dispatch, and read the
    result of the dispatch before, as metrics are read: the accelerator never waits for the host.
    """

    def __init__(self, mesh: Mesh):
        self._pending = None
        self._alone = jax.process_count() == 1
        if not self._alone:
            split, count = batch_sharding(mesh), jax.local_device_count()
            flags = {request: np.full(count, request, np.int32) for request in Request}
            self._flags = {flag: jax.make_array_from_process_local_data(split, x) for flag, x in flags.items()}
            self._largest = jax.jit(jnp.max, in_shardings=split, out_shardings=replicated(mesh))

    def __call__(self, request: Request) -> Request:
        """Returns what all do now; to be called by all processes equally often.

        Args:
          request: of this process.
        """
        if self._alone:
            return request
        before, self._pending = self._pending, self._largest(self._flags[request])
        self._pending.copy_to_host_async()
        return Request.NOTHING if before is None else Request(int(np.asarray(before)))


def shut_down() -> None:
    """Waits until all processes have called this, then disconnects. Signals can interrupt the wait."""
    if jax.distributed.is_initialized():
        _in_thread(jax.distributed.shutdown)


def _in_thread(wait: Callable[[], object]) -> None:
    """Calls a function that waits within XLA in a thread: Python would handle no signals meanwhile."""
    failed = []

    def call():
        try:
            wait()
        except Exception as error:  # raised below, in the thread that waits
            failed.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failed:
        raise failed[0]


def leave(status: int) -> None:
    """Ends this process now, with an exit status.

    One of several does not wait for the others: they are waiting for it, and the launcher ends them when it is gone.
    Process 0, without which all others end at once, gives them a moment to print the same error.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if is_main():
            time.sleep(EXIT_DELAY)
        os._exit(status)
    sys.exit(status)
