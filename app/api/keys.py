"""The keys that let clients in: read from settings and files, and compared.

A key is known here by its SHA-256 alone. What a client presents is hashed and compared with every key there is, each in
constant time, so that how long an answer takes says nothing of a key.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hmac import compare_digest
from pathlib import Path
from typing import Literal

import msgspec

from app.settings import SettingError, Settings, flag, variable

Right = Literal["read", "write"]
_KEY = re.compile(r"[\x21-\x7e]{1,512}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PATTERN = re.compile(r"[a-z0-9_*?-]{1,63}")
FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """What its holder may do. collections: patterns of their names (`*` and `?`); None: all of them, and what belongs
    to none. rate: requests a second; 0: as many as can be served."""

    name: str
    writes: bool
    collections: tuple[str, ...] | None = None
    rate: float = 0.0
    digest: bytes = b""

    def reaches(self, collection: str) -> bool:
        """By the name that was asked for, be it a collection's or an alias's."""
        return self.collections is None or any(fnmatchcase(collection, pattern) for pattern in self.collections)


EVERYBODY = Key("everybody", writes=True)
"""Where no key is set."""


class Keyring:
    """The keys of a server. Without any, everybody may do everything."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def find(self, presented: bytes) -> Key | None:
        """The key that a client presents, or None where it is none of ours."""
        digest = hashlib.sha256(presented).digest()
        found = None
        for key in self.keys:  # all of them, whichever it is
            if compare_digest(digest, key.digest):
                found = key
        return found


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    rights: Right
    key: str | None = None
    sha256: str | None = None
    collections: list[str] | None = None
    rate: float | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[_Entry]


def load_keys(settings: Settings) -> Keyring:
    """All keys that the settings and the files they name give. Raises SettingError; a key never stands in its text."""
    rate = settings.key_rate
    keys = _single("api_key", settings.api_key, settings.api_key_file, rate)
    keys += _single("read_key", settings.read_key, settings.read_key_file, rate)
    if settings.keys_file is not None:
        keys += _listed(settings.keys_file, rate)
    if len({key.digest for key in keys}) < len(keys):
        raise SettingError("two keys are the same: what one of them may not do, the other might")
    return Keyring(keys)


def key_files(settings: Settings) -> list[Path]:
    """The files that `load_keys` reads."""
    return [path for path in (settings.api_key_file, settings.read_key_file, settings.keys_file) if path is not None]


def _single(name: str, given: str | None, path: Path | None, rate: float) -> list[Key]:
    if given is None and path is None:
        return []
    if given is not None and path is not None:
        raise SettingError(f"give {variable(name)} or {variable(name + '_file')}, not both")
    where, text = variable(name), given or ""
    if path is not None:
        where, text = f"{flag(name + '_file')} {path}", _text(path).strip()
    return [Key(name, name == "api_key", None, rate, _digest(where, text))]


def _digest(where: str, text: str) -> bytes:
    if _KEY.fullmatch(text) is None:
        raise SettingError(f"{where}: a key is 1 to 512 printable ASCII characters without blanks")
    return hashlib.sha256(text.encode("ascii")).digest()


def _listed(path: Path, rate: float) -> list[Key]:
    where = f"{flag('keys_file')} {path}"
    try:
        entries = msgspec.toml.decode(_text(path), type=_File).keys
    except msgspec.DecodeError as error:  # the place alone: the line might hold a key
        raise SettingError(f"{where} cannot be read: {_without_values(error)}") from None
    if not entries:  # or a file that was emptied by mistake would open the server to everybody
        raise SettingError(f"{where} holds no key")
    return [_from(entry, f"{where}, keys[{i}]", rate) for i, entry in enumerate(entries)]


def _without_values(error: msgspec.DecodeError) -> str:
    return str(error) if isinstance(error, msgspec.ValidationError) else "it is no TOML"


def _from(entry: _Entry, where: str, rate: float) -> Key:
    if (entry.key is None) == (entry.sha256 is None):
        raise SettingError(f"{where}: give exactly one of key and sha256")
    if entry.rate is not None and not 0 <= entry.rate <= 1e6:
        raise SettingError(f"{where}.rate: not in 0 … 1e6 requests/s")
    for pattern in entry.collections or ():
        if _PATTERN.fullmatch(pattern) is None:
            raise SettingError(f"{where}.collections: {pattern!r} is no name, also with * and ? in it")
    if entry.key is not None:
        digest = _digest(f"{where}.key", entry.key)
    elif entry.sha256 is None or _DIGEST.fullmatch(entry.sha256.lower()) is None:
        raise SettingError(f"{where}.sha256: not 64 hexadecimal digits")
    else:
        digest = bytes.fromhex(entry.sha256)
    patterns = None if entry.collections is None else tuple(entry.collections)
    return Key(entry.name, entry.rights == "write", patterns, rate if entry.rate is None else entry.rate, digest)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
        if len(data) > FILE_BYTES_MAX:
            raise SettingError(f"{path} is no file of keys: it has over {FILE_BYTES_MAX} bytes")
        return data.decode("utf-8")
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingError(f"{path} is no UTF-8") from None
