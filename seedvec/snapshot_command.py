"""`seedvec snapshot` and `seedvec restore`, asked of a server; on a data folder without one, `app/snapshot_command.py`.

Needs nothing but Python: a backup can be taken from a machine that has the light installation alone.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from seedvec.connection import connect
from seedvec.server import default_url

COMMANDS = {
    "snapshot": "take a snapshot of a server's collections, and download it",
    "restore": "restore collections from a snapshot, or from its tar",
}
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
TAR_SUFFIX = ".tar"
CHUNK_BYTES = 1 << 20


class CommandError(Exception):
    """What is to be said instead of a result."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command and its options. Ends the process with a usage message where they are none."""
    parser = argparse.ArgumentParser(prog="seedvec", description="Vector similarity search over HTTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    taking = commands.add_parser("snapshot", help=COMMANDS["snapshot"], allow_abbrev=False)
    taking.add_argument("name", metavar="NAME", type=_name, help="what it is to be called")
    taking.add_argument("--out", metavar="FILE.tar", type=Path, help="also write it to this file, which must not exist")
    restoring = commands.add_parser("restore", help=COMMANDS["restore"], allow_abbrev=False)
    restoring.add_argument("name", metavar="NAME|FILE.tar", help="a snapshot that is there, or a file to upload first")
    restoring.add_argument(
        "--as", dest="as_", metavar="NAME", type=_name, help="restore one collection under this name"
    )
    restoring.add_argument("--replace", action="store_true", help="take the place of collections of those names")
    for one in (taking, restoring):
        about = "comma separated; default: all"
        one.add_argument("--collections", metavar="NAME,…", type=_names, help=about)
        where = one.add_mutually_exclusive_group()
        where.add_argument("--url", default=None, help=f"the server [SEEDVEC_URL; default: {default_url()}]")
        where.add_argument("--data", metavar="DIR", type=Path, help="a data folder that no server has in use")
    return parser.parse_args(arguments)


def _name(text: str) -> str:
    if NAME.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} does not match {NAME.pattern}")
    return text


def _names(text: str) -> list[str]:
    return [_name(part.strip()) for part in text.split(",")]


def uploaded_name(parsed: argparse.Namespace) -> str | None:
    """What the snapshot in a file is to be called: as the file is; None: no file is named. Raises CommandError."""
    text: str = parsed.name
    if not text.endswith(TAR_SUFFIX):
        return None
    name = Path(text).name.removesuffix(TAR_SUFFIX)
    if NAME.fullmatch(name) is None:
        raise CommandError(f"the snapshot is called as its file, and {name!r} does not match {NAME.pattern}: rename it")
    return name


def read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def write_whole(path: Path, chunks: Iterable[bytes]) -> int:
    """The file is there, whole and on the disk, or it is not there. Returns its bytes. Raises OSError."""
    part = path.with_name(path.name + ".part")
    written = 0
    try:
        with part.open("wb") as file:
            for chunk in chunks:
                written += file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)  # unlike a rename it takes nothing's place
    finally:
        part.unlink(missing_ok=True)
    return written


def run(parsed: argparse.Namespace) -> str:
    """Asks the server; returns what to say. Raises CommandError, OSError, HTTPException."""
    server = _Server(parsed.url or default_url())
    if parsed.command == "snapshot":
        return _take(server, parsed)
    name = uploaded_name(parsed)
    if name is not None:
        path = Path(parsed.name)
        server.ask("PUT", f"/v1/snapshots/{name}.tar", read_chunks(path), {"Content-Length": str(path.stat().st_size)})
    body = {"as": parsed.as_, "replace": parsed.replace, "collections": parsed.collections}
    answer = server.ask_json(f"/v1/snapshots/{name or parsed.name}/restore", body)
    return told_restored(answer["collections"])


def _take(server: "_Server", parsed: argparse.Namespace) -> str:
    if parsed.out is not None and parsed.out.exists():
        raise CommandError(f"{parsed.out} exists")
    taken = server.ask_json("/v1/snapshots", {"name": parsed.name, "collections": parsed.collections})
    lines = [told_taken(parsed.name, taken["collections"])]
    if parsed.out is not None:
        lines.append(told_written(parsed.out, write_whole(parsed.out, server.body(f"/v1/snapshots/{parsed.name}.tar"))))
    return "\n".join(lines)


def told_taken(name: str, collections: Sequence[dict[str, Any]]) -> str:
    return f"snapshot {name}: " + (", ".join(f"{c['name']} ({c['count']:,} items)" for c in collections) or "nothing")


def told_written(path: Path, size: int) -> str:
    return f"{path}: {size:,} bytes"


def told_restored(collections: Sequence[dict[str, Any]]) -> str:
    return "restored " + (", ".join(f"{c['name']} ({c['count']:,} items)" for c in collections) or "nothing")


class _Server:
    """A connection for each request: they are few, and each may take minutes."""

    def __init__(self, url: str) -> None:
        try:
            connect(url)
        except ValueError as error:
            raise CommandError(str(error)) from None
        self._url = url

    def ask_json(self, path: str, body: dict[str, Any]) -> Any:
        given = {name: value for name, value in body.items() if value is not None}
        raw = json.dumps(given).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(raw))}
        return json.loads(self.ask("POST", path, iter([raw]), headers))

    def ask(self, method: str, path: str, body: Iterator[bytes], headers: dict[str, str]) -> bytes:
        with connect(self._url) as connection:
            return _accepted(connection.send(method, path, body, headers)).read()

    def body(self, path: str) -> Iterator[bytes]:
        """Of a GET, in pieces. Raises HTTPException where it is cut off."""
        with connect(self._url) as connection:
            response = _accepted(connection.send("GET", path, None, {}))
            left = int(response.headers["Content-Length"])
            while left:
                chunk = response.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise HTTPException(f"the answer to {path} is cut off: {left:,} bytes are missing")
                left -= len(chunk)
                yield chunk


def _accepted(response: HTTPResponse) -> HTTPResponse:
    """Raises CommandError in the server's words."""
    if response.status < 400:
        return response
    text = response.read()
    try:
        problem = json.loads(text)
        raise CommandError(f"{response.status}: {problem.get('detail') or problem['title']}")
    except (ValueError, KeyError, AttributeError):
        raise CommandError(f"{response.status}: {text[:200].decode('utf-8', 'replace')}") from None


def main(arguments: Sequence[str]) -> int:
    """Against a server. Returns the exit status."""
    parsed = parse(arguments)
    try:
        sys.stdout.write(run(parsed) + "\n")
    except (CommandError, OSError, HTTPException) as error:
        sys.stderr.write(f"seedvec: {error}\n")
        return 1
    return 0
