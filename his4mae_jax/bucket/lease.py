"""A lock in a bucket: an object that names its holder, made by a conditional put and renewed while the holder lives.

Who finds it looks whether it is renewed. If it is not for `LEASE` seconds, by the clock of who looks, its holder is
gone and the lock is taken over, by a put on the condition that it is still the same. A holder on the same machine that
is gone is known at once.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from his4mae_jax.bucket.path import BucketPath
from his4mae_jax.bucket.probe import is_conditional
from his4mae_jax.errors import UserError

LEASE, RENEW, LOOK = 60.0, 15.0, 1.0  # seconds: without renewal until it ends, between renewals, between looks at it
_held: set["Lease"] = set()


class HeldError(Exception):
    """The lock is another one's; the text names its holder."""


class Lease:
    """The lock of a folder of a bucket, taken until `release`.

    On a store that takes no notice of conditions it protects nothing.
    """

    def __init__(self, path: BucketPath, log: Callable[[str], object]) -> None:
        """Takes it.

        Args:
          path: of the object.
          log: prints a line where a holder that may be gone is waited for.

        Raises:
          HeldError: another process holds it.
          UserError: the store cannot be reached, or refuses.
        """
        self._path, self._count, self.lost = path, 0, False
        self._about = {
            "holder": f"process {os.getpid()} on {socket.gethostname()}", "machine": _machine(), "pid": os.getpid(),
            "token": uuid.uuid4().hex,
        }  # fmt: skip
        self._end, self._thread = threading.Event(), None
        if not is_conditional(path.parent):
            return
        self._version = self._take(log)
        self._renewed = time.monotonic()
        _held.add(self)
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._thread.start()

    def covers(self, path: BucketPath) -> bool:
        """Whether a path is in the folder of the lock."""
        return f"{path}/".startswith(f"{self._path.parent}/")

    def _content(self) -> bytes:
        self._count += 1
        return json.dumps({**self._about, "renewed": self._count}).encode()

    def _take(self, log: Callable[[str], object]) -> dict[str, Any]:
        """Creates the object, or takes over one whose holder is gone; returns its version."""
        first, since, told = None, time.monotonic(), False
        while True:
            try:
                return self._path.put(self._content(), "create")
            except FileExistsError:
                there, version = _read(self._path), self._path.version()
            if version is None:
                continue
            holder = str(there.get("holder", "unknown"))[:100]
            if first not in (None, version):
                raise HeldError(holder)
            first = version
            if _is_gone(there) or time.monotonic() - since > LEASE:
                with contextlib.suppress(FileExistsError):
                    return self._path.put(self._content(), version)
                raise HeldError(holder)
            if not told:
                log(f"{self._path}: held by {holder}; looking whether it lives, for {LEASE:.0f} seconds at most")
                told = True
            time.sleep(LOOK)

    def _renew(self) -> None:
        while not self._end.wait(RENEW):
            try:
                self._version = self._path.put(self._content(), self._version)
                self._renewed = time.monotonic()
            except FileExistsError:
                self.lost = True
            except UserError:
                self.lost = time.monotonic() - self._renewed > LEASE
            if self.lost:
                return

    def release(self) -> None:
        """Gives the lock back."""
        if self._thread is None:
            return
        self._end.set()
        self._thread.join()
        _held.discard(self)
        if not self.lost:
            with contextlib.suppress(UserError):  # it ends by itself
                self._path.unlink(missing_ok=True)
        self._thread = None


def check_held(path: BucketPath) -> None:
    """Checks that no lock that this process took, and whose folder a path is in, was taken over.

    Raises:
      UserError: one was, as this process was stopped, or did not reach the store.
    """
    for lease in list(_held):
        if lease.lost and lease.covers(path):
            raise UserError(
                f"{path}: this process did not reach the store for {LEASE:.0f} seconds, so that its lock is gone; run "
                "the same command again: what is saved is kept"
            )


def _read(path: BucketPath) -> dict[str, Any]:
    try:
        there = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return there if isinstance(there, dict) else {}


def _machine() -> str:
    """A text that processes have in common which see each other's ids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            parts.append(file.read().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts) if len(parts) == 3 else ""


def _is_gone(there: dict[str, Any]) -> bool:
    """Whether the holder ran on this machine, and does not any more."""
    pid = there.get("pid")
    if not isinstance(pid, int) or not _machine() or there.get("machine") != _machine():
        return False
    if pid == os.getpid():  # of this process, or of the one before it in a container that was started again
        return not any(lease._about["token"] == there.get("token") for lease in _held)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
