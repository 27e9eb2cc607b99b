"""Memory of a long segmentation: freed blocks go back to the system."""

import ctypes

# Of mallopt(3): few arenas for small blocks, and large ones mapped, so that they go back at once:
# a decoded chunk of 64^3 bytes is the least of those. XLA's products ask for blocks of half of that all the time, and
# would wait for the system each time (docs/performance.md).
SETTINGS = {"M_ARENA_MAX": (-8, 2), "M_MMAP_THRESHOLD": (-3, 64**3)}


def return_what_is_freed():
    """Have glibc return every block of 256 KiB or more when it is freed, and keep few arenas for smaller ones.

    By itself it raises that size with each block that is freed, up to 32 MiB. Chunks and tiles that come and go in
    several threads then leave gaps, more of them the more tiles there are (docs/performance.md). Elsewhere than
    with glibc nothing is done.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in SETTINGS.values():
        mallopt(option, value)
