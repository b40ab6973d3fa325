"""Whose catalogue a catalog.db is: the folder it was made in and the name it was made under, in its table `identity`.

Without it, another collection's catalogue put into the folder would serve as if it were its own; and where the
registry is lost, the name is here.
"""

from dataclasses import dataclass

from storage.database import Database

SCHEMA = "CREATE TABLE identity(uuid TEXT NOT NULL, name TEXT NOT NULL)"


@dataclass(frozen=True, slots=True)
class Identity:
    uuid: str
    """Name of the folder."""
    name: str


def write(db: Database, identity: Identity) -> None:
    """Inside a transaction, of a catalogue that has none."""
    db.execute(SCHEMA)
    db.execute("INSERT INTO identity VALUES (?,?)", (identity.uuid, identity.name))


def read(db: Database) -> Identity | None:
    """None: a catalogue of an early version."""
    if db.one("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'identity'") is None:
        return None
    row = db.one("SELECT uuid, name FROM identity")
    return None if row is None else Identity(*row)
