"""manifest.json of a snapshot: what it holds and what each file was, by length and xxh3, under a checksum of its own.

It may come from outside: what it says is taken only where it names files that a snapshot can have.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import xxhash

from storage.errors import Damaged, OtherVersion
from storage.hashing import hex16
from storage.layout import CATALOGUE_NAME, COLLECTIONS_NAME, REGISTRY_NAME, SEGMENTS_NAME

MANIFEST_NAME: Final = "manifest.json"
FORMAT: Final = "seedvec-snapshot"
VERSION: Final = 1
MAX_BYTES: Final = 16 << 20
"""About 100,000 files."""
_UUID: Final = "[0-9a-f]{32}"
_BESIDE: Final = r"h5|[a-z]+-[0-9a-f]{1,32}\.faiss|columns-[0-9]{1,19}\.npz"
_COLLECTION_FILE: Final = f"{CATALOGUE_NAME}|{SEGMENTS_NAME}/[0-9]{{6,19}}-{_UUID}\\.({_BESIDE})"
PATH: Final = re.compile(f"{REGISTRY_NAME}|{COLLECTIONS_NAME}/{_UUID}/({_COLLECTION_FILE})")
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
"""Of collections and snapshots. A recovered collection is named so too."""
TIME: Final = re.compile(r"[0-9]{4}(-[0-9]{2}){2}T([0-9]{2}:){2}[0-9]{2}Z")
"""As `catalogue.now` gives it. What comes from outside is shown to clients: other text might not even be UTF-8."""
NUMBERS: Final = range(1 << 63)


@dataclass(frozen=True, slots=True)
class Content:
    """A collection as it was at the snapshot's moment. live: its rows."""

    name: str
    uuid: str
    live: int

    @property
    def folder(self) -> str:
        return f"{COLLECTIONS_NAME}/{self.uuid}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: its path in the snapshot, with slashes."""

    path: str
    bytes: int
    xxh3: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """name: what it was taken as; files: all but the manifest itself."""

    name: str
    created: str
    collections: tuple[Content, ...]
    files: tuple[Entry, ...]

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)

    def files_of(self, content: Content) -> list[Entry]:
        return [entry for entry in self.files if entry.path.startswith(f"{content.folder}/")]

    def dump(self) -> bytes:
        body = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps({**body, "xxh3": _checksum(body)}, indent=1).encode() + b"\n"


def _checksum(body: dict[str, Any]) -> str:
    """However the JSON is laid out."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hex16(xxhash.xxh3_64_intdigest(canonical))


def parse(raw: bytes) -> Manifest:
    """Raises Damaged, and OtherVersion."""
    try:
        body = json.loads(raw)
        told = body.pop("xxh3")
        if body["format"] != FORMAT:
            raise Damaged("the manifest is no snapshot's")
        if body["version"] > VERSION:
            raise OtherVersion(f"the manifest has version {body['version']}, this program reads {VERSION}")
        if told != _checksum(body):
            raise Damaged("the manifest is damaged: its checksum differs")
        collections = tuple(Content(c["name"], c["uuid"], c["live"]) for c in body["collections"])
        files = tuple(Entry(f["path"], f["bytes"], f["xxh3"]) for f in body["files"])
        made = Manifest(body["name"], body["created"], collections, files)
        fault = _fault(made)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise Damaged(f"the manifest cannot be read: {type(e).__name__}: {e}") from e
    if fault:
        raise Damaged(f"the manifest {fault}")
    return made


def _fault(m: Manifest) -> str:
    """Why no snapshot of ours is described so; empty: one can be. Raises TypeError for values of other types."""
    if not all(NAME.fullmatch(name) for name in (m.name, *(c.name for c in m.collections))):
        return "has a name that is none"
    numbers = [*(f.bytes for f in m.files), *(c.live for c in m.collections)]
    if not all(type(n) is int and n in NUMBERS for n in numbers):
        return "has a number that is none"
    paths = {f.path for f in m.files}
    bad = next((p for p in sorted(paths) if PATH.fullmatch(p) is None), None)
    if bad is not None:
        return f"names a file that is none of a snapshot's: {bad[:80]!r}"
    if len(paths) != len(m.files) or len({c.name for c in m.collections}) != len(m.collections):
        return "names something twice"
    wanted = {f"{c.folder}/{CATALOGUE_NAME}" for c in m.collections} | {REGISTRY_NAME}
    if {p for p in paths if not p.rpartition("/")[0].endswith(SEGMENTS_NAME)} != wanted:
        return "does not name the databases that its collections have"
    folders = {p.rpartition(f"/{SEGMENTS_NAME}/")[0] for p in paths if f"/{SEGMENTS_NAME}/" in p}
    if not folders <= {c.folder for c in m.collections}:
        return "names segments of no collection"
    return "" if TIME.fullmatch(m.created) else "says no time"


def read(snapshot: Path) -> Manifest:
    """Raises Damaged, OtherVersion."""
    path = snapshot / MANIFEST_NAME
    try:
        if path.stat().st_size > MAX_BYTES:
            raise Damaged("the manifest is larger than any")
        return parse(path.read_bytes())
    except OSError as e:
        raise Damaged(f"the manifest cannot be read: {e.strerror}") from e
