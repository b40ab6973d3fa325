"""Pages of the documentation as tests run them: their `sh` blocks in order in one shell, their answers compared.

A block that begins with ```sh is run; ```sh 409 says that its last request is refused so. The ```json block behind it
shows what it answers: one value after the other, in which … stands for whatever is there. ```console is not run.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

URL = "http://127.0.0.1:8080"
ANY = "…"
VARYING = {"took_ms", "p50_ms", "p95_ms", "p99_ms", "exact_p50_ms", "cost_us", "created", "bytes", "next", "instance"}
"""Fields whose values no two runs share: their types are compared."""
TIMEOUT_S = 120.0
OUTPUT_SHOWN = 2_000
"""Characters of an output in a failure."""

_FENCED = re.compile(r"^```(\w+) ?(\d*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_STRING_OR_REST = re.compile(r'"(?:[^"\\]|\\.)*"|…(?=\s*\})|…')
_SHELL = """set -euo pipefail
curl() { command curl -sS -w '%{stderr}%{http_code}\\n' ${KEY:+-H "authorization: Bearer $KEY"} "$@"; }
seedvec() { "$PYTHON" -m seedvec.cli "$@"; }
"""


@dataclass(frozen=True, slots=True)
class Block:
    """kind: what stands behind the fence; status: of the last request of a `sh` block; text: its lines; adjoins: only
    space is between it and the block before."""

    kind: str
    status: int
    text: str
    adjoins: bool = False


@dataclass(frozen=True, slots=True)
class Ran:
    """A `sh` block with what it printed, and the statuses of its requests, in their order."""

    block: Block
    output: str
    statuses: list[int]
    shown: Block | None
    """The block behind it, where that shows an answer."""


def blocks(page: str) -> list[Block]:
    found, end = [], 0
    for block in _FENCED.finditer(page):
        kind, status, text = block.groups()
        found.append(Block(kind, int(status or 0), text, not page[end : block.start()].strip()))
        end = block.end()
    return found


def run(page: str, url: str, folder: Path, environment: Mapping[str, str]) -> list[Ran]:
    """Every `sh` block of a page in one shell, in `folder`, with `url` for the page's own. KEY in the environment is
    borne by every request. AssertionError names the block that failed."""
    found = blocks(page)
    at = [i for i, block in enumerate(found) if block.kind == "sh"]
    assert at, "no block to run"
    logs = folder / ".logs"
    logs.mkdir()
    parts = [f"{{\n{found[i].text.replace(URL, url)}}} >'{logs}/{i}.out' 2>'{logs}/{i}.err' </dev/null\n" for i in at]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SEEDVEC_")}
    ended = subprocess.run(
        ["bash", "-c", _SHELL + "".join(parts)],
        cwd=folder,
        env=clean | {"PYTHON": sys.executable, "SEEDVEC_URL": url, "NO_PROXY": "*"} | dict(environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    ran = [i for i in at if (logs / f"{i}.err").exists()]
    if ended.returncode:
        said = (logs / f"{ran[-1]}.err").read_text() if ran else ended.stderr
        raise AssertionError(f"status {ended.returncode} of\n{found[ran[-1] if ran else at[0]].text}\n{said}")
    return [_ran(found, i, logs) for i in ran]


def _ran(found: list[Block], i: int, logs: Path) -> Ran:
    told = (logs / f"{i}.err").read_text().splitlines()
    statuses = [int(line) for line in told if re.fullmatch(r"\d{3}", line)]
    behind = found[i + 1] if i + 1 < len(found) else None
    shown = behind if behind is not None and behind.adjoins and behind.kind in ("json", "text") else None
    return Ran(found[i], (logs / f"{i}.out").read_text(errors="replace"), statuses, shown)


def assert_as_shown(ran: Ran, varying: Set[str] = VARYING) -> None:
    """Each request succeeded, or was refused as the page says, and answered what the page shows."""
    about = f"{ran.block.text}{ran.statuses} {ran.output[:OUTPUT_SHOWN]}"
    *before, last = ran.statuses or [ran.block.status or 200]
    assert all(200 <= status < 300 for status in before), about
    assert last == ran.block.status if ran.block.status else 200 <= last < 300, about
    if ran.shown is None:
        return
    if ran.shown.kind == "text":
        missing = set(ran.shown.text.splitlines()) - {ANY} - set(ran.output.splitlines())
        assert not missing, (missing, about)
        return
    shown, answered = list(values(as_json(ran.shown.text))), list(values(ran.output))
    assert len(shown) == len(answered), about
    for i, (one, other) in enumerate(zip(shown, answered, strict=True)):
        assert_like(one, other, f"answer {i + 1} of\n{ran.block.text}", varying)


def as_json(shown: str) -> str:
    """An answer with … in it as JSON: the text "…" where a value may stand, a pair of them in an object."""

    def written(found: re.Match[str]) -> str:
        text = found[0]
        if text != ANY:
            return text
        in_object = re.match(r"\s*\}", found.string[found.end() :])
        return f'"{ANY}": "{ANY}"' if in_object else f'"{ANY}"'

    return _STRING_OR_REST.sub(written, shown)


def values(text: str) -> Iterator[Any]:
    """The JSON values that stand one behind the other."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        yield value


def assert_like(shown: Any, answered: Any, where: str, varying: Set[str]) -> None:
    """varying: names of fields of which only the type is compared."""
    if shown == ANY:
        return
    if isinstance(shown, dict) and isinstance(answered, dict):
        names = set(shown) - {ANY}
        assert names <= set(answered) and (ANY in shown or names == set(answered)), (where, shown, answered)
        for name in names - varying:
            assert_like(shown[name], answered[name], f"{where}.{name}", varying)
        for name in names & varying:
            assert of_a_kind(shown[name], answered[name]), (where, name, shown, answered)
    elif isinstance(shown, list) and isinstance(answered, list):
        given = [value for value in shown if value != ANY]
        assert len(given) == len(answered) or (ANY in shown and len(given) <= len(answered)), (where, shown, answered)
        for i, (one, other) in enumerate(zip(given, answered, strict=False)):
            assert_like(one, other, f"{where}[{i}]", varying)
    else:
        assert shown == answered and of_a_kind(shown, answered), (where, shown, answered)


def of_a_kind(one: Any, other: Any) -> bool:
    """Numbers are, whole or not; true is none."""
    numbers = {int, float}
    return type(one) is type(other) or {type(one), type(other)} <= numbers
