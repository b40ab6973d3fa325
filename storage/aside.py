"""What stands where a file of ours should be, and is none: a folder, or a link that leads nowhere."""

import logging
import os
import uuid
from pathlib import Path

log = logging.getLogger(__name__)


def clear(path: Path) -> None:
    """Moves it aside: it is not ours to delete, and the name is needed. A file, or nothing, is left alone."""
    if os.path.lexists(path) and not path.is_file():
        name = f"{path.name}.aside-{uuid.uuid4().hex[:8]}"
        log.error("%s is no file: it is moved aside, to %s", path, name)
        path.rename(path.with_name(name))


def clear_database(path: Path) -> None:
    """The same of what SQLite keeps beside a database, which it could not open otherwise. Nobody has it open."""
    for suffix in ("-wal", "-shm"):
        clear(Path(f"{path}{suffix}"))
