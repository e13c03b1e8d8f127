"""Hands memory that is free already back to the system."""
from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Release the pages that reading a large file left free in the C library's pools.

    glibc keeps what was freed below its top for later; after 860,000 annotations this is 110 MB, which every
    forked worker would seem to share and no one would use. Does nothing on other C libraries.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
