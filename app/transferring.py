"""`seedvec import --data` and `export --data`: the same children that a worker starts, on a folder that nobody serves.

Files are read where they lie, and written where they are wanted. An import that was cut off has imported nothing (an
upsert that was decided goes on at the next start): it is simply begun again.
"""

import argparse
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from app.children import exit_reason, start_child
from app.engine.holding import hold
from seedvec.progress import Bar
from seedvec.sending import given_files
from seedvec.taking import take_file, take_tar
from seedvec.transfer import fail, format_of, parser, report
from storage.errors import StorageError
from storage.layout import DataFolder
from storage.lock import DataLock, LockHeld, acquire

OK, FAILED, MISUSED = 0, 1, 2
MAX_DIMENSIONS = 9
LOOK_S = 0.25
PIPE_BYTES = 1 << 20
NO_HEADING = '{"refused": {"detail": "the file could not be written: see above"}}'


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    asked = parser().parse_args(arguments)
    try:
        asked.data.mkdir(parents=True, exist_ok=True)
        with _locked(asked.data) as lock, _staging(asked.data) as (staging, held):
            if asked.command == "import":
                return _import(asked, lock, staging, held)
            return _export(asked, lock, staging)
    except LockHeld as e:
        where = e.holder.address or "http://HOST:PORT"
        words = " ".join(_without_data(arguments))
        fail(f"{e}: while it is served, send it there: seedvec {words} --url {where}")
        return MISUSED
    except (StorageError, OSError, ValueError) as e:
        return fail(str(e))


def _without_data(arguments: list[str]) -> Iterator[str]:
    skip = False
    for word in arguments:
        if not skip and word != "--data" and not word.startswith("--data="):
            yield word
        skip = word == "--data"


@contextmanager
def _locked(data: Path) -> Iterator[DataLock]:
    """Raises LockHeld, OSError."""
    lock = acquire(data)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def _staging(data: Path) -> Iterator[tuple[Path, int]]:
    """A folder, and what holds it: no start takes it for one that was left."""
    folder = DataFolder(data).staging / uuid.uuid4().hex
    folder.mkdir(parents=True)
    held = hold(folder)
    try:
        yield folder, held
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _recover(data: Path, lock: DataLock) -> None:
    """Makes the folder fit, as every start does. Called while the child that is to work on it is still starting: the
    two take as long as reading 300 MB. Raises OSError."""
    with start_child("app.recover", str(data), keep=(lock.fd,)) as process:
        status = process.wait()
    if status:
        raise OSError(f"the data folder could not be recovered ({exit_reason(status)}): see above")


def _import(asked: argparse.Namespace, lock: DataLock, staging: Path, held: int) -> int:
    given = given_files(asked.files, asked.ids_file, asked.metadata_file)
    paths: dict[str, list[str]] = {"vectors": [], "ids": [], "metadata": []}
    for part, path in given.parts:
        paths[part].append(str(path.absolute()))
    options = {name: getattr(asked, name) for name in ("vectors", "ids", "metadata", "dtype")}
    options["shape"] = None if asked.shape is None else _shape(asked.shape)
    order = {
        "data": str(asked.data.absolute()),
        "name": asked.collection,
        "uuid": None,
        "staging": str(staging.absolute()),
        "mode": asked.mode,
        "bad": asked.bad,
        "append": bool(asked.append),
        "key": None,
        "source": {
            "vectors": paths["vectors"],
            "ids": next(iter(paths["ids"]), None),
            "metadata": next(iter(paths["metadata"]), None),
            "format": asked.format,
            "options": {**options, "flatten": bool(asked.flatten)},
        },
        "input_bytes": sum(path.stat().st_size for _, path in given.parts),
    }
    told = _told(order, lock, held)
    if "answer" in told or "refused" in told:
        return report(told.get("answer") or {"status": "refused", "detail": told["refused"]["detail"]})
    # In a process of its own: what it loads would cost every import a third of a second.
    with start_child("app.settling", str(asked.data), asked.collection, staging.name, keep=(lock.fd,)) as settling:
        fate = settling.wait()
    if fate > 1 and "foretold" in told:
        raise OSError("the import was cut off at its end: the next start tells whether it is there")
    if fate == 0 and "foretold" in told:
        return report(told["foretold"])
    raise OSError("the process that reads the file ended before its time: nothing was imported")


def _shape(text: str) -> list[int]:
    """Raises ValueError."""
    shape = [int(part) for part in text.split(",")]
    if len(shape) > MAX_DIMENSIONS or any(n < 1 for n in shape[1:]):
        raise ValueError(f"--shape {text}: it is ROWS,D or D")
    return shape


def _told(order: dict[str, Any], lock: DataLock, held: int) -> dict[str, Any]:
    """What the child says last, of how far it is aside."""
    last: dict[str, Any] = {}
    keep = (lock.fd, held)
    with start_child("app.reading_file", keep=keep, piped=True) as process, Bar("imported", None, "rows") as bar:
        _recover(Path(order["data"]), lock)
        _give(process, order)
        assert process.stdout is not None
        for line in process.stdout:
            told: dict[str, Any] = json.loads(line)
            if "rows" in told:
                bar.set(told["rows"], told["of"])
            else:
                last = told
    return last


def _give(process: "subprocess.Popen[bytes]", order: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(order).encode())
    process.stdin.close()


def _export(asked: argparse.Namespace, lock: DataLock, staging: Path) -> int:
    told, status = os.pipe()
    with (
        _new_file(asked.file) as out,
        start_child("app.writing_file", keep=(lock.fd, status, out.fileno()), piped=True) as process,
    ):
        os.close(status)
        _recover(asked.data, lock)
        sidecars = asked.sidecars is None
        order = {
            "data": str(asked.data),
            "name": asked.collection,
            "collection": asked.collection,
            "staging": str(staging),
            "status": status,
            "out": None if asked.file.suffix == ".tar" else out.fileno(),
            "asked": {"format": format_of(asked), "compression": asked.compression, "sidecars": sidecars},
        }
        _give(process, order)
        with os.fdopen(told) as pipe:
            line = pipe.readline()
        heading: dict[str, Any] = json.loads(line or NO_HEADING)
        if "refused" in heading:
            return fail(heading["refused"]["detail"])
        with Bar("exported", heading["size"], "B") as bar:
            if not heading["name"].endswith(".tar"):
                _written(process, bar, heading["size"], out, asked.file)
            else:
                os.unlink(out.name)
                with suppress(OSError):  # a user may have so many pages in pipes, and no more
                    fcntl.fcntl(process.stdout or -1, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
                (take_file if asked.file.suffix == ".tar" else take_tar)(
                    asked.file, asked.collection, _Checked(process, bar)
                )
    return OK


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """Beside it, gone at the end unless it was given its name."""
    tmp = path.with_name(path.name + ".tmp")
    with tmp.open("wb", buffering=0) as file:
        try:
            yield file
        finally:
            tmp.unlink(missing_ok=True)


def _written(process: "subprocess.Popen[bytes]", bar: Bar, size: int | None, out: IO[bytes], to: Path) -> None:
    """The child writes the file itself, and closes its output when it is through. Raises OSError."""
    assert process.stdout is not None
    while not select.select([process.stdout], [], [], LOOK_S)[0]:
        bar.set(os.fstat(out.fileno()).st_size, size)
    if process.wait():
        raise _cut_off(process)
    os.fsync(out.fileno())
    os.replace(out.name, to)


def _cut_off(process: "subprocess.Popen[bytes]") -> OSError:
    return OSError(f"the file could not be written to its end ({exit_reason(process.returncode)})")


class _Checked:
    """What the child writes. Raises OSError at the end where the child did not come to its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", bar: Bar) -> None:
        self._process = process
        self._bar = bar

    def read(self, size: int = -1) -> bytes:
        assert self._process.stdout is not None
        part = self._process.stdout.read(size)
        self._bar.add(len(part))
        if not part and self._process.wait():
            raise _cut_off(self._process)
        return part


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
