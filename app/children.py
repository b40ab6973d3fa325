"""How a process of the server starts another one, and how that other one makes sure not to outlive it.

Children are fresh interpreters (`python -m …`): a fork after Faiss has used its threads hangs. Only workers that start
together are forked, by the first of them when it has imported everything and done nothing (`fork_sibling`). A child
calls `adopt()` first thing. It then dies with its parent in two ways, either of which is enough: the kernel's
PR_SET_PDEATHSIG, and the end of file on a pipe whose writing end only the parent holds. Measured without them:
workers went on answering after their supervisor had been killed.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

PARENT = "SEEDVEC_PARENT"
"""`<pid>:<descriptor of the life pipe>`, from a parent to its child, which takes it out of its environment at once."""

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PASSED_ON_S = 0.0002
"""Between two looks whether a new parent has been found, which takes 0.1 ms."""
ORPHANED = 70
"""Exit status of a child that finds its parent gone."""

_life: tuple[int, int] | None = None


def start_child(
    module: str,
    *arguments: str,
    keep: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    piped: bool = False,
) -> subprocess.Popen[bytes]:
    """Start `python -m module arguments` as a child that dies with this process, provided that it calls `adopt()`.

    keep: descriptors that the child inherits under the same numbers; environment: laid over this process's own;
    piped: its standard input and output are pipes of the caller's, who is to use them and close them.
    To be called on the main thread: PR_SET_PDEATHSIG fires when the thread that started the child ends.
    """
    life = _life_pipe()
    # From its first moment, not from `adopt` on, which comes after its imports: seconds on busy cores, in which it
    # would outlive us and hold the data folder's lock. Between fork and exec Python may run where there is one thread.
    bound = _die_with_parent if threading.active_count() == 1 else None
    settings = {**os.environ, **(environment or {}), PARENT: f"{os.getpid()}:{life}"}
    # -P is not used: a checkout that is not installed must find `app` in the current folder.
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
        stdout=subprocess.PIPE if piped else None,
        pass_fds=(life, *keep),
        env=settings,
        preexec_fn=bound,
    )


class Adopted:
    """A child that another one forked, and that this process waits for like one of its own (`take_in_orphans`)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, as Popen gives it, once it has ended."""
        return self._waited(os.WNOHANG)

    def wait(self) -> int:
        """Its end."""
        status = self._waited(0)
        assert status is not None
        return status

    def _waited(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def take_in_orphans(wanted: bool) -> bool:
    """Whether this process is the parent of whatever below it loses its own, which it then has to wait for. False where
    the kernel knows no such thing."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) == 0)


def fork_sibling() -> bool:
    """True in a copy of this process whose parent is this one's parent, which must have called `take_in_orphans`.

    To be called with one thread, so that no lock is copied that another one holds, and with nothing open that two
    cannot share. For `adopt` the copy is like the original.
    """
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return False
    between = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == between:  # it ends at once
        time.sleep(PASSED_ON_S)
    return True


def _life_pipe() -> int:
    """The reading end; the writing end is never inherited and closes only with this process."""
    global _life
    if _life is None:
        _life = os.pipe()
    return _life[0]


def adopt() -> bool:
    """Bind this process's life to its parent's. False where no `start_child` started it (run by hand).

    Ctrl-C reaches the whole foreground group: it is ignored here, the supervisor decides what ends when.
    """
    entry = os.environ.pop(PARENT, None)
    if entry is None:
        return False
    pid, life = (int(part) for part in entry.split(":"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    if os.getppid() != pid:  # it died before prctl could be called
        os._exit(ORPHANED)
    os.set_inheritable(life, False)
    threading.Thread(target=_watch, args=(life,), name="parent-watch", daemon=True).start()
    return True


def _die_with_parent() -> None:
    if sys.platform != "linux":  # elsewhere the pipe alone has to do
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _watch(life: int) -> None:
    while os.read(life, 1):  # nobody ever writes: this returns at end of file
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def exit_reason(status: int) -> str:
    """A child's exit status (as Popen gives it) in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
