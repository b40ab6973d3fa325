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
from typing import Any, get_args, get_type_hints

from app.granted import granted_cores, granted_memory

PREFIX = "SEEDVEC_"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
OTHER_VARIABLES = frozenset({"FAILPOINTS", "URL", "PARENT", "METRICS"})
"""Variables with our prefix that are no setting of the server: not worth a warning."""


class SettingError(Exception):
    """A setting that cannot be taken; the text names the flag or variable and says what would do."""


@dataclass(frozen=True, slots=True)
class Option:
    """What the table says of one setting beside its name, type and default.

    low, high: the inclusive range of a number; unit: of a number, for people; default_text: where the default is
    computed; choices: all words that are taken; secret: it is taken from the environment alone (a command line can be
    read by every user of the machine), and never shown.
    """

    help: str
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""
    default_text: str = ""
    choices: tuple[str, ...] = ()
    secret: bool = False


def _setting(default: Any, help: str, **more: Any) -> Any:
    option = Option(help, **more)
    if callable(default):
        return field(default_factory=default, metadata={"option": option})
    return field(default=default, repr=not option.secret, metadata={"option": option})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data: Path = _setting(Path("data"), "The data folder. It is made where it is absent.")
    host: str = _setting(
        "127.0.0.1",
        "The address to listen on. One that is not loopback is refused without a key, unless `insecure` is set.",
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
        7.0,
        "After SIGTERM, requests that are being answered have this long to finish; what is left is cut off.",
        low=0.0,
        high=3600.0,
        unit="seconds",
    )
    log_level: str = _setting(
        "info", "How much the server logs (to stderr).", choices=("debug", "info", "warning", "error")
    )
    log_format: str = _setting("human", "Lines for people, or one JSON object a line.", choices=("human", "json"))
    access_log: bool = _setting(False, "Log every request: method, path, status, time, client.")
    slow_ms: float = _setting(
        1000.0,
        "A search, list or count that takes longer is logged: route, collection, k, the filter without its values, "
        "the time of each stage. 0: none.",
        low=0.0,
        high=3_600_000.0,
        unit="ms",
    )
    insecure: bool = _setting(
        False,
        "Listen on an address that is not loopback although no key protects the server. "
        "For use behind an authenticating proxy, or in a container whose port is published on loopback only.",
    )
    api_key: str | None = _setting(None, "A key that reads and writes everything (docs/security.md).", secret=True)
    api_key_file: Path | None = _setting(None, "A file that holds that key instead.")
    read_key: str | None = _setting(None, "A key that reads everything.", secret=True)
    read_key_file: Path | None = _setting(None, "A file that holds that key instead.")
    keys_file: Path | None = _setting(
        None, "Further keys, each with its rights and, where wanted, its collections and its rate: a TOML file."
    )
    key_rate: float = _setting(
        0.0,
        "Requests that one key may make in all workers together, on average; twice that at once. Beyond it: 429. "
        "A key of `keys_file` may have a rate of its own. 0: as many as can be served.",
        low=0.0,
        high=1e6,
        unit="requests/s",
    )
    tls_cert: Path | None = _setting(None, "The certificate chain (PEM) with which the port speaks TLS, and only TLS.")
    tls_key: Path | None = _setting(None, "Its private key (PEM), where it is not in the same file.")
    connections: int = _setting(
        10_000,
        "Connections open at once, in all workers together. For one more the one that is idle longest is closed; where "
        "none is idle, only `/livez` and `/readyz` are answered on it.",
        low=1,
        high=1_000_000,
        unit="connections",
    )
    header_s: float = _setting(
        10.0, "A request's head has to be complete after this long: 408.", low=0.1, high=3600.0, unit="seconds"
    )
    body_s: float = _setting(
        30.0,
        "A body has to come in at 1 KiB a second or faster, after this long at the latest: 408. Who takes nothing of "
        "an answer for as long is cut off.",
        low=0.1,
        high=3600.0,
        unit="seconds",
    )
    keep_alive_s: float = _setting(
        75.0, "A connection without a request is closed after this long.", low=0.1, high=86_400.0, unit="seconds"
    )
    queue_s: float = _setting(
        0.1,
        "Where more than 64 requests have come to a worker at once, those that it has not begun after this long are "
        "answered with 503.",
        low=0.001,
        high=60.0,
        unit="seconds",
    )
    search_queue_s: float = _setting(
        2.0,
        "Searches too dear for the event loop wait for the one thread of a worker that runs them. Where those that "
        "wait will take longer than this, one more is answered with 503.",
        low=0.0,
        high=3600.0,
        unit="seconds",
    )
    search_timeout_s: float = _setting(
        60.0,
        "A search that gives no `timeout_ms` is answered with 504 after this long, and not begun where it has waited "
        "so long.",
        low=0.001,
        high=86_400.0,
        unit="seconds",
    )
    writes_waiting: int = _setting(
        1_000,
        "Writes that wait in one worker for one collection. One more is answered with 429.",
        low=1,
        high=1_000_000,
        unit="writes",
    )
    bodies_bytes: int = _setting(
        512 * UNITS["MiB"],
        "Bodies above 64 KiB that one worker holds at once. Where one more would pass that, it is answered with 503; "
        "a single one is always taken.",
        low=UNITS["MiB"],
        high=1 << 49,
        unit="bytes",
    )
    unready_s: float = _setting(
        0.0,
        "After SIGTERM, `/readyz` answers 503 for this long while everything else goes on, so that a load balancer "
        "sends its requests elsewhere; only then is the port closed, and `drain_s` begins.",
        low=0.0,
        high=3600.0,
        unit="seconds",
    )
    k_max: int = _setting(10_000, "Neighbours that one query may ask for.", low=10, high=1_000_000)
    queries_max: int = _setting(10_000, "Queries of one request.", low=1, high=10_000_000)
    queries_json_max: int = _setting(1_000, "Queries of one request in JSON.", low=1, high=1_000_000)
    hits_max: int = _setting(
        1_000_000,
        "Queries × k of one request: the answer of a larger one would not fit a worker's memory beside its neighbours.",
        low=1,
        high=100_000_000,
    )
    list_max: int = _setting(10_000, "Items of one page.", low=100, high=1_000_000)
    ids_max: int = _setting(10_000, "Ids of one fetch, delete or patch.", low=1, high=1_000_000)
    items_max: int = _setting(100_000, "Items of one add or upsert.", low=1, high=10_000_000)
    json_body_bytes: int = _setting(
        64 * UNITS["MiB"], "A JSON body.", low=UNITS["KiB"], high=4 * UNITS["GiB"], unit="bytes"
    )
    npy_body_bytes: int = _setting(
        256 * UNITS["MiB"], "A `.npy` body.", low=UNITS["KiB"], high=64 * UNITS["GiB"], unit="bytes"
    )

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, which `load` reads back to an equal object."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        texts = {name: ("1" if v else "0") if isinstance(v, bool) else str(v) for name, v in values if v is not None}
        return {variable(name): text for name, text in texts.items()}


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
    """Of a setting that may be None, what it is where it is not."""
    hints = get_type_hints(Settings)
    return {name: get_args(kind)[0] if isinstance(kind, types.UnionType) else kind for name, kind in hints.items()}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser one flag for each setting. A flag that is not given leaves the namespace without its name."""
    kinds = _types()
    for f in fields(Settings):
        entry = option(f)
        if entry.secret:
            continue
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
    if f.default is None:
        return "none"
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
    settings = Settings(**values)
    if settings.tls_key is not None and settings.tls_cert is None:
        raise SettingError(f"{flag('tls_key')} is given without {flag('tls_cert')}")
    return settings


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that nothing reads, most likely misspelt."""
    known = {variable(f.name) for f in fields(Settings)} | {PREFIX + name for name in OTHER_VARIABLES}
    return sorted(name for name in environ if name.startswith(PREFIX) and name not in known)


def _parse(where: str, text: str, kind: type, entry: Option) -> Any:
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


def listening_address(settings: Settings, *, has_key: bool) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """Family and address to bind. Raises SettingError where the host cannot be resolved, or is open to others without
    a key."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingError(f"--host {settings.host}: {error.strerror}") from None
    family, _, _, _, address = found[0]
    # The resolved address is looked at, not the name: "localhost" may be anything in /etc/hosts.
    if not has_key and not settings.insecure and not ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise SettingError(
            f"refusing to bind {settings.host} without a key: set {PREFIX}API_KEY, or --insecure behind an "
            "authenticating proxy"
        )
    return family, address
