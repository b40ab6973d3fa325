"""Whole files in and out of a collection, as a program does it; `seedvec/transfer.py` is the command."""

import json
import time
from collections.abc import Mapping, Sequence
from http.client import IncompleteRead
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

from seedvec.connection import connect
from seedvec.errors import refusal
from seedvec.exchange import Exchange, problem
from seedvec.sending import Body, body_of, given_files
from seedvec.taking import take_file, take_tar

SUFFIXES: Final = {
    ".npy": "npy",
    ".npz": "npz",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".he5": "hdf5",
    ".pt": "pt",
    ".pth": "pt",
    ".safetensors": "safetensors",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".raw": "raw",
    ".bin": "raw",
    ".dat": "raw",
    ".mmap": "raw",
    ".memmap": "raw",
    ".tensorblob": "tensorblob",
    ".blob": "tensorblob",
}
"""What a file that is to be written is, by its name: as `storage/files/formats.py` has it, which is no part of the
light wheel; but for `.arrows`, which is a stream, and files are written."""
TRIES: Final = 3
RETRY_S: Final = 1.0


def import_files(exchange: Exchange, path: str, files: Sequence[Path], query: Mapping[str, Any]) -> dict[str, Any]:
    """path: of the collection. An import that loses its connection is sent again, and never done twice.

    Raises Refused, OSError, HTTPException, ValueError."""
    given = given_files(files, None, None)
    to = f"{path}/import?{urlencode(dict(query))}"
    headers = {"Accept": "application/x-ndjson", "Idempotency-Key": uuid4().hex}
    for attempt in range(1, TRIES):
        try:
            return _import_once(exchange, to, body_of(given), headers)
        except (ConnectionError, IncompleteRead):
            time.sleep(RETRY_S * attempt)
    return _import_once(exchange, to, body_of(given), headers)


def _import_once(exchange: Exchange, path: str, body: Body, headers: Mapping[str, str]) -> dict[str, Any]:
    with connect(exchange.url) as connection:
        sent = {**headers, **body.headers, **_key(exchange)}
        response = connection.send("POST", path, body.chunks(lambda _: None), sent)
        if response.status >= 400:
            raise refusal(response.status, problem(response.read()))
        for line in response:
            told: dict[str, Any] = json.loads(line)
            if "imported" in told:
                return told
            if "status" in told:
                raise refusal(told["status"], told)
    raise IncompleteRead(b"")


def export_file(exchange: Exchange, path: str, collection: str, file: Path, query: Mapping[str, Any]) -> None:
    """A format that is a folder, or has files beside it, lies beside `file` likewise.

    Raises Refused, OSError, HTTPException, ValueError."""
    asked = {"format": format_by_name(file), **query} if "format" not in query else query
    with connect(exchange.url) as connection:
        response = connection.send("GET", f"{path}/export?{urlencode(dict(asked))}", None, _key(exchange))
        if response.status >= 400:
            raise refusal(response.status, problem(response.read()))
        is_tar = response.getheader("Content-Disposition", "").rstrip('"').endswith(".tar")
        take = take_tar if is_tar and file.suffix != ".tar" else take_file
        take(file, collection, response)


def format_by_name(file: Path) -> str:
    """Of a file that is to be written. Raises ValueError."""
    known = SUFFIXES.get(file.suffix.lower())
    if known is None:
        raise ValueError(f"{file.name}: the name says no format: say which")
    return known


def _key(exchange: Exchange) -> dict[str, str]:
    return {"Authorization": f"Bearer {exchange.key}"} if exchange.key else {}
