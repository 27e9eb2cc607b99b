"""The client of a Dask cluster whose workers label the tiles of a job. Needs the package distributed.

The scheduler gives out tiles one by one, and those of a worker that is lost once more. What is done is on disk, with
its marker, before a worker reports it: nothing is lost with the scheduler or with this process.
"""

import contextlib
import json
import logging
import pathlib
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distributed import Client, KilledWorker, as_completed
from distributed.comm import CommClosedError

from his4mae_jax.errors import UserError
from his4mae_jax.output.engine import worker
from his4mae_jax.progress import Log

CONNECT = 30  # seconds that a scheduler has to answer
POLL, TICK = 0.05, 2.0  # seconds between looks at results, and between calls of `tick`
TRIES = 3  # times that a tile whose workers were all lost (`distributed.scheduler.allowed-failures`) is given out anew
_GRAPH = "deserialization of the task graph"  # in the error of a scheduler that does not know our functions


@contextlib.contextmanager
def connected(scheduler: str, log: Log) -> Iterator["Cluster"]:
    """Connects to a scheduler; within the `with` block its workers can be given work.

    Args:
      scheduler: its address, or the path of its scheduler file.
      log: prints one line.

    Raises:
      UserError: none answers there.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is told below, in one line
    address = _address(scheduler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions, which `worker.look` compares
            client = Client(address, timeout=CONNECT, set_as_default=False, name="his4mae")
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # a TimeoutError is an OSError
        raise UserError(
            f"config key segment.scheduler is {scheduler!r}: no Dask scheduler answers at {address} "
            f"({_short(error)}); start one with `dask scheduler`, or correct the address"
        ) from error
    cluster = Cluster(client, address, log)
    try:
        yield cluster
    finally:
        cluster.let_go()
        with contextlib.suppress(Exception):
            client.close(timeout=5)


def _address(scheduler: str) -> str:
    """The address in a scheduler file, or the one that was given."""
    if "://" in scheduler:
        return scheduler
    try:
        return str(json.loads(pathlib.Path(scheduler).read_text("utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"config key segment.scheduler is {scheduler!r}: neither an address such as 'tcp://host:8786' nor a "
            f"scheduler file, as `dask scheduler` writes it ({_short(error)})"
        ) from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class Cluster:
    """The workers of one scheduler, those that come later too.

    Attributes:
      address: of the scheduler.
    """

    def __init__(self, client: Client, address: str, log: Log) -> None:
        self.address, self._client, self._log = address, client, log
        self._plugin: worker.JobPlugin | None = None
        self._futures: set[Any] = set()
        self._job = ""

    def count(self) -> int:
        """Number of workers now."""
        return len(self._client.nthreads())

    def begin(self, job: str, build: Callable[[Any], worker.OpenJob], recipe: Any) -> None:
        """Tells all workers, also those to come, how to open a job; they do so with the first task that they get.

        Args:
          job: its id.
          build, recipe: see `worker.JobPlugin`.

        Raises:
          UserError: a worker runs another program, or none.
        """
        with self._explained():
            for where, answer in self._client.run(worker.look, worker.version(), on_error="return").items():
                if answer is None or isinstance(answer, OSError):  # it is gone since
                    continue
                if isinstance(answer, Exception):
                    answer = (
                        f"worker {where} has no his4mae_jax, or another version ({_short(answer)}): install the same "
                        "on all, and start the workers again"
                    )
                raise UserError(answer)
            self._job, self._plugin = job, worker.JobPlugin(job, build, recipe)
            self._client.register_plugin(self._plugin)
            count = self.count()
        there = f"{count} worker{'s' * (count > 1)}" if count else "no worker yet: work begins when one comes"
        self._log(f"segment: Dask scheduler {self.address}, {there}")

    def results(self, method: str, items: Sequence[Any], tick: Callable[[], object] = lambda: None) -> Iterator[Any]:
        """Calls a method of the opened job for each item, on whichever worker is free.

        Args:
          method: its name.
          items: its arguments, small.
          tick: called now and then.

        Yields:
          What it returned, in the order in which it did.

        Raises:
          UserError: a worker raised one, workers are lost again and again, or the scheduler is gone.
        """
        run, waiting = uuid.uuid4().hex[:8], as_completed(loop=self._client.loop, with_results=True, raise_errors=False)
        tries: dict[str, tuple[Any, int]] = {}

        def give_out(items: Sequence[Any], count: int) -> None:
            keys = [f"his4mae-{method}-{item}-{run}-{count}" for item in items]
            tries.update(zip(keys, ((item, count) for item in items), strict=True))
            futures = self._client.map(
                worker.task, [self._job] * len(items), [method] * len(items), items, key=keys, pure=False
            )
            self._futures.update(futures)
            waiting.update(futures)

        with self._explained():
            if items:
                give_out(items, 1)
            ticked = time.monotonic()
            while waiting.count():
                for future, result in waiting.next_batch(block=False) or [(None, None)]:
                    if time.monotonic() - ticked > TICK:
                        tick()
                        ticked = time.monotonic()
                    if future is None:
                        time.sleep(POLL)
                        continue
                    self._futures.discard(future)
                    # A result that came is good, whatever has become of the worker that had it.
                    if future.status != "error" and not isinstance(result, BaseException):
                        yield result
                        continue
                    item, count = tries.pop(future.key)
                    self._again(future, f"tile {item}" if method == "label" else f"{method} {item}", count)
                    give_out([item], count + 1)

    def _again(self, future: Any, what: str, count: int) -> None:
        """Raises why a task failed, unless all workers that had it were lost, and not too often yet."""
        if future.status != "error":
            if self._client.status != "running" or count == TRIES:
                raise UserError(self._gone())
            return  # its worker was lost before it handed the result over; what it marked is not done again
        error = future.exception()
        if not isinstance(error, KilledWorker):
            raise error
        if count == TRIES:
            raise UserError(
                f"{what}: every worker that had it was lost, {error.last_worker.address} last; if it ran out of "
                "memory, lower segment.tile or segment.batch_fovs, or start fewer workers on a machine; finished tiles "
                "are kept"
            )
        self._log(f"segment: warning: several workers that had {what} were lost; it is given out again")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the connection as one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if _GRAPH in str(error):
                raise UserError(
                    f"the Dask scheduler at {self.address} lacks his4mae_jax, or has another version: start it in the "
                    f"environment of this command ({worker.version()})"
                ) from error
            if self._client.status != "running" or isinstance(error, (CommClosedError, TimeoutError)):
                raise UserError(self._gone()) from error
            raise

    def _gone(self) -> str:
        return (
            f"the Dask scheduler at {self.address} is gone; start it and its workers again, and give the same command: "
            "finished tiles are kept"
        )

    def let_go(self) -> None:
        """Takes back what was given out, and lets workers close the job."""
        if self._client.status != "running":
            return
        with contextlib.suppress(Exception):  # a scheduler that is gone has nothing to take back
            if self._futures:
                self._client.cancel(list(self._futures), force=True)
            if self._plugin is not None:
                self._client.unregister_worker_plugin(self._plugin.name)
