"""The C library's heap, for engines that take and give back the same megabytes many times a second."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next tensor, in one heap for all threads started from now on.

    By default it gives blocks of some megabytes back to the kernel, which has to clear their pages when they are taken
    again: 3 % of Whisper's time on a CPU. Another C library goes on as it does.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)  # a further arena's heaps end at 64 MB, and what is larger is never kept
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
