"""Memory that is freed stays with the process: called once by every command that trains or adds up models.

glibc gives large blocks back to the system as soon as they are freed, and a training step or a round asks for the same
blocks again at once, zeroed page by page. That is the largest single cost of a step of the 224 x 224 CNN (1769 ms with,
659 ms without) and about a fifth of masking a model of a million weights.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def tune() -> bool:
    """Keep freed memory (glibc's `mallopt`). False, and nothing changes, where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
