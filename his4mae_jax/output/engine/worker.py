"""What a Dask worker keeps of a job, and the tasks that it is given. Needs the package distributed."""

import functools
import hashlib
import importlib.metadata
import pathlib
import pickle
import platform
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from distributed import Worker, WorkerPlugin, get_worker

import his4mae_jax
from his4mae_jax.errors import UserError, friendly_memory_error
from his4mae_jax.files import friendly_io_error

MOST = 5000  # characters of a traceback that are sent


class OpenJob(Protocol):
    """A job as a worker has opened it; tasks call its methods by name."""

    def end(self) -> None:
        """Nothing more is to be written."""


@functools.cache
def version() -> str:
    """The program that runs here, with a hash of its sources: workers of another one would label otherwise."""
    digest, folder = hashlib.sha256(), pathlib.Path(his4mae_jax.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    packages = (f"{name} {importlib.metadata.version(name)}" for name in ("jax", "distributed"))
    python = ".".join(platform.python_version_tuple()[:2])
    return f"his4mae_jax {his4mae_jax.__version__} ({digest.hexdigest()[:8]}), {', '.join(packages)}, Python {python}"


def place(worker: Worker) -> str:
    """A worker, in words, to be called on it."""
    return f"worker {worker.address} on {socket.gethostname()}"


def check_version(other: str, where: str) -> None:
    """Checks that a worker runs what the client does.

    Args:
      other: `version()` of the client.
      where: the worker.

    Raises:
      UserError: it does not.
    """
    if other != version():
        raise UserError(
            f"{where} runs {version()}, and this command {other}: install the same on all, and start the workers again"
        )


def look(other: str, dask_worker: Worker | None = None) -> str | None:
    """What keeps a worker from taking part, as the client asks it by `Client.run`; None: nothing."""
    try:
        check_version(other, place(dask_worker))
    except UserError as error:
        return str(error)
    return None


class JobPlugin(WorkerPlugin):
    """Opens a job on a worker with the first of its tasks, once, and keeps it until the client lets go of it."""

    def __init__(self, job: str, build: Callable[[Any], OpenJob], recipe: Any) -> None:
        """Args:
        job: id of the job.
        build: opens it, a function of a module.
        recipe: its argument; small.
        """
        self.name, self._version = f"his4mae {job}", version()
        # Unpacked by the first task: that imports JAX, for which the worker's loop, which unpacks this, need not wait.
        self._packed = pickle.dumps((build, recipe))

    def setup(self, worker: Worker) -> None:
        """Called when the worker gets the plugin, also one that comes later."""
        self._lock, self._opened, self._place = threading.Lock(), None, place(worker)

    def teardown(self, worker: Worker) -> None:
        """Called when the client is done, or gone: a tile that is being computed is not written any more."""
        if self._opened is not None:
            self._opened.end()

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the opened job, in any of the worker's threads.

        Raises:
          UserError: the worker cannot take part, or a disk or a device refuses; names the worker.
          RuntimeError: any other error, as text.
        """
        try:
            with self._lock:
                if self._opened is None:
                    check_version(self._version, self._place)
                    build, recipe = pickle.loads(self._packed)
                    self._opened = build(recipe)
            return getattr(self._opened, method)(*arguments)
        except Exception as error:
            plain = self._plain(error)
        raise plain  # here, without what led to it: an error that cannot be sent would be waited for forever

    def _plain(self, error: Exception) -> Exception:
        if isinstance(error, UserError):
            return UserError(f"{error} ({self._place})")
        memory = friendly_memory_error(error)
        friendly = UserError(memory) if memory else friendly_io_error(error, "a disk")
        if friendly is None:
            return RuntimeError(f"{self._place}:\n{traceback.format_exc()[-MOST:]}")
        return UserError(f"{friendly} ({self._place})")


def task(job: str, method: str, *arguments: Any) -> Any:
    """What the scheduler gives out: calls `JobPlugin.call` of a job on the worker that gets it."""
    return get_worker().plugins[f"his4mae {job}"].call(method, *arguments)
