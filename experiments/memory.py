"""How much memory an allocation may take, asked before it is made."""

import os
from pathlib import Path

from dflare.errors import InputError

COPIES = 2
"""A set of images is held twice while it is cut into sides."""

_GIB = 2**30


def check_memory(size: int, what: str) -> None:
    """Raise `InputError` when `size` bytes, held twice, are more than what the machine has left; `what` names them."""
    left = available()
    if left is not None and COPIES * size > left:
        raise InputError(
            f"expected images that fit in memory, but {what} would take {COPIES * size / _GIB:.3g} GiB and "
            f"{left / _GIB:.3g} GiB are left; use fewer or smaller ones"
        )


def available() -> int | None:
    """Bytes of memory that a process may still take: the machine's, or its container's limit; None where unknown."""
    known = [size for size in (_of_machine(), _of_container()) if size is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    """Linux's own estimate of what can be taken without swapping; elsewhere all of the memory."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):  # neither file nor name is there on every system
        return None


def _of_container() -> int | None:
    """The limit of the control group (version 2) that the process runs in."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # no such file, or the word "max"
        return None
