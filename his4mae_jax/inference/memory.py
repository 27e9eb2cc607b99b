"""Memory of a long segmentation: freed blocks go back to the system."""

import ctypes

# Of mallopt(3): few arenas for small blocks, and large ones mapped, so that they go back at once: a decoded chunk of
# 64^3 bytes is the least of those. XLA's products ask for blocks between 128 KiB and that all the time, and would wait
# for the system each time; so they would if an arena gave back its end whenever 128 KiB there are free, glibc's own
# limit, unless blocks freed before have raised it (docs/performance.md).
SETTINGS = {"M_ARENA_MAX": (-8, 2), "M_MMAP_THRESHOLD": (-3, 64**3), "M_TRIM_THRESHOLD": (-1, 32 << 20)}


def return_what_is_freed():
    """Have glibc return every block of 256 KiB or more when it is freed, and keep few arenas for smaller ones.

    By itself it raises that size with each block that is freed, up to 32 MiB. Chunks and tiles that come and go in
    several threads then leave gaps, more of them the more tiles there are (docs/performance.md).
    """
    set_malloc(SETTINGS)


def set_malloc(settings):
    """Set glibc's malloc by `{name: (number of the option, value)}` of mallopt(3). Elsewhere nothing is done."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in settings.values():
        mallopt(option, value)
