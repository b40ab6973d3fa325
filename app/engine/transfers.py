"""Files on their way in and out, as a worker sees to them: spooled to disk, handed to a disposable child, relayed.

A worker never looks into a file, and none of its threads is busy with one: it moves bytes, and lines of what the child
tells.
"""

import asyncio
import fcntl
import json
import logging
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import xxhash

from app.children import exit_reason, start_child
from app.engine import errors
from app.engine.errors import Fault
from app.engine.holding import hold
from app.engine.importing import settle_own
from app.engine.told import refused_from
from app.engine.translate import translated
from app.engine.types import ExportAsked, Exported, Idempotency, ImportAsked, Upload
from storage.errors import StorageError
from storage.failpoints import declare, hit
from storage.layout import DataFolder
from storage.segment import require_room

log = logging.getLogger(__name__)
SPOOL = declare("import.spool")
AT_ONCE = 8
"""Files on their way through one worker, each with a process of its own."""
WRITE_BYTES = 4 << 20
WRITE_PARTS = 1024
"""So much is gathered before a thread writes it, as it came: each copy less is a tenth of what the body costs. The
system takes no more parts at once, and a client may send a byte at a time."""
PIPE_BYTES = 1 << 20
"""Of what a child writes, on its way: with the usual 64 KiB the two would wait for each other all the time."""
LINE_BYTES = 1 << 20
CHUNK_BYTES = 256 << 10
TOO_MUCH = (
    "reading the file took more than is given to it, or broke its reader ({}): nothing was imported; the server's log "
    "may say more"
)
SAFE = re.compile(r"[^A-Za-z0-9._-]+")
NAME_MAX = 100


class Transfers:
    """Of one data folder in one worker."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._under_way = 0

    @asynccontextmanager
    async def staging(self) -> AsyncIterator[Path]:
        """A folder of its own, gone at the end. Raises DiskFull, Unavailable, Overloaded."""
        if self._under_way >= AT_ONCE:
            raise errors.Overloaded(
                f"{AT_ONCE} files are on their way in or out already: try again when one is through"
            )
        self._under_way += 1
        try:
            async with self._folder() as folder:
                yield folder
        finally:
            self._under_way -= 1

    @asynccontextmanager
    async def _folder(self) -> AsyncIterator[Path]:
        folder = DataFolder(self._data).staging / uuid.uuid4().hex
        with translated("staging"):
            hit(SPOOL)
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, True)

    async def import_file(
        self, name: str, folder: Path | None, asked: ImportAsked, uploads: AsyncIterator[Upload], size: int | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """folder: the collection's; None: it is to be made."""
        # Its imports are done by the time that the file is there.
        async with self.staging() as staging, _reading(staging) as process:
            spool = Spool(staging)
            with translated(name):
                require_room(staging, size or 0)
                async for upload in uploads:
                    await spool.take(upload)
            source = spool.source(asked)
            order = {
                **self._order(name, folder, staging, asked.mode),
                "bad": asked.bad,
                "append": asked.append,
                "key": _key(asked.once, spool.digest()),
                "source": source,
                "input_bytes": spool.bytes,
            }
            async for event in self._run(process, name, folder, order):
                yield event

    async def copy(
        self, name: str, folder: Path, source: str, mode: str, once: Idempotency | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        async with self.staging() as staging, _reading(staging) as process:
            order = {
                **self._order(name, folder, staging, mode),
                "bad": "fail",
                "append": True,
                "key": _key(once),
                "source": {"collection": source},
                "input_bytes": 0,
            }
            async for event in self._run(process, name, folder, order):
                yield event

    async def export(self, name: str, asked: ExportAsked) -> Exported:
        """Returns once it is known whether there will be a file. Raises Refused."""
        entered = AsyncExitStack()
        try:
            staging = await entered.enter_async_context(self.staging())
            told, status = os.pipe()
            order = {
                "data": str(self._data),
                "name": name,
                "collection": name,
                "staging": str(staging),
                "status": status,
                "asked": asdict(asked),
            }
            try:
                process = await entered.enter_async_context(_child("app.writing_file", status))
            finally:
                os.close(status)
            heading = await self._heading(process, order, told)
        except BaseException:
            await entered.aclose()
            raise
        return Exported(heading["name"], heading["size"], _chunks(process, entered, name))

    async def _heading(self, process: "subprocess.Popen[bytes]", order: dict[str, Any], told: int) -> dict[str, Any]:
        assert process.stdin is not None
        await asyncio.to_thread(_give, process.stdin, json.dumps(order).encode())
        with os.fdopen(told, "rb") as pipe:
            line = await asyncio.to_thread(pipe.readline)
        if not line:
            log.error("an export of %s ended before its time", order["name"])
            raise errors.Unavailable("the file could not be written: the server's log says why")
        heading: dict[str, Any] = json.loads(line)
        if "refused" in heading:
            raise refused_from(heading["refused"])
        return heading

    def _order(self, name: str, folder: Path | None, staging: Path, mode: str) -> dict[str, Any]:
        uuid_ = None if folder is None else folder.name
        return {"data": str(self._data), "name": name, "uuid": uuid_, "staging": str(staging), "mode": mode}

    async def _run(
        self, process: "subprocess.Popen[bytes]", name: str, folder: Path | None, order: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Ends with the answer; raises what the child refused."""
        ended, foretold, real = False, None, False
        try:
            async for line in _lines(process, order):
                told = json.loads(line)
                ended = not told.keys().isdisjoint(("answer", "refused"))
                if "refused" in told:
                    raise refused_from(told["refused"])
                foretold = told.get("foretold", foretold)
                if "rows" in told or ended:
                    yield told.get("answer", told)
        finally:
            status = await _end(process)
            if not ended:
                staging = Path(order["staging"])
                real = await asyncio.to_thread(self._clean_up, name, folder, staging.name, foretold is not None)
        if not ended:
            log.error("an import into %s ended before its time: %s", name, exit_reason(status))
            if foretold is None or not real:
                raise errors.BadFile(
                    TOO_MUCH.format(exit_reason(status)), [Fault("the file", "was not read to its end")]
                )
            yield foretold

    def _clean_up(self, name: str, folder: Path | None, uuid_: str, foretold: bool) -> bool:
        """Sees to what a child that was killed has left. Whether its rows are there, where it had foretold that.

        Raises OutcomeUnknown; the next start does then what is left."""
        try:
            return settle_own(self._data, name, folder, uuid_)
        except (StorageError, OSError) as e:
            log.error("what an import into %s has staged stays until the next start: %s", name, e)
            if foretold:
                raise errors.OutcomeUnknown("the import was cut off at its end: it may be there or not") from e
            return False


def _key(once: Idempotency | None, body: str = "") -> tuple[str, str] | None:
    """body: its hash, where the request's is not of it yet."""
    return None if once is None else (once.key, once.request + body)


@asynccontextmanager
async def _reading(staging: Path) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """The child of an import. Nobody else sees to what it leaves, as long as this process is there to do it."""
    held = hold(staging)
    try:
        async with _child("app.reading_file", held) as process:
            yield process
    finally:
        os.close(held)


@asynccontextmanager
async def _child(module: str, *keep: int) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """Gone at the end, whatever it was doing."""
    process = start_child(module, keep=keep, piped=True)
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: "subprocess.Popen[bytes]") -> int:
    """Returns its exit status."""
    process.kill()  # nothing, where it has ended
    status = await asyncio.to_thread(process.wait)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    return status


async def _chunks(
    process: "subprocess.Popen[bytes]", entered: AsyncExitStack, name: str
) -> AsyncGenerator[bytes, None]:
    """What the child writes. Closing it ends the child."""
    async with entered:
        assert process.stdout is not None
        with suppress(OSError):  # a user may have so many pages in pipes, and no more
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        reader = asyncio.StreamReader(PIPE_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                yield chunk
        finally:
            transport.close()
        status = await asyncio.to_thread(process.wait)
        if status:
            log.error("an export of %s ended before its time: %s", name, exit_reason(status))
            raise errors.Unavailable("the file could not be written to its end")


async def _lines(process: "subprocess.Popen[bytes]", order: dict[str, Any]) -> AsyncIterator[bytes]:
    assert process.stdin is not None and process.stdout is not None
    await asyncio.to_thread(_give, process.stdin, json.dumps(order).encode())
    reader = asyncio.StreamReader(LINE_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    try:
        while line := await reader.readline():
            yield line
    finally:
        transport.close()


def _give(pipe: IO[bytes], order: bytes) -> None:
    try:
        with pipe:
            pipe.write(order)
    except BrokenPipeError:
        pass  # it has ended: its exit status says how


class Spool:
    """Files of one import as they come in, in the order in which they come."""

    def __init__(self, staging: Path) -> None:
        self._staging = staging
        self._hash = xxhash.xxh3_64()
        self._files: dict[str, list[Path]] = {"vectors": [], "ids": [], "metadata": []}
        self.bytes = 0

    async def take(self, upload: Upload) -> None:
        """Raises OSError: there is no room (some is left for others)."""
        files = self._files[upload.part]
        path = self._staging / f"{upload.part}-{len(files)}" / (_safe(upload.name) or upload.part)
        path.parent.mkdir()
        files.append(path)
        self._hash.update(f"{upload.part}\0{upload.name}\0".encode())
        with path.open("wb", buffering=0) as file:
            held: list[bytes] = []
            size = 0
            # One part is written while the next comes in.
            writing = asyncio.ensure_future(asyncio.sleep(0))
            try:
                async for chunk in upload.chunks:
                    held.append(chunk)
                    size += len(chunk)
                    if size >= WRITE_BYTES or len(held) >= WRITE_PARTS:
                        await writing
                        writing = asyncio.ensure_future(asyncio.to_thread(self._write, file, held, size))
                        held, size = [], 0
            finally:
                await writing
            await asyncio.to_thread(self._write, file, held, size)

    def _write(self, file: IO[bytes], held: list[bytes], size: int) -> None:
        require_room(self._staging, size)
        for chunk in held:
            self._hash.update(chunk)
        hit(SPOOL)
        written = os.writev(file.fileno(), held) if held else 0
        for chunk in held:
            # Rarely is it cut short, and then where the disk is full.
            rest = memoryview(chunk)[written:]
            written = max(0, written - len(chunk))
            while rest:
                rest = rest[file.write(rest) :]
        self.bytes += size

    def source(self, asked: ImportAsked) -> dict[str, Any]:
        """As `app/engine/sources.py` takes it. Raises Malformed."""
        if not self._files["vectors"] or not self.bytes:
            raise errors.Malformed("the body is empty: send a file (curl -T), or parts named vectors, ids and metadata")
        for part in ("ids", "metadata"):
            if len(self._files[part]) > 1:
                raise errors.Malformed(f"several parts are named {part}: one at most is taken")
        options = {k: getattr(asked, k) for k in ("vectors", "ids", "metadata", "dtype", "shape", "flatten")}
        return {
            "vectors": [str(path) for path in self._files["vectors"]],
            "ids": str(self._files["ids"][0]) if self._files["ids"] else None,
            "metadata": str(self._files["metadata"][0]) if self._files["metadata"] else None,
            "format": asked.format,
            "options": options,
        }

    def digest(self) -> str:
        return str(self._hash.hexdigest())


def _safe(name: str) -> str:
    """A client's name for a file, as one that can stand anywhere: its ending says what it is."""
    return SAFE.sub("_", os.path.basename(name))[-NAME_MAX:].lstrip(".-")
