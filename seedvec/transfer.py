"""`seedvec import` and `seedvec export` over HTTP: files are sent and taken as they lie, in constant memory.

An import that loses its connection is sent again with the same `Idempotency-Key`: it is never done twice.
"""

import argparse
import http.client
import json
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from seedvec.connection import connect
from seedvec.files import format_by_name
from seedvec.progress import Bar
from seedvec.sending import Body, body_of, given_files
from seedvec.server import default_url
from seedvec.taking import take_file, take_tar

TRIES = 3
RETRY_S = 1.0
OK, FAILED = 0, 1
PASSED_ON = ("format", "mode", "bad", "vectors", "ids", "metadata", "dtype", "shape", "flatten", "append")
"""Of an import, as the query has them."""


def parser() -> argparse.ArgumentParser:
    """Of both commands, whether they go to a server or to a data folder."""
    top = argparse.ArgumentParser(prog="seedvec", description="Whole files in and out of a collection.")
    commands = top.add_subparsers(dest="command", required=True)
    about = "import a file, several of a kind, or a folder; a collection that does not exist is made"
    one = commands.add_parser("import", help=about, description=about, allow_abbrev=False)
    _add_where(one)
    one.add_argument("files", metavar="FILE", nargs="+", type=Path)
    one.add_argument("--format", help="default: by the file's name, or by how it begins")
    one.add_argument("--mode", choices=("add", "upsert"), default="add", help="upsert replaces ids that are there")
    one.add_argument(
        "--bad", choices=("fail", "skip"), default="fail", help="skip leaves out rows that cannot be stored"
    )
    for name in ("vectors", "ids", "metadata"):
        one.add_argument(f"--{name}", metavar="KEY", help=f"key, dataset or column of the {name} in the file")
    for name in ("ids", "metadata"):
        about = f"a file of its own with the {name} (default: NAME.{name}.… beside NAME, where there is one)"
        one.add_argument(f"--{name}-file", metavar="FILE", type=Path, help=about)
    one.add_argument("--dtype", help="of raw numbers, as float32 or >f4")
    one.add_argument("--shape", help="of raw numbers: ROWS,D or D")
    one.add_argument("--flatten", action="store_const", const=1, help="items of several dimensions become one vector")
    about = "a file without ids may go into a collection that is not empty"
    one.add_argument("--append", action="store_const", const=1, help=about)
    about = "write all items to a file, in the order in which they were stored"
    other = commands.add_parser("export", help=about, description=about, allow_abbrev=False)
    _add_where(other)
    other.add_argument("file", metavar="FILE", type=Path)
    other.add_argument("--format", help="default: by the file's name")
    other.add_argument("--compression", help="one that the format offers")
    about = "leave out ids and metadata where the format cannot hold them, instead of writing them beside it"
    other.add_argument("--no-sidecars", dest="sidecars", action="store_const", const=0, help=about)
    return top


def _add_where(to: argparse.ArgumentParser) -> None:
    where = to.add_mutually_exclusive_group()
    where.add_argument("--url", default=default_url(), help="the server [SEEDVEC_URL; default: %(default)s]")
    where.add_argument(
        "--data", metavar="DIR", type=Path, help="a data folder that no server serves, instead of a server"
    )
    to.add_argument("collection", metavar="COLLECTION")


def format_of(asked: argparse.Namespace) -> str:
    """Of the file that is to be written. Raises ValueError."""
    return str(asked.format) if asked.format else format_by_name(asked.file)


def main(arguments: list[str]) -> int:
    """One of the two commands, to a server. Returns the exit status."""
    asked = parser().parse_args(arguments)
    try:
        if asked.command == "import":
            return import_files(asked)
        return export_file(asked)
    except (OSError, http.client.HTTPException, ValueError) as e:
        return fail(str(e) or type(e).__name__)


def import_files(asked: argparse.Namespace) -> int:
    """Raises OSError, HTTPException, ValueError."""
    given = given_files(asked.files, asked.ids_file, asked.metadata_file)
    query = {name: value for name in PASSED_ON if (value := getattr(asked, name)) is not None}
    path = f"/v1/collections/{quote(asked.collection, safe='')}/import?{urlencode(query)}"
    headers = {"Accept": "application/x-ndjson", "Idempotency-Key": uuid.uuid4().hex}
    for attempt in range(1, TRIES + 1):
        body = body_of(given)
        try:
            with Bar("sent", body.size, "B") as bar:
                return _import_once(asked.url, path, body, headers, bar)
        except (ConnectionError, http.client.IncompleteRead) as e:
            if attempt == TRIES:
                raise
            sys.stderr.write(f"seedvec: {e or 'the connection was lost'}: sending it again\n")
            time.sleep(RETRY_S * attempt)
    raise AssertionError("unreachable")


def _import_once(url: str, path: str, body: Body, headers: dict[str, str], bar: Bar) -> int:
    with connect(url) as connection:
        response = connection.send("POST", path, body.chunks(bar.add), {**headers, **body.headers})
        bar.close()
        if response.status >= 400:
            return fail(_words(response.read()))
        with Bar("imported", None, "rows") as rows:
            for line in response:
                told = json.loads(line)
                if "rows" in told:
                    rows.set(told["rows"], told["of"])
                else:
                    return report(told)
    raise http.client.IncompleteRead(b"")


def report(told: dict[str, Any]) -> int:
    """Says what came of an import. Returns the exit status."""
    if "imported" not in told:
        return fail(_words(json.dumps(told).encode()))
    for note in told["notes"]:
        sys.stderr.write(f"seedvec: {note}\n")
    text = f"imported {told['imported']:,} rows"
    if told["rejected"]:
        first = told["first_rejected"]
        text += f", left out {told['rejected']:,} (the first: row {first['row']}: {first['reason']})"
    sys.stdout.write(text + (", into a new collection\n" if told["created"] else "\n"))
    return OK


def export_file(asked: argparse.Namespace) -> int:
    """Raises OSError, HTTPException, ValueError."""
    query = {"format": format_of(asked)}
    query |= {name: value for name in ("compression", "sidecars") if (value := getattr(asked, name)) is not None}
    path = f"/v1/collections/{quote(asked.collection, safe='')}/export?{urlencode(query)}"
    with connect(asked.url) as connection, Bar("exported", None, "B") as bar:
        response = connection.send("GET", path, None, {})
        if response.status >= 400:
            return fail(_words(response.read()))
        length = response.getheader("Content-Length")
        bar.set(0, int(length) if length else None)
        is_tar = _name(response.getheader("Content-Disposition", "")).endswith(".tar")
        take = take_tar if is_tar and asked.file.suffix != ".tar" else take_file
        take(asked.file, asked.collection, _Counted(response, bar.add))
    return OK


def _name(disposition: str) -> str:
    return disposition.partition('filename="')[2].rstrip('"')


class _Counted:
    """A response whose bytes are counted as they are read."""

    def __init__(self, response: http.client.HTTPResponse, count: Callable[[int], None]) -> None:
        self._response = response
        self._count = count

    def read(self, size: int = -1) -> bytes:
        part = self._response.read(size)
        self._count(len(part))
        return part


def _words(problem: bytes) -> str:
    try:
        told = json.loads(problem)
        return f"{told['status']}: {told['detail']}"
    except (ValueError, KeyError, TypeError):
        return problem[:200].decode("utf-8", "replace")


def fail(text: str) -> int:
    sys.stderr.write(f"seedvec: {text}\n")
    return FAILED
