"""Memory on the CPU: what a step has freed stays the process's own, for the next step.

glibc hands large blocks back to the kernel and takes them anew at every step, page by page: a third of the time of a
full fine-tune (docs/decisions/0012). https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1  # bytes that must lie free at the top before they go back


def keep_freed_memory() -> None:
    """Does nothing where the C library is another one."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
