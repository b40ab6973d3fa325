"""The body of an import on its way to disk."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from app.engine.holding import hold
from app.engine.recovery import clear_staging
from app.engine.transfers import WRITE_BYTES, WRITE_PARTS, Spool
from app.engine.types import Upload
from storage.layout import DataFolder


def spooled(folder: Path, chunks: Sequence[bytes]) -> tuple[bytes, str]:
    async def come() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    spool = Spool(folder)
    asyncio.run(spool.take(Upload("vectors", "x.npy", come())))
    written = (folder / "vectors-0" / "x.npy").read_bytes()
    assert spool.bytes == len(written)
    return written, spool.digest()


def test_a_body_is_the_same_however_it_comes(tmp_path: Path) -> None:
    body = os.urandom(WRITE_BYTES + 3 * WRITE_PARTS + 5)
    bytewise = [body[:WRITE_BYTES], *(body[i : i + 1] for i in range(WRITE_BYTES, len(body)))]
    for name in ("whole", "bytewise"):
        (tmp_path / name).mkdir()
    assert spooled(tmp_path / "whole", [body])[0] == body
    assert spooled(tmp_path / "bytewise", bytewise) == (body, _digest(tmp_path, body))


def _digest(tmp_path: Path, body: bytes) -> str:
    (tmp_path / "again").mkdir()
    return spooled(tmp_path / "again", [body])[1]


def test_a_write_that_is_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: whole(fd, [b"".join(parts)[:1500]]))
    body = os.urandom(10_000)
    assert spooled(tmp_path, [body[i : i + 1000] for i in range(0, 10_000, 1000)])[0] == body


def test_a_start_clears_what_nobody_holds(tmp_path: Path) -> None:
    staging = DataFolder(tmp_path).staging
    for name in ("left", "held"):
        (staging / name).mkdir(parents=True)
    held = hold(staging / "held")
    clear_staging(tmp_path)
    assert [path.name for path in staging.iterdir()] == ["held"]
    os.close(held)
    clear_staging(tmp_path)
    assert not list(staging.iterdir())
