"""Keys: read from settings and files, compared as digests, held to their rights, collections and rates."""

import asyncio
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.bodies import Room
from app.api.gate import OPEN, Gate, presented_key
from app.api.keys import EVERYBODY, Key, Keyring, load_keys
from app.api.rates import BURST_S, Rates, shared_memory
from app.api.refusals import Forbidden
from app.api.rights import KEY, require
from app.settings import SettingError, load

DIGEST = hashlib.sha256(b"third").hexdigest()
FILE = f"""
[[keys]]
name = "reports"
key = "second"
rights = "read"
collections = ["public-*", "news"]

[[keys]]
name = "loader"
sha256 = "{DIGEST}"
rights = "write"
rate = 5
"""


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_all_sources_together(tmp_path: Path) -> None:
    given = {"read_key_file": write(tmp_path / "r", "peek\n"), "keys_file": write(tmp_path / "k", FILE)}
    keys = load_keys(load(given, {"SEEDVEC_API_KEY": "sesame"}))
    found = {text: keys.find(text.encode()) for text in ("sesame", "peek", "second", "third", "sesam", "")}
    assert {text: key and (key.name, key.writes, key.rate) for text, key in found.items()} == {
        "sesame": ("api_key", True, 0.0),
        "peek": ("read_key", False, 0.0),
        "second": ("reports", False, 0.0),
        "third": ("loader", True, 5.0),
        "sesam": None,
        "": None,
    }
    reports = found["second"]
    assert reports is not None
    reached = [name for name in ("public-1", "news", "public", "newsroom", "private") if reports.reaches(name)]
    assert reached == ["public-1", "news"]


def test_without_keys_everybody_may_everything() -> None:
    assert not load_keys(load({}, {}))
    require({"type": "http"}, "write", None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[keys]]\nname = 'a'\nkey = 'secret' x", "it is no TOML"),
        ("[[keys]]\nname = 'a'\nkey = 'secret'\nrights = 'all'", "Invalid enum value"),
        ("keys = []", "holds no key"),
        ("[[keys]]\nname = 'a'\nrights = 'read'", "exactly one of key and sha256"),
        ("[[keys]]\nname = 'a'\nrights = 'read'\nkey = 'secret'\nsha256 = 'x'", "exactly one of key and sha256"),
        ("[[keys]]\nname = 'a'\nrights = 'read'\nsha256 = 'secret'", "not 64 hexadecimal digits"),
        ("[[keys]]\nname = 'a'\nrights = 'read'\nkey = 'se cret'", "without blanks"),
        ("[[keys]]\nname = 'a'\nrights = 'read'\nkey = 'secret'\ncollections = ['../x']", "is no name"),
        ("[[keys]]\nname = 'a'\nrights = 'read'\nkey = 'secret'\nrate = -1", "not in 0"),
        ("[[keys]]\nname = 'a'\nrights = 'read'\nkey = 'secret'\nadmin = true", "unknown field `admin`"),
    ],
)
def test_a_file_that_is_wrong_is_refused_without_its_secrets(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingError) as refused:
        load_keys(load({"keys_file": write(tmp_path / "k", text)}, {}))
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "environ", "words"),
    [
        ({"api_key_file": "/nowhere/at/all"}, {}, "cannot be read: No such file"),
        ({"api_key_file": "/dev/null"}, {}, "a key is 1 to 512 printable"),
        ({"api_key_file": "/dev/null"}, {"SEEDVEC_API_KEY": "x"}, "give SEEDVEC_API_KEY or SEEDVEC_API_KEY_FILE"),
        ({}, {"SEEDVEC_API_KEY": "same", "SEEDVEC_READ_KEY": "same"}, "two keys are the same"),
        ({}, {"SEEDVEC_API_KEY": "with blank"}, "without blanks"),
    ],
)
def test_keys_that_are_refused(given: dict[str, str], environ: dict[str, str], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        load_keys(load(given, environ))


def test_where_a_request_has_its_key() -> None:
    def asked(*headers: tuple[bytes, bytes]) -> bytes | None:
        return presented_key({"headers": list(headers)})

    assert asked((b"authorization", b"Bearer abc")) == b"abc"
    assert asked((b"authorization", b"bearer  abc ")) == b"abc"
    assert asked((b"authorization", b"Basic abc")) is None
    assert asked((b"authorization", b"Basic x"), (b"api-key", b"abc")) == b"abc"
    assert asked() is None


READS = Key("r", writes=False)
MINE = Key("m", writes=True, collections=("mine-*",))


@pytest.mark.parametrize(
    ("key", "rights", "collection", "may"),
    [
        (READS, "read", "any", True),
        (READS, "read", None, True),
        (READS, "any", None, True),
        (READS, "write", "any", False),
        (READS, "write", None, False),
        (MINE, "write", "mine-1", True),
        (MINE, "read", "mine-1", True),
        (MINE, "read", "yours", False),
        (MINE, "write", None, False),
        (MINE, "read", None, False),
        (MINE, "any", None, True),
        (EVERYBODY, "write", None, True),
    ],
)
def test_rights(key: Key, rights: str, collection: str | None, may: bool) -> None:
    scope: Scope = {KEY: key}
    if may:
        require(scope, rights, collection)  # type: ignore[arg-type]
        return
    with pytest.raises(Forbidden):
        require(scope, rights, collection)  # type: ignore[arg-type]


# ---------------------------------------------------------------- rates


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = shared_memory()
    yield descriptor
    os.close(descriptor)


def test_all_workers_share_a_keys_budget(memory: int) -> None:
    key = Key("k", writes=True, rate=10.0, digest=b"ab" + bytes(30))
    workers = [Rates(memory), Rates(memory)]
    begun = time.monotonic()
    passed = sum(workers[n % 2].wait_s(key) == 0.0 for n in range(200))
    elapsed = time.monotonic() - begun
    assert 1 + 10 * BURST_S <= passed <= 2 + 10 * (BURST_S + elapsed)
    wait_s = workers[0].wait_s(key)
    assert 0 < wait_s <= 0.1
    other = Key("o", writes=True, rate=10.0, digest=b"cd" + bytes(30))
    assert workers[1].wait_s(other) == 0.0
    time.sleep(wait_s)
    assert workers[1].wait_s(key) == 0.0


# ---------------------------------------------------------------- the gate


async def served(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def ask(gate: Gate, path: str, *headers: tuple[bytes, bytes]) -> tuple[int, dict[bytes, bytes]]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("the gate reads no body")

    await gate({"type": "http", "path": path, "method": "GET", "headers": list(headers)}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def test_the_gate(memory: int) -> None:
    slow = Key("s", writes=True, rate=1.0, digest=hashlib.sha256(b"slow").digest())
    gate = Gate(served, Keyring([slow]), Rates(memory), Room(1), 10.0)

    async def talk() -> None:
        for path in (*OPEN, "/problems/forbidden"):
            assert (await ask(gate, path))[0] == 200
        status, headers = await ask(gate, "/v1")
        assert status == 401 and headers[b"www-authenticate"].startswith(b"Bearer")
        assert (await ask(gate, "/v1", (b"api-key", b"wrong")))[0] == 401
        # A burst of two seconds, and the one that begins it.
        statuses = [(await ask(gate, "/v1", (b"api-key", b"slow")))[0] for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        status, headers = await ask(gate, "/v1", (b"authorization", b"Bearer slow"))
        assert (status, headers[b"retry-after"]) == (429, b"1")

    asyncio.run(talk())


def test_what_a_turn_does_not_come_to_is_refused(memory: int) -> None:
    """A hundred requests at once, each of which takes a hundredth of what may be waited for all of them."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        end = time.monotonic() + 0.002
        while time.monotonic() < end:
            pass
        await served(scope, receive, send)

    gate = Gate(slow, Keyring(), None, Room(1), 0.15)

    async def talk() -> None:
        answers = await asyncio.gather(*(ask(gate, "/v1") for _ in range(200)))
        statuses = [status for status, _ in answers]
        accepted = statuses.index(503)
        assert 64 <= accepted <= 80 and set(statuses[accepted:]) == {503}
        assert answers[-1][1][b"retry-after"] == b"1"
        # The next turn begins anew, and few are never refused.
        assert [status for status, _ in await asyncio.gather(*(ask(gate, "/v1") for _ in range(64)))] == [200] * 64

    asyncio.run(talk())
