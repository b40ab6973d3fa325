"""After a process has crashed: are the files that it had mapped still what they were?

A mapped file that somebody cuts off kills whoever reads it (SIGBUS), and a damaged index can lead a search out of its
bounds (SIGSEGV). The process is started again at once; whether it would only die again, another one finds out
meanwhile (`python -m app.recover --beside`): it closes a collection whose segment is damaged, and forgets an index.
"""

import logging
import signal
import subprocess
from collections.abc import Mapping

from app.children import exit_reason, start_child

log = logging.getLogger("seedvec.supervisor")
CRASHES = frozenset(-number for number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE))
BESIDE = "--beside"


class Inspector:
    """At most one inspection at a time; what crashes during one is looked into by the next."""

    def __init__(self, environment: Mapping[str, str], data: str, lock: int) -> None:
        self._environment = environment
        self._data = data
        self._lock = lock
        self._due = False
        self._process: subprocess.Popen[bytes] | None = None

    def crashed(self) -> None:
        self._due = True

    def look(self) -> None:
        """To be called now and then, and whenever a child has ended."""
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            self._process = None
            log.info("the data folder was verified (%s)", exit_reason(status))
        if not self._due:
            return
        self._due = False
        try:
            self._process = start_child(
                "app.recover", self._data, BESIDE, keep=(self._lock,), environment=self._environment
            )
        except OSError as error:
            log.error("the data folder cannot be verified: %s", error)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
