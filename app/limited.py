"""What a process that handles a file from outside may take, so that the file costs that process at most."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.scheduling import stand_behind

NICENESS = 5
MEMORY_BYTES = 1536 << 20
"""Private memory. Mapped files do not count, but those that are mapped to be written to do (torch's): hence `input`."""
CPU_S = 600
OPENING_CPU_S = 60
"""Until the first row is asked for. HDF5 goes round for ever where an object of a file's global heap says that it has
no length: a minute of a process is lost to such a file, not ten."""
CPU_BYTES_PER_S = 1 << 20
"""And a second more for each so many bytes of the file."""
DESCRIPTORS = 256


def limit(input_bytes: int) -> None:
    """Of this process, for good. input_bytes: of the files that it is to read."""
    stand_behind(NICENESS)
    _set(resource.RLIMIT_CORE, 0)
    _set(resource.RLIMIT_DATA, MEMORY_BYTES + input_bytes)
    _set(resource.RLIMIT_CPU, CPU_S + input_bytes // CPU_BYTES_PER_S)
    _set(resource.RLIMIT_NOFILE, DESCRIPTORS)


@contextmanager
def opening(input_bytes: int) -> Iterator[None]:
    """What is done in here has less time: the kernel ends the process (SIGXCPU) whatever library it is in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = int(time.process_time()) + 1 + OPENING_CPU_S + input_bytes // CPU_BYTES_PER_S
    resource.setrlimit(resource.RLIMIT_CPU, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _set(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))
