"""The one settings table: the flags of `seedvec serve`, the environment variables and docs/settings.md come from it.

A flag wins over its environment variable, which wins over the default. The children of the supervisor get their
settings as environment variables (`Settings.environment`), so that all processes of a server agree.
"""

import argparse
import math
import socket
import types
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, get_type_hints

from app.granted import granted_cores, granted_memory

PREFIX = "SEEDVEC_"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
KEY_VARIABLES = ("API_KEY", "API_KEY_FILE", "READ_KEY", "READ_KEY_FILE")
OTHER_VARIABLES = frozenset({"FAILPOINTS", "URL", "PARENT"})
"""Variables with our prefix that are no setting of the server: not worth a warning."""


class SettingError(Exception):
    """A setting that cannot be taken; the text names the flag or variable and says what would do."""


@dataclass(frozen=True, slots=True)
class Option:
    """What the table says of one setting beside its name, type and default.

    low, high: the inclusive range of a number; unit: of a number, for people; default_text: where the default is
    computed; choices: all words that are taken.
    """

    help: str
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""
    default_text: str = ""
    choices: tuple[str, ...] = ()


def _setting(default: Any, help: str, **more: Any) -> Any:
    option = Option(help, **more)
    if callable(default):
        return field(default_factory=default, metadata={"option": option})
    return field(default=default, metadata={"option": option})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data: Path = _setting(Path("data"), "The data folder. It is made where it is absent.")
    host: str = _setting(
        "127.0.0.1", "The address to listen on. One that is not loopback is refused, unless `insecure` is set."
    )
    port: int = _setting(8080, "The TCP port to listen on; 0 takes a free one, which the log names.", low=0, high=65535)
    workers: int = _setting(
        granted_cores,
        "Worker processes that answer requests.",
        low=1,
        high=256,
        default_text="the cores granted by the affinity mask and the cgroup",
    )
    pending_rows: int = _setting(
        20_000,
        "Rows of one collection that may wait to be sealed into a segment. Sealing starts at a quarter of it; "
        "at the bound, writes wait, then answer 429.",
        low=4,
        high=10_000_000,
        unit="rows",
    )
    pending_bytes: int = _setting(
        32 * UNITS["MiB"],
        "The same bound in bytes of vectors. A single write above a quarter of either bound becomes a segment at once.",
        low=4096,
        high=64 * UNITS["GiB"],
        unit="bytes",
    )
    seal_quiet_s: float = _setting(
        2.0, "Pending rows are sealed after this long without a write.", low=0.01, high=3600.0, unit="seconds"
    )
    index_min_rows: int = _setting(
        5_000,
        "A segment with fewer rows gets no index of a kind asked for by name: it is searched exactly. `auto` goes by "
        "cost.",
        low=1,
        high=1_000_000_000,
        unit="rows",
    )
    keep_queries: int = _setting(
        1000,
        "Search vectors of late that each worker keeps of a collection (at most 16 MiB), in its folder, to measure "
        "what recall real queries get and to calibrate on them. 0: none, and those kept before are deleted.",
        low=0,
        high=100_000,
        unit="queries",
    )
    memory_bytes: int = _setting(
        granted_memory,
        "Memory that all processes of the server may use together. An index that could not be built or served in it is "
        "refused, and `auto` chooses by it; the page cache comes on top, and gives way.",
        low=UNITS["MiB"],
        high=1 << 49,
        unit="bytes",
        default_text="the least limit of the cgroups it runs in, else the machine's memory",
    )
    ballast_bytes: int = _setting(
        8 * UNITS["MiB"],
        "Room kept back on the disk (DATA/ballast) and given up when it is full, so that deletes and drops go on; "
        "until there is room for it twice, whatever only adds is answered with 507. 0: none.",
        low=0,
        high=UNITS["GiB"],
        unit="bytes",
    )
    drain_s: float = _setting(
        8.0,
        "After SIGTERM, requests that are being answered have this long to finish; what is left is cut off.",
        low=0.0,
        high=3600.0,
        unit="seconds",
    )
    log_level: str = _setting(
        "info", "How much the server logs (to stderr).", choices=("debug", "info", "warning", "error")
    )
    insecure: bool = _setting(
        False,
        "Listen on an address that is not loopback although no key protects the server. "
        "For use behind an authenticating proxy, or in a container whose port is published on loopback only.",
    )

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, which `load` reads back to an equal object."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {variable(name): ("1" if v else "0") if isinstance(v, bool) else str(v) for name, v in values}


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def option(f: "Field[Any]") -> Option:
    """The table's entry of one field of `Settings`."""
    entry: Option = f.metadata["option"]
    return entry


def _types() -> dict[str, Any]:
    return get_type_hints(Settings)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser one flag for each setting. A flag that is not given leaves the namespace without its name."""
    kinds = _types()
    for f in fields(Settings):
        entry = option(f)
        about = entry.help.replace("%", "%%") + f" [{variable(f.name)}; default: {default_text(f)}]"
        shape: dict[str, Any] = {"dest": f.name, "default": argparse.SUPPRESS, "help": about}
        if kinds[f.name] is bool:
            parser.add_argument(flag(f.name), action="store_const", const="1", **shape)
        else:
            parser.add_argument(flag(f.name), metavar=entry.unit.upper() or f.name.upper(), **shape)


def default_text(f: "Field[Any]") -> str:
    """The default as people read it."""
    entry = option(f)
    if entry.default_text:
        return entry.default_text
    if isinstance(f.default, bool):
        return "on" if f.default else "off"
    return str(f.default)


def load(given: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """The settings that flags (name → text) and environment give. Raises SettingError."""
    kinds = _types()
    values: dict[str, Any] = {}
    for f in fields(Settings):
        if f.name in given:
            values[f.name] = _parse(flag(f.name), given[f.name], kinds[f.name], option(f))
        elif variable(f.name) in environ:
            values[f.name] = _parse(variable(f.name), environ[variable(f.name)], kinds[f.name], option(f))
    return Settings(**values)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that nothing reads, most likely misspelt."""
    known = {variable(f.name) for f in fields(Settings)}
    known |= {PREFIX + name for name in (*OTHER_VARIABLES, *KEY_VARIABLES)}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def _parse(where: str, text: str, kind: type | types.UnionType, entry: Option) -> Any:
    if kind is bool:
        if text.lower() not in ("0", "1", "false", "true", "no", "yes", "off", "on"):
            raise SettingError(f"{where}: {text!r} is neither 1 nor 0")
        return text.lower() in ("1", "true", "yes", "on")
    if kind is int or kind is float:
        return _parse_number(where, text, kind, entry)
    if entry.choices and text not in entry.choices:
        raise SettingError(f"{where}: {text!r} is none of {', '.join(entry.choices)}")
    if not text:
        raise SettingError(f"{where} is empty")
    return Path(text) if kind is Path else text


def _parse_number(where: str, text: str, kind: type[int] | type[float], entry: Option) -> int | float:
    digits, factor = text, 1
    for suffix, size in UNITS.items():
        if entry.unit == "bytes" and text.endswith(suffix):
            digits, factor = text.removesuffix(suffix), size
    try:
        value = kind(digits) * factor
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise SettingError(f"{where}: {text!r} is not {what}") from None
    if not entry.low <= value <= entry.high:  # false for NaN too
        raise SettingError(f"{where}: {text} is not in {entry.low:g} … {entry.high:g} {entry.unit}".rstrip())
    return value


def refuse_keys(environ: Mapping[str, str]) -> None:
    """Raises SettingError where a key is set: this version would not check it, and must not look as if it did."""
    for name in KEY_VARIABLES:
        if PREFIX + name in environ:
            raise SettingError(
                f"{PREFIX}{name} is set, but this version checks no keys yet: everybody who reaches the port could "
                "read and write. Unset it, and listen on loopback (or use --insecure behind an authenticating proxy)"
            )


def listening_address(settings: Settings) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Family and address to bind. Raises SettingError where the host cannot be resolved or is open to others."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingError(f"--host {settings.host}: {error.strerror}") from None
    family, _, _, _, address = found[0]
    # The resolved address is looked at, not the name: "localhost" may be anything in /etc/hosts.
    if not settings.insecure and not ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise SettingError(
            f"refusing to bind {settings.host} without a key: set {PREFIX}API_KEY, or --insecure behind an "
            "authenticating proxy"
        )
    return family, address
