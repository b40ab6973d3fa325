"""What a process that handles a file from outside may take, so that the file costs that process at most."""

import os
import resource

NICENESS = 5
MEMORY_BYTES = 1536 << 20
"""Private memory. Mapped files do not count, but those that are mapped to be written to do (torch's): hence `input`."""
CPU_S = 600
CPU_BYTES_PER_S = 1 << 20
"""And a second more for each so many bytes of the file."""
DESCRIPTORS = 256


def limit(input_bytes: int) -> None:
    """Of this process, for good. input_bytes: of the files that it is to read."""
    os.nice(NICENESS)
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_DATA, MEMORY_BYTES + input_bytes)
    _set(resource.RLIMIT_CPU, CPU_S + input_bytes // CPU_BYTES_PER_S)
    _set(resource.RLIMIT_NOFILE, DESCRIPTORS)


def _set(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))
