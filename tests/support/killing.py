"""SIGKILL of real processes, again and again, while what they have done grows."""

import random
import signal
import time


def kills(start, times, progress, *, more=(1,), pause=0.5, look=0.02, after=lambda: None):
    """Kills processes at random moments; returns how often, which is less where one has ended before.

    Args:
      start: starts a process, which goes on from what the one before it did.
      times: how often, at most.
      progress: how much is done; -1: nothing has begun.
      more: how much more than before is waited for; one of these, at random.
      pause: seconds at most between that and the kill, at random.
      look: seconds between two looks at the progress.
      after: called after each kill.
    """
    rng = random.Random(0)
    for killed in range(times):
        process, before, limit = start(), max(progress(), 0), time.monotonic() + 200
        enough = before + rng.choice(more)
        while process.poll() is None and progress() < enough and time.monotonic() < limit:
            time.sleep(look)
        time.sleep(rng.uniform(0, pause))
        if process.poll() is not None:
            return killed
        process.send_signal(signal.SIGKILL)
        process.wait()
        after()
    return times
