"""Memory of a long segmentation: freed blocks go back to the system."""

import ctypes

MMAP_THRESHOLD, ARENA_MAX = -3, -8  # of mallopt(3)


def return_what_is_freed():
    """Have glibc return every block above 128 KiB when it is freed, and keep few arenas for smaller ones.

    By itself it raises that size with each block that is freed, up to 32 MiB. Chunks and tiles that come and go in
    several threads then leave gaps, more of them the more tiles there are (docs/performance.md). Elsewhere than
    with glibc nothing is done.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(MMAP_THRESHOLD, 128 * 1024)
    mallopt(ARENA_MAX, 2)
