"""glibc's malloc during a long segmentation: freed blocks go back to the system."""

import ctypes
from collections.abc import Mapping

# Options of mallopt(3). A decoded chunk of 64^3 bytes is the smallest block that is mapped, so that it goes back to the
# system as soon as it is freed. XLA's matmuls allocate blocks of 128 KiB to 256 KiB all the time: mapping those too, or
# trimming the heap at glibc's own limit of 128 KiB, would cost a system call for each (docs/performance.md).
SETTINGS = {"M_ARENA_MAX": (-8, 2), "M_MMAP_THRESHOLD": (-3, 64**3), "M_TRIM_THRESHOLD": (-1, 32 << 20)}


def return_freed_memory() -> None:
    """Have glibc return every block of 256 KiB or more as soon as it is freed, and keep few arenas for smaller ones.

    By default glibc raises that threshold with each block that is freed, up to 32 MiB. Chunks and tiles that come and
    go in several threads then fragment the heap, the more so the more tiles there are (docs/performance.md). The
    setting is one of the whole process, so the command makes it and no library function does.
    """
    set_malloc(SETTINGS)


def set_malloc(settings: Mapping[str, tuple[int, int]]) -> None:
    """Set options of glibc's malloc. On systems without mallopt(3) nothing is done.

    Args:
      settings: `{name: (number of the option, value)}`.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in settings.values():
        mallopt(option, value)
