"""`seedvec snapshot` and `seedvec restore` on a data folder that no server has in use (`--data DIR`).

`python -m app.snapshot_command`; `seedvec` (seedvec/cli.py) hands over to it.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from app.engine.errors import Refused
from app.engine.recovery import recover
from app.engine.restoring import judged
from app.engine.snapshots import require_names, wanted_of
from seedvec.snapshot_command import (
    CommandError,
    parse,
    read_chunks,
    told_restored,
    told_taken,
    told_written,
    uploaded_name,
    write_whole,
)
from storage import manifest, snapshot_tar, snapshots
from storage.errors import StorageError
from storage.lock import LockHeld, acquire
from storage.registry import NameTaken, NoSuchName, Registry

OK, FAILED, MISUSED = 0, 1, 2


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    parsed = parse(arguments)
    data: Path = parsed.data
    if parsed.command == "restore":
        data.mkdir(parents=True, exist_ok=True)
    try:
        lock = acquire(data)
    except LockHeld as error:
        address = error.holder.address
        again = f": ask it with --url {address}" if address else ""
        return _fail(f"{error}{again}", MISUSED)
    except OSError as error:
        return _fail(f"{data} is no data folder: {error.strerror}", MISUSED)
    try:
        sys.stdout.write(_run(data, parsed) + "\n")
    except (CommandError, StorageError, OSError) as error:
        return _fail(str(error), FAILED)
    except Refused as error:
        return _fail(error.detail, FAILED)
    except NameTaken as error:
        return _fail(f"the name {error} is taken", FAILED)
    except NoSuchName as error:
        return _fail(f"there is no snapshot {error}", FAILED)
    finally:
        lock.release()
    return OK


def _run(data: Path, parsed: argparse.Namespace) -> str:
    recover(data)
    with closing(Registry(data)) as registry:
        return _take(registry, parsed) if parsed.command == "snapshot" else _restore(registry, parsed)


def _take(registry: Registry, parsed: argparse.Namespace) -> str:
    if parsed.out is not None and parsed.out.exists():
        raise CommandError(f"{parsed.out} exists")
    entries, aliases = registry.read_names()
    there = {entry.name: entry for entry in entries}
    wanted = {aliases.get(name, name) for name in parsed.collections or there}
    missing = wanted - there.keys()
    if missing:
        raise CommandError(f"there is no collection {', '.join(sorted(missing))}")
    closed = [there[name] for name in sorted(wanted) if there[name].reason is not None]
    if closed:
        raise CommandError(f"collection {closed[0].name} is closed: {closed[0].reason}")
    whole = snapshots.take(registry, parsed.name, [there[name] for name in sorted(wanted)])
    lines = [told_taken(parsed.name, [{"name": c.name, "count": c.live} for c in whole.collections])]
    if parsed.out is not None:
        folder = snapshots.folder_of(registry, snapshots.find(registry, parsed.name))
        lines.append(told_written(parsed.out, write_whole(parsed.out, snapshot_tar.stream(folder))))
    return "\n".join(lines)


def _restore(registry: Registry, parsed: argparse.Namespace) -> str:
    name = uploaded_name(parsed)
    if name is not None:
        snapshots.require_free(registry, name)
        stage, whole = snapshot_tar.unpack(read_chunks(Path(parsed.name)), registry.data)
        # Who owns the folder says what is in it: its indexes are taken over.
        snapshots.keep(registry, name, stage, whole, uploaded=False)
    row = snapshots.find(registry, name or parsed.name)
    folder = snapshots.folder_of(registry, row)
    whole = manifest.read(folder)
    wanted = wanted_of(row.name, whole, parsed.collections, parsed.as_)
    require_names(registry, list(wanted), parsed.replace)
    names = snapshots.restore(registry, judged(registry.data, folder, wanted, trusted=not row.uploaded), parsed.replace)
    counts = {content.name: content.live for content in whole.collections}
    return told_restored([{"name": new, "count": counts[wanted[new]]} for new in names])


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"seedvec: {text}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
