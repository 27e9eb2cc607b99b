"""Memory of the host that stays with the process between steps on a CPU.

XLA's CPU backend asks malloc for the memory of every call and gives it back after it. glibc returns what is
large to the system at once, and in the next call the system clears it anew, page by page: for a training step of
the paper's model, with 1.4 GB of it, a fifth of the processor's time.
"""

import ctypes
import sys

# Of malloc.h: trim never, map nothing by itself, one arena for all threads (others hold 64 MB at most).
SETTINGS = ((-1, -1), (-4, 0), (-8, 1))


def keep():
    """Have malloc keep freed memory for the next call; the process stays as large as it once was.

    To be called before JAX starts its threads, which is when it is first asked for its devices or an array.
    Returns whether it could be done: only glibc has it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # musl has the function and does nothing in it.
    return (
        mallopt is not None
        and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
        and all(mallopt(option, value) == 1 for option, value in SETTINGS)
    )
