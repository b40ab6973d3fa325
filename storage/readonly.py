"""A database opened to be looked at: beside a running server, or on a disk that cannot be written."""

import os
from pathlib import Path
from urllib.parse import quote

import apsw

from storage import errors
from storage.database import BUSY_TIMEOUT_MS, CACHE_KIB, Database, translated
from storage.pages import checksum_vfs


class ReadOnlyDatabase(Database):
    """Reads what is committed and changes nothing in the database (SQLite may leave an empty -wal and -shm beside it).

    Raises Damaged where it is no SQLite database, or another's; OtherVersion.
    """

    def __init__(self, path: Path, application_id: int, user_version: int = 1) -> None:
        self.path = path
        with translated(path):
            self.connection = _open(path)
            self.connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            self.connection.pragma("cache_size", -CACHE_KIB)
            found = self.connection.pragma("application_id")
            version = self.connection.pragma("user_version")
        if found != application_id:
            raise errors.Damaged(f"{path}: not ours (application_id {found:#x})")
        if version != user_version:
            older = "; serving the data folder once brings it up to date" if 0 < version < user_version else ""
            raise errors.OtherVersion(f"{path}: format version {version}, this program reads {user_version}{older}")

    def integrity(self, limit: int = 10) -> list[str]:
        """What SQLite's own check says; empty: all is well."""
        with translated(self.path):
            rows = [str(row[0]) for row in self.connection.execute(f"PRAGMA integrity_check({limit})")]
        return [] if rows == ["ok"] else rows


def _open(path: Path) -> apsw.Connection:
    connection = apsw.Connection(os.fspath(path), apsw.SQLITE_OPEN_READONLY, vfs=checksum_vfs())
    try:
        connection.pragma("schema_version")
    except apsw.CantOpenError:
        # WAL mode wants to make its shared memory beside the file. Where it cannot, nobody can be writing either.
        connection.close()
        if Path(f"{path}-wal").is_file() and Path(f"{path}-wal").stat().st_size:
            raise
        uri = f"file:{quote(os.fspath(path))}?immutable=1"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = apsw.Connection(uri, flags, vfs=checksum_vfs())
    return connection
